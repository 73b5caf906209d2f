// The broker on SQLite keeps what broker.ts promises, and what it was given, whatever ends its process; and it says
// what is wrong with a file.

import { afterAll, afterEach, describe, expect, setSystemTime, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sqlite, type SqliteOptions } from "harpia/sqlite";
import { type Broker, BrokerError, type Position } from "../../src/broker/broker.js";
import { SqliteFile } from "../../src/broker/sqlite-file.js";
import { SqliteLog } from "../../src/broker/sqlite-log.js";
import { conformance, listen, poll, readAll } from "./conformance.js";

const HOUR = { size: 1_000_000, ttl: 3600 };
const CHILD = join(import.meta.dir, "sqlite-child.ts");

const folder = mkdtempSync(join(tmpdir(), "harpia-sqlite-"));
const opened = new Set<Broker>();
let files = 0;
const newPath = (): string => join(folder, `${files++}.db`);

const paths = new WeakMap<Broker, string>();
const open = (path = newPath(), options: SqliteOptions = {}): Broker => {
  const broker = sqlite(path, options);
  opened.add(broker);
  paths.set(broker, path);
  return broker;
};
const reopen = async (broker: Broker): Promise<Broker> => {
  await broker.close();
  return open(paths.get(broker));
};

afterEach(async () => {
  setSystemTime();
  for (const broker of opened) await broker.close();
  opened.clear();
});
afterAll(() => rmSync(folder, { recursive: true }));

conformance("sqlite", () => open(), { reopen });

describe("sqlite: whatever ends the process", () => {
  test("kill -9 at any moment loses nothing that was acknowledged, and gives no offset twice", async () => {
    const path = newPath();
    const acknowledged = new Map<string, { epoch: string; offset: number; id: string }[]>();
    const stored = new Map<string, string[]>();
    for (let round = 0; round < 12; round++) {
      for (const line of await killed(path, 20 + Math.random() * 150)) {
        const { topic, position, id } = JSON.parse(line) as {
          topic: string;
          position: Position;
          id: string;
        };
        acknowledged.set(topic, [...(acknowledged.get(topic) ?? []), { ...position, id }]);
      }
      const broker = open(path);
      for (const [topic, all] of acknowledged) {
        const ids = (await readAll(broker, topic)).map(
          (payload) => (JSON.parse(payload) as { id: string }).id,
        );
        // What an earlier round has seen at an offset is there still, acknowledged or not.
        const before = stored.get(topic) ?? [];
        expect(ids.slice(0, before.length)).toEqual(before);
        stored.set(topic, ids);
        expect(new Set(ids).size).toBe(ids.length);
        const [{ epoch, offset }] = (await broker.positions([topic])) as [Position];
        expect(offset).toBe(ids.length);
        expect([...new Set(all.map((each) => each.epoch))]).toEqual([epoch]);
        expect(all.filter((each) => ids[each.offset - 1] !== each.id)).toEqual([]);
        const { id, ...position } = all.at(-1)!;
        expect(await broker.publish(topic, "again", { history: HOUR, idempotencyKey: id })).toEqual(position);
      }
      await broker.close();
    }
    expect([...acknowledged.values()].flat().length).toBeGreaterThan(100);
  }, 60_000);

  test("a write-ahead log cut anywhere after an acknowledgement has all that was acknowledged, and no more than was sent", async () => {
    const path = newPath();
    const broker = open(path);
    const marks: { bytes: number; offset: number }[] = [];
    const { size } = await Bun.file(`${path}-wal`).stat();
    for (let i = 1; i <= 40; i++) {
      await broker.publish("t", "x".repeat(i * 50), { history: HOUR });
      marks.push({ bytes: (await Bun.file(`${path}-wal`).stat()).size, offset: i });
    }
    const [position] = await broker.positions(["t"]);
    // By another process: closing the file in this one would drop the broker's lock on it.
    const copy = (to: string): void =>
      expect(
        Bun.spawnSync(["sh", "-c", `cp "$1" "$3" && cp "$2" "$3-wal"`, "sh", path, `${path}-wal`, to])
          .exitCode,
      ).toBe(0);
    const newest = marks.at(-1)!.bytes;
    for (let cut = 0; cut < 25; cut++) {
      const bytes = Math.floor(size + Math.random() * (newest - size));
      const to = newPath();
      copy(to);
      truncateSync(`${to}-wal`, bytes);
      const again = open(to);
      const acknowledged = marks.findLast((mark) => mark.bytes <= bytes)?.offset ?? 0;
      const payloads = await readAll(again, "t");
      expect(payloads.length).toBeGreaterThanOrEqual(acknowledged);
      expect(payloads).toEqual(payloads.map((_, index) => "x".repeat((index + 1) * 50)));
      const [after] = await again.positions(["t"]);
      expect(after!.offset).toBe(payloads.length);
      // The epoch of an empty file is new where the cut took the file's beginning, too.
      if (payloads.length > 0) expect(after!.epoch).toBe(position!.epoch);
      await again.close();
    }
  }, 30_000);

  test("with `synchronous: normal` a start after kill -9 begins new epochs, and the log can still be read", async () => {
    const path = newPath();
    const lines = await killed(path, 200, "normal");
    const { topic, position } = JSON.parse(lines.at(-1)!) as { topic: string; position: Position };
    // Whatever the next start asks for.
    const broker = open(path);
    const [after] = await broker.positions([topic]);
    expect(after!.epoch).not.toBe(position.epoch);
    expect((await broker.positions(["quiet"]))[0]!.epoch).not.toBe(position.epoch);
    expect((await broker.read(topic, { after: position }, { messages: 1, bytes: 1 })).recovered).toBe(false);
    expect((await readAll(broker, topic)).length).toBe(after!.offset);
    expect(await (await reopen(broker)).positions([topic])).toEqual([after!]);
  }, 30_000);

  test("with `synchronous: normal` a clean stop goes on in the same epoch", async () => {
    const path = newPath();
    let broker = open(path, { synchronous: "normal" });
    const position = await broker.publish("t", "x", { history: HOUR });
    for (const synchronous of ["normal", "full", "normal"] as const) {
      await broker.close();
      broker = open(path, { synchronous });
      expect(await broker.positions(["t"])).toEqual([position!]);
    }
  });
});

describe("sqlite: one process holds the file", () => {
  test("a second broker in the same process is refused, and the first goes on", async () => {
    const path = newPath();
    const broker = open(path);
    await broker.publish("t", "1", { history: HOUR });
    expectError(
      refusal(() => open(path)),
      "BROKER_LOCKED",
      path,
    );
    expect((await broker.publish("t", "2", { history: HOUR }))!.offset).toBe(2);
    expect(refusal(() => open(path)).code).toBe("BROKER_LOCKED");
  });

  test("another process is refused; the file is free when that one is closed or killed", async () => {
    const path = newPath();
    await using holder = Bun.spawn([process.execPath, CHILD, "hold", path], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    await holder.stdout.getReader().read();
    expectError(
      refusal(() => open(path)),
      "BROKER_LOCKED",
      path,
    );
    holder.kill("SIGKILL");
    await holder.exited;
    await open(path).close();
    await open(path).close();
  }, 30_000);
});

describe("sqlite: a file that cannot be used is refused, and left as it is", () => {
  test("read-only", async () => {
    const sealed = join(folder, "sealed");
    mkdirSync(sealed);
    const path = join(sealed, "chat.db");
    await open(path).close();
    const before = readFileSync(path);
    chmodSync(folder, 0o755);
    chmodSync(path, 0o444);
    chmodSync(sealed, 0o555);
    // Root may write anywhere: another user then.
    const script = `
      const { sqlite } = await import(${JSON.stringify(import.meta.resolve("harpia/sqlite"))});
      if (process.getuid() === 0) process.setuid(65534);
      for (const path of ${JSON.stringify([path, join(sealed, "new.db"), join(sealed, "deeper/new.db")])})
        try { sqlite(path); console.log("opened"); } catch (error) { console.log(error.code, error.message.includes(path)); }`;
    const child = Bun.spawnSync([process.execPath, "-e", script]);
    expect(child.stdout.toString().trim().split("\n")).toEqual(Array(3).fill("BROKER_READ_ONLY true"));
    expect(readFileSync(path)).toEqual(before);
    chmodSync(sealed, 0o755);
  });

  test("another schema version, and another program's database", () => {
    const other = newPath();
    const db = new Database(other);
    db.run("CREATE TABLE users (name TEXT)");
    db.close(true);
    expectError(
      refusal(() => open(other)),
      "BROKER_SCHEMA",
      other,
    );

    const newer = newPath();
    new SqliteFile(newer, {}).close();
    const changed = new Database(newer);
    changed.run("PRAGMA user_version = 7");
    changed.close(true);
    const before = readFileSync(newer);
    expectError(
      refusal(() => open(newer)),
      "BROKER_SCHEMA",
      "schema version 7",
    );
    expect(readFileSync(newer)).toEqual(before);
  });

  test("corrupt: no database at all, cut to nothing beside its log, or damaged within", async () => {
    const text = newPath();
    await Bun.write(text, "This is no database. ".repeat(500));
    expectError(
      refusal(() => open(text)),
      "BROKER_CORRUPT",
      text,
    );
    expect(await Bun.file(text).text()).toStartWith("This is no database.");

    const cut = newPath();
    await killed(cut, 100);
    truncateSync(cut);
    expectError(
      refusal(() => open(cut)),
      "BROKER_CORRUPT",
      `${cut}-wal`,
    );
    expect((await Bun.file(`${cut}-wal`).stat()).size).toBeGreaterThan(0);

    const damaged = newPath();
    const broker = open(damaged);
    for (let i = 0; i < 200; i++) await broker.publish("t", "x".repeat(1000), { history: HOUR });
    await broker.close();
    const bytes = readFileSync(damaged);
    bytes.fill(0xa5, 4096 * 3);
    await Bun.write(damaged, bytes);
    const hurt = open(damaged);
    const failures = [
      () => hurt.read("t", { last: 200 }, { messages: 200, bytes: 1e9 }),
      () => hurt.publish("t", "x", { history: HOUR }),
    ];
    for (const act of failures)
      expectError(await act().catch((error: unknown) => error), "BROKER_CORRUPT", damaged);
    expect(hurt.health().ok).toBe(false);
    expect(hurt.health().reason).toContain(damaged);
  });

  test("a path that is none", () => {
    const refused = (path: unknown, options: unknown = {}): string =>
      refusal(() => sqlite(path as string, options as SqliteOptions)).code;
    mkdirSync(join(folder, "directory"));
    for (const path of ["", ":memory:", "a\0b", undefined, 7, join(folder, "directory")])
      expect([path, refused(path)]).toEqual([path, "BROKER_INVALID_OPTION"]);
    const path = newPath();
    for (const options of [
      { synchronous: "off" },
      { maxBytes: 0 },
      { maxBytes: "1GB" },
      { maxBytes: NaN },
      { sync: "full" },
    ])
      expect([options, refused(path, options)]).toEqual([options, "BROKER_INVALID_OPTION"]);
    expect(existsSync(path)).toBe(false);
  });

  test("a folder that is missing is made; one that cannot be is refused", async () => {
    const path = join(folder, "made/for/it/chat.db");
    await open(path).close();
    expect(existsSync(path)).toBe(true);
    const under = join(path, "chat.db");
    expectError(
      refusal(() => open(under)),
      "BROKER_UNAVAILABLE",
      under,
    );
  });
});

describe("sqlite: a full file", () => {
  test("rejects the whole batch, stores and delivers none of it, and goes on once there is room", async () => {
    const path = newPath();
    const broker = open(path, { maxBytes: 400_000 });
    const heard = await listen(broker, "t");
    // Gone soon, so that there is room again.
    await broker.publish("other", "x".repeat(150_000), { history: { size: 1, ttl: 1 } });
    let newest = 0;
    let failure: PromiseSettledResult<Position | undefined>[] | undefined;
    while (failure === undefined) {
      const batch = [1, 2, 3].map(() => broker.publish("t", "x".repeat(5_000), { history: HOUR }));
      const results = await Promise.allSettled(batch);
      if (results.every(({ status }) => status === "fulfilled")) newest += 3;
      else failure = results;
    }
    expect(newest).toBeGreaterThan(10);
    for (const result of failure)
      expectError(result.status === "rejected" && result.reason, "BROKER_FULL", path);
    expect(broker.health().ok).toBe(false);
    expect(broker.health().reason).toContain(path);
    expect((await broker.positions(["t"]))[0]!.offset).toBe(newest);
    expect(heard.all.length).toBe(newest);
    expect((await readAll(broker, "t")).length).toBe(newest);

    const again = (): Promise<Position | undefined> =>
      broker.publish("t", "x".repeat(5_000), { history: HOUR }).catch(() => undefined);
    let position: Position | undefined;
    await poll(async () => (position = await again()) !== undefined);
    expect(position!.offset).toBe(newest + 1);
    expect(broker.health()).toEqual({ ok: true });
    await heard.until(newest + 1);
    expect(heard.offsets).toEqual(Array.from({ length: newest + 1 }, (_, i) => i + 1));
    expect((await (await reopen(broker)).positions(["t"]))[0]).toEqual(position!);
  }, 30_000);
});

describe("sqlite: time and room", () => {
  test("a clock that jumps while it runs trims nothing, and keeps nothing longer", async () => {
    const broker = open();
    const history = { size: 100, ttl: 60 };
    for (const years of [0, 20, -40, 0]) {
      setSystemTime(new Date(Date.now() + years * 365 * 86_400_000));
      await broker.publish("t", `${years}`, { history, idempotencyKey: "same" });
      await broker.publish("t", `${years}`, { history });
    }
    expect(await readAll(broker, "t")).toEqual(["0", "0", "20", "-40", "0"]);
    await broker.publish("u", "x", { history: { size: 100, ttl: 1 } });
    setSystemTime(new Date(0));
    await poll(async () => (await readAll(broker, "u")).length === 0);
  }, 30_000);

  test("a clock that was set back between two starts changes nothing; one that went forward ends messages alone", async () => {
    const now = Date.now();
    let broker = open();
    const publish = (payload: string): Promise<Position | undefined> =>
      broker.publish("t", payload, { history: { size: 100, ttl: 60 } });
    const first = await publish("1");
    setSystemTime(new Date(0));
    broker = await reopen(broker);
    expect(await publish("2")).toEqual({ ...first!, offset: 2 });
    expect(await readAll(broker, "t")).toEqual(["1", "2"]);
    setSystemTime(new Date(now + 20 * 86_400_000));
    broker = await reopen(broker);
    expect(await readAll(broker, "t")).toEqual([]);
    expect(await publish("3")).toEqual({ ...first!, offset: 3 });
    setSystemTime(new Date(now));
    broker = await reopen(broker);
    expect(await publish("4")).toEqual({ ...first!, offset: 4 });
    expect(await readAll(broker, "t")).toEqual(["3", "4"]);
  });

  test("the sweep frees what is over, and forgets a topic after 30 days, whose numbers then start in a new epoch; the file shrinks", async () => {
    const path = newPath();
    const now = Date.now();
    const at = (days: number, ask: (log: SqliteLog) => void): void => {
      setSystemTime(new Date(now + days * 86_400_000));
      const file = new SqliteFile(path, {});
      const log = new SqliteLog(file.db);
      while (log.sweep(() => false));
      ask(log);
      log.close();
      file.close();
    };
    const append = (log: SqliteLog, topic: string, n: number, payload = "x"): Position[] => {
      const draft = (i: number) => ({ topic, payload, size: 1000, ttl: 60_000, idempotencyKey: `${i}` });
      return log.append(Array.from({ length: n }, (_, i) => draft(i))).map(({ position }) => position);
    };
    let before: Position[] = [];
    at(0, (log) => {
      before = append(log, "t", 900, "x".repeat(10_000));
      for (let i = 0; i < 1_200; i++) append(log, `topic ${i}`, 1);
    });
    expect(rows(path)).toEqual({ topics: 1201, messages: 2100, keys: 2100 });
    expect(statSync(path).size).toBeGreaterThan(9_000_000);
    at(1, (log) => {
      expect(log.position("t")).toEqual(before.at(-1)!);
      append(log, "kept", 1);
    });
    expect(rows(path)).toEqual({ topics: 1202, messages: 1, keys: 1 });
    expect(statSync(path).size).toBeLessThan(5_000_000);
    at(29, (log) => expect(log.position("t")).toEqual(before.at(-1)!));
    at(30.5, (log) => {
      const [again] = append(log, "t", 1);
      expect(again!.offset).toBe(1);
      expect(again!.epoch).not.toBe(before[0]!.epoch);
      expect(log.position("kept").epoch).toBe(before[0]!.epoch);
    });
    expect(rows(path)).toEqual({ topics: 2, messages: 1, keys: 1 });
  });

  test("the file stays as large as what is kept", async () => {
    const path = newPath();
    let broker = open(path);
    const publish = async (n: number, bytes: number, ttl: number): Promise<void> => {
      const history = { size: 100, ttl };
      for (let i = 0; i < n; i += 100)
        await Promise.all(
          Array.from({ length: 100 }, () => broker.publish(`t`, "x".repeat(bytes), { history })),
        );
    };
    await publish(20_000, 1000, 3600);
    const sizeOf = async (name: string): Promise<number> => (await Bun.file(name).stat()).size;
    // 20 MB went through, 0.1 MB is kept.
    expect(await sizeOf(path)).toBeLessThan(2_000_000);
    expect(await sizeOf(`${path}-wal`)).toBeLessThan(17_000_000);
    await broker.close();
    expect(await sizeOf(path)).toBeLessThan(2_000_000);
    expect(existsSync(`${path}-wal`)).toBe(false);
    broker = open(path);
    expect((await readAll(broker, "t")).length).toBe(100);
  }, 30_000);
});

/** Starts a process that publishes, kills it so many ms after it opened the file, and gives what it said. */
async function killed(path: string, ms: number, synchronous = "full"): Promise<string[]> {
  await using child = Bun.spawn([process.execPath, CHILD, "publish", path, synchronous], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  let said = "";
  let killing = false;
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    said += chunk;
    // Once it has published, however slow the machine.
    if (killing || !said.includes("{")) continue;
    killing = true;
    setTimeout(() => child.kill("SIGKILL"), ms);
  }
  await child.exited;
  // What follows the last line's end was cut by the kill.
  return said.slice(0, said.lastIndexOf("\n")).split("\n").slice(1);
}

function rows(path: string): Record<string, number> {
  const db = new Database(path, { readonly: true });
  const count = (table: string): number =>
    db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()!.n;
  const all = { topics: count("topics"), messages: count("messages"), keys: count("keys") };
  db.close();
  return all;
}

function refusal(act: () => unknown): BrokerError {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(BrokerError);
    return error as BrokerError;
  }
  throw new Error("it was not refused");
}

function expectError(error: unknown, code: string, part: string): void {
  expect(error).toBeInstanceOf(BrokerError);
  expect([(error as BrokerError).code, (error as BrokerError).message]).toEqual([
    code,
    expect.stringContaining(part),
  ]);
}
