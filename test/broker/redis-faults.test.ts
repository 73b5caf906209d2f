// What the Redis broker does when Redis is killed, silent, full, evicting, without its scripts, or restarted with less
// than it had. The invariant behind all of it: no offset is handed out for two different payloads within one epoch.

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import {
  type Broker,
  BrokerError,
  type BrokerErrorCode,
  type HistoryOptions,
  type Position,
} from "../../src/broker/broker.js";
import { redis, type RedisOptions } from "../../src/broker/redis.js";
import { faultProxy } from "../../src/testing/fault-proxy.js";
import { testWith } from "../support/programs.js";
import { type RedisServer, startRedis, until } from "../support/redis.js";
import { listen, readAll } from "./conformance.js";

const it = testWith("redis-server");
const HOUR: HistoryOptions = { size: 1_000, ttl: 3600 };
const PAGE = { messages: 100, bytes: 65_536 };
/** Short, so that the tests are; a loaded machine still answers within it. */
const TIMEOUT = 1_000;

let server: RedisServer;
const brokers = new Set<Broker>();

beforeAll(async () => {
  if (it === test) server = await startRedis("--enable-debug-command", "yes");
}, 60_000);
beforeEach(async () => {
  await Promise.all([...brokers].map((broker) => broker.close()));
  brokers.clear();
});
afterAll(async () => {
  await Promise.all([...brokers].map((broker) => broker.close()));
  if (it === test) await server[Symbol.asyncDispose]();
});

async function connected(options: RedisOptions = {}): Promise<Broker> {
  const broker = redis({ url: server.url, timeout: TIMEOUT, ...options });
  brokers.add(broker);
  await until(() => broker.health().ok);
  return broker;
}

async function codeOf(call: Promise<unknown>): Promise<BrokerErrorCode | "resolved"> {
  try {
    await call;
    return "resolved";
  } catch (error) {
    expect(error).toBeInstanceOf(BrokerError);
    return (error as BrokerError).code;
  }
}

/** Publishes until it is taken. */
async function insist(broker: Broker, topic: string, payload: string): Promise<Position> {
  for (;;) {
    const position = await broker.publish(topic, payload, { history: HOUR }).catch(() => undefined);
    if (position) return position;
    await Bun.sleep(20);
  }
}

it("rejects at once or within the timeout while Redis is gone, says so, and goes on by itself", async () => {
  await using own = await startRedis();
  const broker = await connected({ url: own.url });
  const heard = await listen(broker, "gone");
  let reconnects = 0;
  broker.onReconnect = () => reconnects++;
  await own.kill();
  const calls: [string, () => Promise<unknown>][] = [
    ["publish", () => broker.publish("gone", "x", { history: HOUR })],
    ["publish without history", () => broker.publish("gone", "x", {})],
    ["subscribe", () => broker.subscribe("other", () => {}, { history: true })],
    ["subscribe to the same", () => broker.subscribe("gone", () => {}, { history: true })],
    ["read", () => broker.read("gone", { last: 1 }, PAGE)],
    ["positions", () => broker.positions(["gone"])],
    ["put", () => broker.presence.put("gone", "k", "o", "{}", 1000)],
    ["remove", () => broker.presence.remove("gone", "k", "o")],
    ["list", () => broker.presence.list("gone")],
  ];
  for (const [name, call] of calls)
    expect([name, await codeOf(call())]).toEqual([name, "BROKER_UNAVAILABLE"]);
  expect(broker.health().ok).toBe(false);
  expect(broker.health().reason).toContain(`127.0.0.1:${own.port}`);
  expect(reconnects).toBe(0);
  await own.start();
  await until(() => reconnects > 0 && broker.health().ok);
  await broker.publish("gone", "again", { history: HOUR });
  await heard.until(1);
  expect(heard.payloads).toEqual(["again"]);
}, 60_000);

it("rejects what was called before Redis is there, and connects once it is", async () => {
  await using own = await startRedis();
  await own.kill();
  const broker = redis({ url: own.url, timeout: TIMEOUT });
  brokers.add(broker);
  expect(await codeOf(broker.publish("early", "x", { history: HOUR }))).toBe("BROKER_UNAVAILABLE");
  expect(await codeOf(broker.subscribe("early", () => {}, { history: true }))).toBe("BROKER_UNAVAILABLE");
  await own.start();
  expect((await insist(broker, "early", "y")).offset).toBe(1);
}, 60_000);

it("takes a publish that was in flight when Redis was killed once, when repeated with its idempotency key", async () => {
  await using own = await startRedis("--appendonly", "yes", "--appendfsync", "always");
  const broker = await connected({ url: own.url, durable: true });
  const options = (i: number) => ({ history: HOUR, idempotencyKey: `key ${i}` });
  const inFlight = Array.from({ length: 500 }, (_, i) =>
    broker.publish("flight", `${i}`, options(i)).then(
      () => true,
      () => false,
    ),
  );
  await Bun.sleep(1);
  await own.kill();
  const taken = await Promise.all(inFlight);
  await own.start();
  await insist(broker, "other", "up");
  for (const i of taken.keys()) await broker.publish("flight", `${i}`, options(i));
  const log = (await readAll(broker, "flight")).map(Number);
  expect(log.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 500 }, (_, i) => i));
}, 60_000);

for (const [how, options] of [
  ["without persistence", []],
  ["with RDB snapshots", ["--save", "1", "1"]],
  ["with an AOF that is flushed every second", ["--appendonly", "yes"]],
  ["with an AOF that is flushed always", ["--appendonly", "yes", "--appendfsync", "always"]],
] as const) {
  it(`hands out no offset for two payloads in one epoch when Redis is killed ${how}`, async () => {
    await using own = await startRedis(...options);
    const [one, two] = [await connected({ url: own.url }), await connected({ url: own.url })];
    const seen = new Map<string, string>();
    const note = (position: Position, payload: string): void => {
      const at = `${position.epoch} ${position.offset}`;
      expect([at, seen.get(at) ?? payload]).toEqual([at, payload]);
      seen.set(at, payload);
    };
    for (const broker of [one, two])
      await broker.subscribe("t", ({ position, payload }) => note(position!, payload), { history: true });
    let count = 0;
    const epochs = new Set<string>();
    const publish = async (broker: Broker): Promise<void> => {
      const payload = `${++count}`;
      const position = await broker.publish("t", payload, { history: HOUR }).catch(() => undefined);
      if (!position) return;
      note(position, payload);
      epochs.add(position.epoch);
    };
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 50 }, (_, i) => publish(i % 2 ? one : two)));
      if (how.includes("RDB") && round === 1) {
        await own.command("SAVE");
        await Promise.all(Array.from({ length: 20 }, () => publish(one)));
      }
      const killed = own.kill();
      await Promise.all(Array.from({ length: 20 }, () => publish(one)));
      await killed;
      await own.start(...options);
      await until(() => one.health().ok && two.health().ok);
      for (const message of await readMessages(one, "t")) note(message.position, message.payload);
    }
    await publish(one);
    expect(epochs.size).toBe(4);
  }, 60_000);
}

async function readMessages(broker: Broker, topic: string) {
  const { position, messages } = await broker.read(topic, { last: 100 }, PAGE);
  // Under a new epoch the log that was kept has its old offsets, so it is noted apart from what clients saw.
  return messages.map(({ offset, payload }) => ({ position: { ...position, offset }, payload }));
}

it("keeps the log through a restart with an AOF, under a new epoch; with `durable`, under the same", async () => {
  await using own = await startRedis("--appendonly", "yes", "--appendfsync", "always");
  const [broker, durable] = [
    await connected({ url: own.url }),
    await connected({ url: own.url, durable: true }),
  ];
  for (const payload of ["1", "2", "3"]) {
    await broker.publish("kept", payload, { history: HOUR });
    await durable.publish("trusted", payload, { history: HOUR });
  }
  const [before] = await broker.positions(["kept"]);
  const [trusted] = await durable.positions(["trusted"]);
  await own.kill();
  await own.start();
  await until(() => broker.health().ok && durable.health().ok);
  expect(await durable.positions(["trusted"])).toEqual([trusted!]);
  const [after] = await broker.positions(["kept"]);
  expect(after!.epoch).not.toBe(before!.epoch);
  expect(after!.offset).toBe(3);
  expect((await broker.read("kept", { after: before! }, PAGE)).recovered).toBe(false);
  expect(await readAll(broker, "kept")).toEqual(["1", "2", "3"]);
  expect(await broker.publish("kept", "4", { history: HOUR })).toEqual({ ...after!, offset: 4 });
}, 60_000);

it("resubscribes when its pub/sub connection is killed, and calls onReconnect when all is live", async () => {
  const broker = await connected();
  const heard = await Promise.all(["a", "b", "c"].map((name) => listen(broker, `killed ${name}`)));
  for (let kills = 1; kills <= 3; kills++) {
    const back = new Promise<void>((resolve) => (broker.onReconnect = resolve));
    expect(await server.command("CLIENT", "KILL", "TYPE", "pubsub")).toBe(1);
    await back;
    for (const [index, name] of ["a", "b", "c"].entries()) {
      await broker.publish(`killed ${name}`, `${kills}`, { history: HOUR });
      await heard[index]!.until(kills);
    }
  }
}, 60_000);

it("replaces connections that have fallen silent, and is back when the network is", async () => {
  await using network = faultProxy({ port: server.port });
  const broker = await connected({ url: `redis://127.0.0.1:${network.port}` });
  const heard = await listen(broker, "silent");
  const back = new Promise<void>((resolve) => (broker.onReconnect = resolve));
  network.freeze();
  expect(await codeOf(broker.publish("silent", "x", { history: HOUR }))).toBe("BROKER_UNAVAILABLE");
  // A connection that is asked to answer when the network comes back, and does, is not replaced.
  await until(() => /commands: .*subscriptions: /.test(broker.health().reason ?? ""));
  network.thaw();
  await back;
  await insist(broker, "silent", "last");
  await until(() => heard.payloads.includes("last"));
}, 60_000);

for (const [how, command] of [
  ["CLIENT PAUSE", ["CLIENT", "PAUSE", "2500", "ALL"]],
  ["DEBUG SLEEP", ["DEBUG", "SLEEP", "2.5"]],
] as const) {
  it(`does not hang under ${how} for longer than the timeout`, async () => {
    const broker = await connected();
    const paused = server.command(...command).catch(() => {});
    await until(async () => (await codeOf(broker.publish("asleep", "x", { history: HOUR }))) !== "resolved");
    await paused;
    await insist(broker, "asleep", "y");
    await until(() => broker.health().ok);
  }, 60_000);
}

it("goes on when the script cache is flushed, in order", async () => {
  const broker = await connected();
  await broker.publish("flushed", "0", { history: HOUR });
  for (let round = 0; round < 3; round++) {
    await server.command("SCRIPT", "FLUSH");
    const calls = Array.from({ length: 50 }, (_, i) =>
      broker.publish("flushed", `${round} ${i}`, { history: HOUR }),
    );
    const offsets = (await Promise.all(calls)).map((position) => position!.offset);
    expect(offsets).toEqual(Array.from({ length: 50 }, (_, i) => 2 + round * 50 + i));
  }
  await server.command("SCRIPT", "FLUSH");
  expect(await broker.presence.put("flushed", "k", "o", "{}", 60_000)).toEqual({ appeared: true });
}, 60_000);

it("stores nothing half when Redis is full, says BROKER_FULL, and still reads", async () => {
  await using own = await startRedis("--maxmemory-policy", "noeviction");
  const broker = await connected({ url: own.url });
  const position = await broker.publish("full", "1", { history: HOUR });
  await own.command("CONFIG", "SET", "maxmemory", "1mb");
  const options = { history: HOUR, idempotencyKey: "k" };
  expect(await codeOf(broker.publish("full", "2", options))).toBe("BROKER_FULL");
  expect(await codeOf(broker.presence.put("full", "k", "o", "{}", 1000))).toBe("BROKER_FULL");
  expect(await codeOf(broker.publish("new", "1", options))).toBe("BROKER_FULL");
  expect(await broker.positions(["full"])).toEqual([position!]);
  expect(await readAll(broker, "full")).toEqual(["1"]);
  const names = (await own.command("KEYS", "*")) as string[];
  expect(names.toSorted()).toEqual(["harpia:{full}l", "harpia:{full}m"]);
  await own.command("CONFIG", "SET", "maxmemory", "0");
  expect(await broker.publish("full", "2", options)).toEqual({ ...position!, offset: 2 });
}, 60_000);

it("survives the eviction of either of a topic's keys: never the same offset again, never `recovered` with a hole", async () => {
  const broker = await connected();
  const publish = async (topic: string, payload: string) =>
    (await broker.publish(topic, payload, { history: HOUR }))!;
  for (const payload of ["1", "2", "3"]) await publish("no log", payload);
  const [position] = await broker.positions(["no log"]);
  await server.command("DEL", "harpia:{no log}l");
  const read = (offset: number) => broker.read("no log", { after: { ...position!, offset } }, PAGE);
  expect((await read(1)).recovered).toBe(false);
  expect((await read(3)).recovered).toBe(true);
  expect(await publish("no log", "4")).toEqual({ ...position!, offset: 4 });
  expect((await read(2)).recovered).toBe(false);
  expect((await read(3)).messages).toEqual([{ offset: 4, payload: "4" }]);

  for (const payload of ["1", "2", "3"]) await publish("no meta", payload);
  const [before] = await broker.positions(["no meta"]);
  await server.command("DEL", "harpia:{no meta}m");
  const after = await publish("no meta", "4");
  expect(after.epoch).not.toBe(before!.epoch);
  expect(after.offset).toBe(4);
  expect((await broker.read("no meta", { after: before! }, PAGE)).recovered).toBe(false);
  expect(await readAll(broker, "no meta")).toEqual(["1", "2", "3", "4"]);
}, 60_000);

it("names a key of somebody else's under its prefix, and leaves it alone", async () => {
  const broker = await connected();
  await server.command("SET", "harpia:{taken}l", "mine");
  expect(await codeOf(broker.publish("taken", "x", { history: HOUR }))).toBe("BROKER_CORRUPT");
  expect(await server.command("GET", "harpia:{taken}l")).toBe("mine");
  expect(await server.command("EXISTS", "harpia:{taken}m")).toBe(0);
}, 60_000);

it("gives each publication one offset, and every subscriber the same order, under 8 publishers on 3 brokers", async () => {
  const all = await Promise.all([connected(), connected(), connected()]);
  const heard = await Promise.all(all.map((broker) => listen(broker, "crowd")));
  const positions = await Promise.all(
    Array.from({ length: 8 }, async (_, publisher) => {
      const mine: [number, string][] = [];
      for (let i = 0; i < 100; i++) {
        const payload = `${publisher} ${i}`;
        const position = await all[publisher % 3]!.publish("crowd", payload, { history: HOUR });
        mine.push([position!.offset, payload]);
      }
      return mine;
    }),
  );
  const told = positions.flat().sort(([a], [b]) => a - b);
  expect(told.map(([offset]) => offset)).toEqual(Array.from({ length: 800 }, (_, i) => i + 1));
  for (const each of heard) {
    await each.until(800);
    expect(each.payloads).toEqual(told.map(([, payload]) => payload));
    expect(each.offsets).toEqual(told.map(([offset]) => offset));
  }
}, 60_000);

it("sends what is published in one tick as one pipeline, and takes one round trip for each", async () => {
  const broker = await connected();
  const stat = async (name: string): Promise<number> =>
    Number(new RegExp(`${name}:(\\d+)`).exec(String(await server.command("INFO", "stats")))![1]);
  await broker.publish("pipeline", "0", { history: HOUR });
  const before = [await stat("total_commands_processed"), await stat("total_reads_processed")];
  await Promise.all(Array.from({ length: 64 }, () => broker.publish("pipeline", "x", { history: HOUR })));
  const after = [await stat("total_commands_processed"), await stat("total_reads_processed")];
  // Of the script's own commands none is sent; a few belong to asking for the counters and to the heartbeat.
  expect(after[0]! - before[0]!).toBeGreaterThanOrEqual(64);
  expect(after[1]! - before[1]!).toBeLessThan(32);
}, 60_000);

it("forgets a node's members when their leases end, and topics that nobody is in", async () => {
  const broker = await connected();
  await broker.presence.put("leases", "ada", "1", "{}", 300);
  await broker.presence.put("leases", "bob", "1", "{}", 60_000);
  await until(async () => (await broker.presence.list("leases")).members.length === 1);
  expect(await server.command("HLEN", "harpia:{leases}p")).toBe(1);
  await broker.presence.put("short", "ada", "1", "{}", 300);
  await until(async () => (await server.command("EXISTS", "harpia:{short}p")) === 0);
}, 60_000);
