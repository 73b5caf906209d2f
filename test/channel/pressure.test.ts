// Order and pressure on a channel: nothing is dropped for a reader that is slow, stops or goes, and nothing hangs.

import { describe, expect, test } from "bun:test";
import { defineChannel } from "harpia/contract";
import { faultProxy } from "harpia/testing";
import { z } from "zod";
import { Outbox } from "../../src/channel/outbox.js";
import { listen, quiet, until } from "../support/app.js";
import { call, Gates, notification, type Received, received, result } from "../support/channel.js";
import { Events } from "../support/log.js";
import { open, type RawClient } from "../support/raw.js";

const contract = defineChannel({
  path: "/pressure",
  methods: {
    hold: { params: z.object({ key: z.string(), padding: z.string().optional() }), result: z.string() },
    short: { params: z.object({ key: z.string() }), result: z.string() },
    blob: { params: z.object({ size: z.number() }), result: z.string() },
    values: { params: z.object({ count: z.number(), size: z.number() }), stream: z.string() },
    events: { params: z.object({ count: z.number(), size: z.number() }) },
    /** Asks this client, and waits for a gate after the answer. */
    asking: { params: z.object({ key: z.string() }), result: z.boolean() },
    /** Asks this client several things at once. */
    sometimesAsking: { params: z.object({ what: z.string().optional() }), result: z.boolean() },
    askingAll: { params: z.object({ keys: z.array(z.string()) }), result: z.array(z.boolean()) },
    /** Asks the other client. */
    askOther: { result: z.boolean() },
    nothing: {},
  },
  events: {
    chunk: { params: z.object({ n: z.number(), text: z.string() }) },
    confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
  },
});

const KIB = 1024;

function serve({ concurrency = 64 } = {}) {
  const app = quiet({ ws: { backpressureLimit: 64 * KIB } });
  const gates = new Gates();
  const closed = new Events<number>();
  const ended = new Events<string>();
  const live = app.channel(contract, { concurrency, close: (_ws, code) => closed.push(code) }).implement({
    methods: {
      hold: ({ key }, { signal }) => gates.wait(key, signal),
      short: { timeout: 20, run: ({ key }, { signal }) => gates.wait(key, signal) },
      blob: ({ size }) => "x".repeat(size),
      async *values({ count, size }) {
        try {
          for (let n = 0; n < count; n++) yield `${n}:`.padEnd(size, "x");
        } finally {
          ended.push("values");
        }
      },
      async events({ count, size }, { ws }) {
        for (let n = 0; n < count; n++) await live.emit(ws, "chunk", { n, text: "x".repeat(size) });
      },
      async asking({ key }, { ws }) {
        gates.begun.push(`asks ${key}`);
        const answer = await live.ask(ws, "confirm", { what: key });
        gates.begun.push(`answered ${key}`);
        return answer;
      },
      sometimesAsking({ what }, { ws }) {
        if (what === undefined) return false;
        return Promise.resolve().then(() => live.ask(ws, "confirm", { what }));
      },
      async askingAll({ keys }, { ws }) {
        const answers = await Promise.all(keys.map((what) => live.ask(ws, "confirm", { what })));
        gates.begun.push("answered all");
        return answers;
      },
      async askOther(_params, { ws }) {
        const other = [...live.connections].find((one) => one !== ws)!;
        return await live.ask(other, "confirm", { what: "other" });
      },
      nothing() {},
    },
  });
  return { app, live, gates, closed, ended, port: listen(app) };
}

/** Asks for everything that a server sends, and reads until all of it has come. */
async function readEverything(client: RawClient, begin: () => void): Promise<void> {
  const [CALLS, VALUES, EVENTS, ASKS, SIZE] = [150, 150, 150, 10, 16 * KIB];
  client.send(call("stream", "values", { count: VALUES, size: SIZE }));
  client.send(notification("events", { count: EVENTS, size: SIZE }));
  for (let id = 0; id < CALLS; id++) client.send(call(id, "blob", { size: SIZE }));
  for (let id = 0; id < ASKS; id++) client.send(call(`ask ${id}`, "asking", { key: `${id}` }));
  begin();
  const seen = { answers: new Set<unknown>(), values: 0, events: 0, asks: 0, ended: false };
  const whole = () =>
    seen.answers.size === CALLS + ASKS && seen.values === VALUES && seen.events === EVENTS && seen.ended;
  while (!whole()) {
    const frame = await received(client);
    if (frame.method === "$/next") {
      expect(frame.params?.value).toStartWith(`${seen.values++}:`);
    } else if (frame.method === "chunk") {
      expect(frame.params?.n).toBe(seen.events++);
    } else if (frame.method === "confirm") {
      seen.asks++;
      client.send(result(frame.id, true));
    } else if (frame.id === "stream") {
      expect(frame.result).toBeNull();
      expect(seen.values).toBe(VALUES);
      seen.ended = true;
    } else {
      expect(frame.error).toBeUndefined();
      expect(seen.answers.has(frame.id)).toBe(false);
      seen.answers.add(frame.id);
    }
  }
  expect(seen.asks).toBe(ASKS);
}

describe("answers, stream values, asks and events all arrive, each once and in order, at a reader", () => {
  test("of half the server's rate", async () => {
    const { app, port } = serve();
    await using _app = app;
    await using proxy = faultProxy({ port });
    await using client = await open(proxy.port, "/pressure");
    // 7.2 MiB that take the server a moment.
    proxy.slow(5 * KIB * KIB, "down");
    await readEverything(client, () => {});
    expect(app.websocket.counters.dropped).toBe(0);
  }, 30_000);

  test("that stops for a while", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.socket.pause();
    await readEverything(client, () => {
      const [ws] = live.connections;
      // Its buffer is full: from here on frames wait.
      void until(() => ws!.bufferedAmount >= 64 * KIB, "a full buffer")
        .then(() => Bun.sleep(100))
        .then(() => client.socket.resume());
    });
    expect(app.websocket.counters.dropped).toBe(0);
  }, 30_000);

  test("that goes: what ran for it is told, nothing is left", async () => {
    const { app, live, gates, ended, closed, port } = serve();
    await using client = await open(port, "/pressure");
    client.socket.pause();
    client.send(call(1, "hold", { key: "a" }));
    client.send(call(2, "asking", { key: "b" }));
    client.send(call(3, "values", { count: 10_000, size: 16 * KIB }));
    client.send(call(4, "events", { count: 1_000, size: 16 * KIB }));
    await gates.begun.until(2);
    const [ws] = live.connections;
    await until(() => ws!.bufferedAmount >= 64 * KIB, "a full buffer");
    const asked = live.ask(ws!, "confirm", { what: "outside" });
    client.reset();
    await expect(asked).rejects.toMatchObject({ reason: "CONNECTION_LOST" });
    expect(await closed.until(1)).toEqual([1006]);
    expect(await gates.aborted.until(1)).toEqual(["a"]);
    expect(await ended.until(1)).toEqual(["values"]);
    expect(live.connections.size).toBe(0);
    // After close: an event goes nowhere, an ask is told so.
    await live.emit(ws!, "chunk", { n: 0, text: "" });
    await live.broadcast("chunk", { n: 0, text: "" });
    await expect(live.ask(ws!, "confirm", { what: "late" })).rejects.toMatchObject({
      reason: "CONNECTION_LOST",
    });
    expect(() => live.expire(ws!, Date.now() + 1_000)).not.toThrow();
    gates.openAll();
    // Nothing runs any more, so there is nothing to wait for.
    await app.stop({ timeout: 60_000 });
  }, 30_000);
});

test("a frame that has waited too long closes the connection with 1013, which the client can still read", async () => {
  const before = Outbox.longestWaitMs;
  Outbox.longestWaitMs = 150;
  try {
    const { app, closed, port } = serve();
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.socket.pause();
    client.send(call(1, "events", { count: 500, size: 16 * KIB }));
    expect(await closed.until(1)).toEqual([1013]);
    client.socket.resume();
    expect(await client.closeFrame()).toEqual({ code: 1013, reason: "Reading too slowly" });
  } finally {
    Outbox.longestWaitMs = before;
  }
}, 20_000);

test("it is 30 seconds", () => expect(Outbox.longestWaitMs).toBe(30_000));

test("when the reader has caught up, calls that waited for that go on, with nothing else to wake them", async () => {
  const { app, live, port } = serve({ concurrency: 1 });
  await using _app = app;
  await using client = await open(port, "/pressure");
  client.socket.pause();
  // More than the kernel, Bun's buffer and a MiB of the outbox take.
  for (let id = 0; id < 200; id++) client.send(call(id, "blob", { size: 64 * KIB }));
  const [ws] = live.connections;
  await until(() => ws!.bufferedAmount >= 64 * KIB, "a full buffer");
  client.socket.resume();
  for (let id = 0; id < 200; id++) expect(await received(client)).toMatchObject({ id });
}, 20_000);

describe("past the queue go", () => {
  test("$/ping, $/cancel and answers to asks, while calls wait", async () => {
    const { app, live, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call("first", "hold", { key: "first" }));
    for (let id = 0; id < 200; id++) client.send(call(id, "nothing"));
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping", result: "pong" });
    client.send(notification("$/cancel", { id: 7 }));
    expect(await received(client)).toMatchObject({ id: 7, error: { code: -32_800 } });
    const [ws] = live.connections;
    const answer = live.ask(ws!, "confirm", { what: "outside" });
    client.send(result((await received(client)).id, true));
    expect(await answer).toBe(true);
    gates.open("first");
    const ids: unknown[] = [];
    for (let count = 0; count < 200; count++) ids.push((await received(client)).id);
    expect(ids).toEqual(["first", ...Array.from({ length: 200 }, (_, id) => id).filter((id) => id !== 7)]);
  });
});

describe("a slot", () => {
  test("is lent while its call awaits an answer, and taken back before it goes on", async () => {
    const { app, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call(1, "asking", { key: "a" }));
    const ask = await received(client);
    client.send(call(2, "hold", { key: "b" }));
    client.send(call(3, "hold", { key: "c" }));
    expect(await gates.begun.until(2)).toEqual(["asks a", "b"]);
    client.send(result(ask.id, true));
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping" });
    // Its answer is here, but "b" has the only slot.
    expect(gates.begun.all).toEqual(["asks a", "b"]);
    gates.open("b");
    // It goes on before "c", which has not begun.
    expect(await gates.begun.until(4)).toEqual(["asks a", "b", "answered a", "c"]);
    gates.open("c");
    const answers = [await received(client), await received(client), await received(client)];
    expect(answers.map(({ id }) => id)).toEqual([2, 1, 3]);
  });

  test("is lent once by a call that asks several things at once", async () => {
    const { app, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call(1, "askingAll", { keys: ["a", "b", "c"] }));
    const asks = [await received(client), await received(client), await received(client)];
    client.send(call(2, "hold", { key: "x" }));
    client.send(call(3, "hold", { key: "y" }));
    await gates.begun.until(1);
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping" });
    expect(gates.begun.all).toEqual(["x"]);
    for (const { id } of asks) client.send(result(id, true));
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping" });
    gates.open("x");
    expect(await gates.begun.until(3)).toEqual(["x", "answered all", "y"]);
    gates.open("y");
  });

  test("is lent too by a method that began with answers of its own", async () => {
    const { app, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call(1, "sometimesAsking", {}));
    expect(await received(client)).toMatchObject({ id: 1, result: false });
    // Now it is known to be one that awaits something.
    client.send(call(2, "sometimesAsking", { what: "first" }));
    client.send(result((await received(client)).id, true));
    expect(await received(client)).toMatchObject({ id: 2, result: true });
    client.send(call(3, "sometimesAsking", { what: "second" }));
    const ask = await received(client);
    client.send(call(4, "hold", { key: "x" }));
    expect(await gates.begun.until(1)).toEqual(["x"]);
    gates.open("x");
    expect(await received(client)).toMatchObject({ id: 4 });
    client.send(result(ask.id, true));
    expect(await received(client)).toMatchObject({ id: 3, result: true });
  });

  test("is not freed by asks that no call made", async () => {
    const { app, live, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call("ping", "$/ping"));
    await received(client);
    const [ws] = live.connections;
    const asks = ["a", "b", "c"].map((what) => live.ask(ws!, "confirm", { what }));
    const ids = [await received(client), await received(client), await received(client)].map(({ id }) => id);
    for (const key of ["x", "y", "z"]) client.send(call(key, "hold", { key }));
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping" });
    expect(gates.begun.all).toEqual(["x"]);
    for (const id of ids) client.send(result(id, true));
    expect(await Promise.all(asks)).toEqual([true, true, true]);
    client.send(call("ping", "$/ping"));
    expect(await received(client)).toMatchObject({ id: "ping" });
    expect(gates.begun.all).toEqual(["x"]);
    for (const key of ["x", "y", "z"]) {
      gates.open(key);
      expect(await received(client)).toMatchObject({ id: key });
    }
  });

  test("belongs to a method until it has returned, also when its call has timed out or was cancelled", async () => {
    const { app, gates, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.send(call(1, "short", { key: "a" }));
    client.send(call(2, "hold", { key: "b" }));
    expect(await received(client)).toMatchObject({ id: 1, error: { code: -32_003 } });
    expect(await gates.aborted.until(1)).toEqual(["a"]);
    expect(gates.begun.all).toEqual(["a"]);
    gates.open("a");
    expect(await gates.begun.until(2)).toEqual(["a", "b"]);
    client.send(call(3, "hold", { key: "c" }));
    client.send(notification("$/cancel", { id: 2 }));
    expect(await received(client)).toMatchObject({ id: 2, error: { code: -32_800 } });
    expect(gates.begun.all).toEqual(["a", "b"]);
    gates.open("b");
    expect(await gates.begun.until(3)).toEqual(["a", "b", "c"]);
    gates.open("c");
    expect(await received(client)).toMatchObject({ id: 3, result: "c" });
  });
});

describe("nobody waits for ever at concurrency 1", () => {
  test("when a client calls before it answers", async () => {
    const { app, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using client = await open(port, "/pressure");
    for (const id of [1, 2, 3]) client.send(call(id, "asking", { key: `${id}` }));
    const asks = new Map<unknown, unknown>();
    const answers: Received[] = [];
    while (answers.length < 3) {
      const frame = await received(client);
      if (frame.method === "confirm") {
        asks.set(`inner ${frame.id}`, frame.id);
        client.send(call(`inner ${frame.id}`, "nothing"));
      } else if (asks.has(frame.id)) client.send(result(asks.get(frame.id), true));
      else answers.push(frame);
    }
    expect(answers.map(({ result }) => result)).toEqual([true, true, true]);
  });

  test("when calls of two clients ask each other, and each calls before it answers", async () => {
    const { app, live, port } = serve({ concurrency: 1 });
    await using _app = app;
    await using one = await open(port, "/pressure");
    await using two = await open(port, "/pressure");
    await until(() => live.connections.size === 2, "two connections");
    one.send(call("ask", "askOther"));
    two.send(call("ask", "askOther"));
    const play = async (client: RawClient): Promise<unknown> => {
      let asked: unknown;
      for (;;) {
        const frame = await received(client);
        if (frame.method === "confirm") {
          asked = frame.id;
          client.send(call("inner", "nothing"));
        } else if (frame.id === "inner") client.send(result(asked, true));
        else return frame.result;
      }
    };
    expect(await Promise.all([play(one), play(two)])).toEqual([true, true]);
  });
});

describe("reading pauses", () => {
  /** Whether a ping goes past what waits, or is not read before the first call has ended. */
  async function isRead(client: RawClient, gates: Gates): Promise<boolean> {
    client.send(call("ping", "$/ping"));
    // Behind the ping: when the server has this, it had the ping too, if it reads.
    const first = received(client);
    const winner = await Promise.race([first, Bun.sleep(150)]);
    gates.openAll();
    return (winner ?? (await first)).id === "ping";
  }

  const rows: [string, (client: RawClient) => void, boolean][] = [
    ["not while 256 calls wait", (client) => fill(client, 256), true],
    ["when more than 256 wait", (client) => fill(client, 257), false],
    [
      "not for those that were cancelled while they waited",
      (client) => {
        fill(client, 256);
        for (let id = 0; id < 256; id++) client.send(call(`c${id}`, "$/cancel", { id }));
        fill(client, 256);
      },
      true,
    ],
    ["when more than 1 MiB waits", (client) => fill(client, 3, 500 * KIB), false],
    ["not while less than 1 MiB waits", (client) => fill(client, 2, 500 * KIB), true],
  ];
  function fill(client: RawClient, count: number, size = 0): void {
    for (let id = 0; id < count; id++) {
      client.send(call(id, "hold", { key: "first", padding: "x".repeat(size) }));
    }
  }
  for (const [name, send, read] of rows) {
    test(name, async () => {
      const { app, gates, port } = serve({ concurrency: 1 });
      await using _app = app;
      await using client = await open(port, "/pressure");
      client.send(call("first", "hold", { key: "first" }));
      await gates.begun.until(1);
      send(client);
      if (name.includes("cancelled")) {
        for (let count = 0; count < 512; count++) await received(client);
      }
      expect(await isRead(client, gates)).toBe(read);
    });
  }

  test("for a client that has pings answered and reads none of it", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    await using client = await open(port, "/pressure");
    client.socket.pause();
    const COUNT = 400;
    const id = "x".repeat(60 * KIB);
    for (let count = 0; count < COUNT; count++) client.send(call(id + count, "$/ping"));
    const [ws] = live.connections;
    await until(() => ws!.bufferedAmount >= 64 * KIB, "a full buffer");
    let left = -1;
    while (left !== client.socket.writableLength) {
      left = client.socket.writableLength;
      await Bun.sleep(100);
    }
    // 24 MiB were sent; what the server does not want stays here.
    expect(left).toBeGreaterThan(4 * KIB * KIB);
    client.socket.resume();
    for (let count = 0; count < COUNT; count++) expect((await received(client)).id).toBe(id + count);
  }, 20_000);
});
