// `live.topic(…)`: publishing, from inside a method and from outside, reading the log, and what subscribers get of it.

import { describe, expect, test } from "bun:test";
import { HarpiaError } from "harpia";
import { RpcError } from "harpia/client";
import { until } from "../support/app.js";
import { call, received } from "../support/channel.js";
import { open } from "../support/raw.js";
import { type Page, serveTopics } from "../support/topics.js";

const room = { room: "a" };

/** What it rejects with. */
async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not reject");
}

describe("a publication", () => {
  test("reaches every subscriber as the same bytes, with its offset, and resolves with its position", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    const { epoch } = await ada.result("$/subscribe", { topic: "room/a" });
    await bob.result("$/subscribe", { topic: "room/a" });
    const topic = server.live.topic("room/:room", room);
    expect(topic.name).toBe("room/a");
    expect(topic.subscribers()).toBe(2);
    expect(await topic.publish({ text: "one" })).toEqual({ epoch: epoch!, offset: 1 });
    expect(await topic.publish({ text: "two" })).toEqual({ epoch: epoch!, offset: 2 });
    for (const client of [ada, bob]) {
      for (const [offset, text] of [
        [1, "one"],
        [2, "two"],
      ]) {
        expect(await client.told()).toEqual({
          jsonrpc: "2.0",
          method: "$/message",
          params: { topic: "room/a", epoch, offset, data: { text } },
        } as never);
      }
    }
  });

  test("from a method reaches its own caller before the answer", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    expect(await client.result<object>("say", { room: "a", text: "hi" })).toMatchObject({ offset: 1 });
    expect(client.frames.all.slice(1).map(({ method }) => method)).toEqual(["$/message", undefined]);
  });

  test("many at once keep their order", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    const topic = server.live.topic("room/:room", room);
    const positions = await Promise.all(
      Array.from({ length: 500 }, (_, n) => topic.publish({ text: String(n) })),
    );
    expect(positions.map(({ offset }) => offset)).toEqual(Array.from({ length: 500 }, (_, n) => n + 1));
    for (let n = 0; n < 500; n++) {
      expect(await client.told()).toMatchObject({ params: { offset: n + 1, data: { text: String(n) } } });
    }
  });

  test("reaches one topic and no other; a param is what it is, whatever it has in it", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    await client.result("$/subscribe", { topic: "room/a%2Fb" });
    await server.live.topic("room/:room", { room: "a/b" }).publish({ text: "in a/b" });
    await server.live.topic("short/:room", room).publish({ text: "elsewhere" });
    expect(await client.told()).toMatchObject({ params: { topic: "room/a%2Fb" } });
    await client.ask("nothing");
    expect(client.untaken).toEqual([]);
  });

  test("without history: at most once, no offset, nothing kept", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const topic = server.live.topic("plain/:name", { name: "x" });
    expect(await topic.publish({ text: "unheard" })).toBeUndefined();
    await client.result("$/subscribe", { topic: "plain/x" });
    await topic.publish({ text: "heard" });
    expect(await client.told()).toEqual({
      jsonrpc: "2.0",
      method: "$/message",
      params: { topic: "plain/x", data: { text: "heard" } },
    } as never);
    const thrown = await rejection(topic.history({ last: 1 }));
    expect(thrown.message).toBe("history of plain/:name: the contract gives it none.");
  });

  test("to a topic with `coalesce` comes like any other: what is skipped is the client's to decide", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const topic = server.live.topic("latest");
    await topic.publish(1);
    await topic.publish(2);
    expect(await client.result("$/subscribe", { topic: "latest", last: 1 })).toMatchObject({
      offset: 2,
      messages: [{ offset: 2, data: 2 }],
    });
    await topic.publish(3);
    expect(await client.told()).toMatchObject({ params: { offset: 3, data: 3 } });
  });
});

describe("except", () => {
  test("leaves one connection out: it gets the number without the data, and finds it in the history", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    for (const client of [ada, bob]) await client.result("$/subscribe", { topic: "room/a" });
    const [except] = server.sockets.all;
    const topic = server.live.topic("room/:room", room);
    const { epoch } = await topic.publish({ text: "not for ada" }, { except: except! });
    await topic.publish({ text: "for all" });
    expect((await ada.told()).params).toEqual({ topic: "room/a", epoch, offset: 1 });
    expect(await ada.told()).toMatchObject({ params: { offset: 2, data: { text: "for all" } } });
    expect(await bob.told()).toMatchObject({ params: { offset: 1, data: { text: "not for ada" } } });
    const page = await ada.result("$/history", { topic: "room/a", after: { epoch, offset: 0 } });
    expect(page.messages).toHaveLength(2);
  });

  test("without history the one gets nothing at all", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    for (const client of [ada, bob]) await client.result("$/subscribe", { topic: "plain/x" });
    const topic = server.live.topic("plain/:name", { name: "x" });
    await topic.publish({ text: "not for ada" }, { except: server.sockets.all[0]! });
    expect(await bob.told()).toMatchObject({ params: { data: { text: "not for ada" } } });
    await ada.ask("nothing");
    expect(ada.untaken).toEqual([]);
  });

  test("one that is not subscribed, or has gone, changes nothing", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    await bob.result("$/subscribe", { topic: "room/a" });
    const [except] = server.sockets.all;
    const topic = server.live.topic("room/:room", room);
    await topic.publish({ text: "one" }, { except: except! });
    await ada[Symbol.asyncDispose]();
    await until(() => server.live.connections.size === 1);
    await topic.publish({ text: "two" }, { except: except! });
    expect(await bob.told()).toMatchObject({ params: { data: { text: "one" } } });
    expect(await bob.told()).toMatchObject({ params: { data: { text: "two" } } });
  });
});

test("a repeat with the same idempotency key resolves with the first position, and reaches nobody", async () => {
  await using server = serveTopics();
  const client = await server.connect();
  await client.result("$/subscribe", { topic: "room/a" });
  const topic = server.live.topic("room/:room", room);
  const first = await topic.publish({ text: "once" }, { idempotencyKey: "k" });
  expect(await topic.publish({ text: "twice" }, { idempotencyKey: "k" })).toEqual(first);
  const both = await Promise.all([1, 2].map((n) => topic.publish({ text: `${n}` }, { idempotencyKey: "l" })));
  expect(both[0]).toEqual(both[1]!);
  expect((await topic.publish({ text: "another" })).offset).toBe(3);
  // Keys are a topic's own.
  const other = server.live.topic("room/:room", { room: "b" });
  expect((await other.publish({ text: "there" }, { idempotencyKey: "k" })).offset).toBe(1);
  const texts = [];
  for (let n = 0; n < 3; n++) texts.push(((await client.told()).params!.data as { text: string }).text);
  expect(texts).toEqual(["once", "1", "another"]);
});

test("the same published twice without a key is two messages, with history and without", async () => {
  await using server = serveTopics();
  const client = await server.connect();
  for (const topic of ["room/a", "plain/a"]) await client.result("$/subscribe", { topic });
  for (let n = 0; n < 2; n++) {
    await server.live.topic("room/:room", room).publish({ text: "again" });
    await server.live.topic("plain/:name", { name: "a" }).publish({ text: "again" });
  }
  const told = [];
  for (let n = 0; n < 4; n++) told.push((await client.told()).params!.topic);
  expect(told).toEqual(["room/a", "plain/a", "room/a", "plain/a"]);
});

describe("the server reads", () => {
  test("history: the newest, after and before a position, in pages of up to 1,000", async () => {
    await using server = serveTopics();
    const topic = server.live.topic("room/:room", room);
    const { epoch } = await topic.publish({ text: "1" });
    for (let n = 2; n <= 150; n++) await topic.publish({ text: String(n) });
    const offsets = async (
      range: Parameters<typeof topic.history>[0],
    ): Promise<[number?, number?, boolean?]> => {
      const { messages, complete } = await topic.history(range);
      return [messages[0]?.offset, messages.at(-1)?.offset, complete];
    };
    expect(await topic.history({ last: 1 })).toEqual({
      epoch,
      offset: 150,
      recovered: false,
      complete: true,
      messages: [{ offset: 150, data: { text: "150" } }],
    });
    expect(await offsets({ last: 1_000 })).toEqual([1, 150, true]);
    expect(await offsets({ after: { epoch, offset: 100 } })).toEqual([101, 150, true]);
    expect(await offsets({ after: { epoch, offset: 100 }, limit: 10 })).toEqual([101, 110, false]);
    expect(await offsets({ before: { epoch, offset: 100 }, limit: 10 })).toEqual([90, 99, false]);
    expect((await topic.history({ after: { epoch: "other", offset: 1 } })).recovered).toBe(false);
  });

  test("who is a member, and how many of this process are subscribed", async () => {
    await using server = serveTopics();
    const lobby = server.live.topic("lobby/:room", room);
    expect(await lobby.members()).toEqual([]);
    expect(lobby.subscribers()).toBe(0);
    const client = await server.connect("ada");
    await client.result("$/subscribe", { topic: "lobby/a" });
    expect(await lobby.members()).toEqual([{ key: "ada", info: { name: "ada" } }]);
    expect(lobby.subscribers()).toBe(1);
    expect(await server.live.topic("room/:room", room).members()).toEqual([]);
  });
});

describe("refused, and nothing is stored:", () => {
  test("a message that its schema refuses", async () => {
    await using server = serveTopics();
    const topic = server.live.topic("room/:room", room);
    const thrown = await rejection(topic.publish({ text: 5 as never }));
    expect(thrown.message).toStartWith("the message for room/:room does not match the contract: text: ");
    expect((await topic.history({ last: 9 })).offset).toBe(0);
  });

  test("a message larger than a frame may be is TOO_LARGE; the largest arrives", async () => {
    const ws = { maxPayloadLength: 64 * 1024 };
    await using server = serveTopics({}, { ws });
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    const topic = server.live.topic("room/:room", room);
    const most = 64 * 1024 - 1_024 - '{"text":""}'.length;
    const thrown = await rejection(topic.publish({ text: "x".repeat(most + 1) }));
    expect(thrown).toBeInstanceOf(RpcError);
    expect(thrown).toMatchObject({
      reason: "TOO_LARGE",
      message: "publish to room/:room: the message has 64513 bytes; 64512 fit into one frame.",
    });
    const umlauts = await rejection(topic.publish({ text: "ü".repeat(most / 2 + 1) }));
    expect(umlauts).toMatchObject({ reason: "TOO_LARGE" });
    expect((await topic.publish({ text: "x".repeat(most) })).offset).toBe(1);
    expect((await client.told()).params!.data).toEqual({ text: "x".repeat(most) });
    // From a method it is the caller's error.
    const said = await client.ask("say", { room: "a", text: "x".repeat(most + 1) });
    expect(said).toMatchObject({ error: { code: -32004, message: thrown.message } });
    expect((await topic.history({ last: 9 })).offset).toBe(1);
  });

  test("a topic that the contract does not have, and params that make no name", () => {
    const { live } = serveTopics();
    const topic = live.topic as (name: unknown, params?: unknown) => unknown;
    expect(() => topic("rom/:room")).toThrow('The contract of /topics has no topic "rom/:room".');
    expect(() => topic("toString")).toThrow('The contract of /topics has no topic "toString".');
    expect(() => topic("room/:room")).toThrow('room/:room needs the param "room": a non-empty string');
    expect(() => topic("room/:room", { room: "" })).toThrow('needs the param "room"');
    expect(() => topic("room/:room", { room: 5 })).toThrow('needs the param "room"');
    expect(() => topic("room/:room", { room: "x".repeat(252) })).toThrow("has more than 256 bytes");
    expect(() => topic("room/:room", { room: "ü".repeat(42) })).toThrow("has more than 256 bytes");
    live.topic("room/:room", { room: "x".repeat(251) });
  });

  test("options that cannot work", async () => {
    await using server = serveTopics();
    const topic = server.live.topic("room/:room", room);
    const plain = server.live.topic("plain/:name", { name: "x" });
    const rows: [Promise<unknown>, string][] = [
      [topic.publish({ text: "" }, { idempotencyKey: "" }), '"idempotencyKey" must be a string of 1 to 256'],
      [topic.publish({ text: "" }, { idempotencyKey: "x".repeat(257) }), '"idempotencyKey" must be'],
      [topic.publish({ text: "" }, { idempotencyKey: 5 as never }), '"idempotencyKey" must be'],
      [plain.publish({ text: "" }, { idempotencyKey: "k" }), '"idempotencyKey" needs a topic with "history"'],
      [topic.publish({ text: "" }, { excep: 5 } as never), 'does not take "excep". Did you mean "except"?'],
      [
        topic.publish({ text: "" }, { except: "ada" as never }),
        '"except" must be a connection, and is "ada"',
      ],
      [topic.publish({ text: "" }, null as never), "takes an object, and was given null"],
      [topic.history({} as never), "what to read is { after }, { before } or { last }, and none is given"],
      [topic.history(undefined as never), "takes an object, and was given undefined"],
      [topic.history({ last: 0 }), '"last" must be a whole number from 1, and is 0'],
      [topic.history({ last: undefined as never }), "what to read is"],
      [topic.history({ last: 1.5 }), '"last" must be a whole number from 1, and is 1.5'],
      [topic.history({ after: { epoch: "e", offset: -1 } }), "a position is { epoch, offset }"],
      [topic.history({ after: 5 as never }), "a position is { epoch, offset }, and this is 5"],
      [
        topic.history({ after: { epoch: "e", offset: 1 }, limit: 0 }),
        '"limit" must be a whole number from 1',
      ],
    ];
    for (const [promise, message] of rows) {
      const thrown = await rejection(promise);
      expect(thrown.message).toContain(message);
      expect(thrown instanceof TypeError || thrown instanceof HarpiaError).toBe(true);
    }
    expect((await topic.history({ last: 1 })).offset).toBe(0);
  });
});

test("a reader that stops leaves the native topics, is told when it is back, and loses nothing", async () => {
  await using server = serveTopics({}, { ws: { backpressureLimit: 64 * 1024 } });
  const slow = await server.connect("laggard");
  const quick = await server.connect("quick");
  for (const client of [slow, quick]) await client.result("$/subscribe", { topic: "room/a" });
  await slow.result("$/subscribe", { topic: "plain/a" });
  await slow.result("$/subscribe", { topic: "lobby/a" });
  const [ws] = server.sockets.all;
  const topic = server.live.topic("room/:room", room);
  slow.raw.socket.pause();
  const native = (): number => ws!.raw.subscriptions.length;
  expect(native()).toBe(3);
  // A message may be as large as the buffer, less a kilobyte.
  let published = 0;
  let last = { epoch: "", offset: 0 };
  while (native() > 0 && published < 900) {
    last = await topic.publish({ text: "x".repeat(60_000) });
    published++;
    await new Promise(setImmediate);
  }
  expect(native()).toBe(0);
  expect(topic.subscribers()).toBe(2);
  for (let n = 0; n < 20; n++) last = await topic.publish({ text: "while it was out" });
  await server.live.topic("plain/:name", { name: "a" }).publish({ text: "lost, as it has no history" });
  const stillCheap = ws!.bufferedAmount;
  expect(stillCheap).toBeLessThanOrEqual(130 * 1024);

  slow.raw.socket.resume();
  let told = await slow.told();
  let got = 0;
  for (; told.method !== "$/position"; told = await slow.told())
    if (told.method === "$/message") got = told.params!.offset as number;
  expect(got).toBeLessThan(last.offset);
  expect(told).toMatchObject({
    method: "$/position",
    params: {
      // Without history there is no position to tell of; with presence, members may have been missed.
      topics: [
        { topic: "room/a", ...last },
        { topic: "lobby/a", offset: 0 },
      ],
      dropped: true,
    },
  });
  expect(native()).toBe(3);
  const seen: number[] = [];
  while (got < last.offset) {
    const page: Page = await slow.result("$/history", {
      topic: "room/a",
      after: { epoch: last.epoch, offset: got },
    });
    expect(page.recovered).toBe(true);
    for (const { offset } of page.messages) seen.push((got = offset));
  }
  expect(seen).toEqual([...seen].sort((a, b) => a - b));
  expect(seen.at(-1)).toBe(last.offset);
  await topic.publish({ text: "live again" });
  expect(await slow.told("$/message")).toMatchObject({ params: { offset: last.offset + 1 } });
  expect(slow.frames.all.filter(({ params }) => params?.topic === "plain/a")).toEqual([]);
  for (let n = 1; n <= last.offset + 1; n++) expect((await quick.told()).params!.offset).toBe(n);
}, 30_000);

describe("topics of a channel and those of `ws.subscribe`", () => {
  test("are apart: names of harpia's are refused, and not listed", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    const [ws] = server.sockets.all;
    ws!.subscribe("room/a");
    expect(ws!.subscriptions).toEqual(["room/a"]);
    const [native] = ws!.raw.subscriptions.filter((name) => name !== "room/a");
    expect(native).toStartWith("$/");
    for (const act of [
      () => ws!.subscribe(native!),
      () => ws!.unsubscribe(native!),
      () => ws!.publish(native!, "forged"),
      () => server.app.publish(native!, "forged"),
    ]) {
      expect(act).toThrow(HarpiaError);
    }
    server.app.publish("room/a", '{"method":"of another layer"}');
    expect(await client.told()).toEqual({ method: "of another layer" });
    await server.live.topic("room/:room", room).publish({ text: "still there" });
    expect(await client.told()).toMatchObject({ params: { data: { text: "still there" } } });
  });
});

test("in a batch they are refused one by one, and the rest is answered", async () => {
  await using server = serveTopics();
  await using client = await open(server.port, "/topics");
  const methods = ["$/subscribe", "$/history", "$/unsubscribe", "$/presence"];
  const batch = methods.map((method, id) => call(id, method, { topic: "room/a" }));
  client.send(`[${[...batch, call("n", "nothing")].join(",")}]`);
  const answers = (await received(client)) as unknown as { id: unknown; error?: { code: number } }[];
  expect(answers.map(({ id, error }) => [id, error?.code])).toEqual([
    [0, -32600],
    [1, -32600],
    [2, -32600],
    [3, -32600],
    ["n", undefined],
  ]);
  expect(server.live.topic("room/:room", room).subscribers()).toBe(0);
});

describe("app.stop()", () => {
  test("takes members out, and closes the broker: what is published afterwards rejects", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    await client.result("$/subscribe", { topic: "lobby/a" });
    const topic = server.live.topic("room/:room", room);
    await server.app.stop({ timeout: 1_000 });
    for (const promise of [
      topic.publish({ text: "late" }),
      topic.history({ last: 1 }),
      server.live.topic("lobby/:room", room).members(),
    ]) {
      expect(await rejection(promise)).toMatchObject({ code: "BROKER_CLOSED" });
    }
    expect(topic.subscribers()).toBe(0);
  });
});
