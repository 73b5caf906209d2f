// JSON-RPC 2.0 on a channel, by a bare client: the specification's own examples, and everything that a client can
// get wrong. Each is answered; nothing closes the connection.

import { describe, expect, test } from "bun:test";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { Events, keptLog } from "../support/log.js";
import { BINARY, frame, open, type RawClient } from "../support/raw.js";

const numbers = z.union([z.array(z.number()), z.object({ minuend: z.number(), subtrahend: z.number() })]);

/** The methods that the specification's examples call. */
const contract = defineChannel({
  path: "/rpc",
  methods: {
    subtract: { params: numbers, result: z.number() },
    sum: { params: z.array(z.number()), result: z.number() },
    get_data: { result: z.tuple([z.string(), z.number()]) },
    update: { params: z.array(z.number()) },
    notify_hello: { params: z.array(z.number()) },
    notify_sum: { params: z.array(z.number()) },
    slow: { params: z.object({ key: z.string() }), result: z.string() },
    fails: { result: z.number() },
    lies: { result: z.number() },
    toString: { result: z.string() },
    count: { params: z.object({ to: z.number() }), stream: z.number() },
  },
});

interface Served extends AsyncDisposable {
  client: RawClient;
  other: () => Promise<RawClient>;
  log: ReturnType<typeof keptLog>;
  begun: Events<string>;
  gates: Map<string, PromiseWithResolvers<void>>;
  aborted: Events<string>;
}

async function serve(options: { concurrency?: number } = {}): Promise<Served> {
  const log = keptLog();
  const app = quiet({ logger: log });
  const begun = new Events<string>();
  const aborted = new Events<string>();
  const gates = new Map<string, PromiseWithResolvers<void>>();
  const gate = (key: string): PromiseWithResolvers<void> => {
    const found = gates.get(key) ?? Promise.withResolvers<void>();
    gates.set(key, found);
    return found;
  };
  app
    .channel(contract, {
      ...options,
    })
    .implement({
      methods: {
        subtract: (params) =>
          Array.isArray(params) ? params[0]! - params[1]! : params.minuend - params.subtrahend,
        sum: (params) => params.reduce((sum, value) => sum + value, 0),
        get_data: () => ["hello", 5],
        update() {},
        notify_hello: (params) => begun.push(`hello ${params[0]}`),
        notify_sum() {},
        async slow({ key }, { signal }) {
          begun.push(key);
          signal.addEventListener("abort", () => aborted.push(key));
          await gate(key).promise;
          return key;
        },
        fails() {
          throw new Error("the password is hunter2");
        },
        lies: () => "no number" as unknown as number,
        toString: () => "a method like any other",
        async *count({ to }, { signal }) {
          try {
            for (let value = 0; value < to; value++) yield value;
          } finally {
            begun.push(signal.aborted ? "count aborted" : "count ended");
          }
        },
      },
    });
  const port = listen(app);
  const client = await open(port, "/rpc");
  return {
    client,
    other: () => open(port, "/rpc"),
    log,
    begun,
    gates,
    aborted,
    async [Symbol.asyncDispose]() {
      for (const { resolve } of gates.values()) resolve();
      await client[Symbol.asyncDispose]();
      await app.stop();
    },
  };
}

const parse = async (client: RawClient): Promise<unknown> => JSON.parse(await client.text());
const error = (id: unknown, code: number): unknown => ({
  jsonrpc: "2.0",
  id,
  error: expect.objectContaining({ code }),
});

describe("the specification's examples (section 7)", () => {
  const rows: [string, string, unknown][] = [
    [
      "positional params",
      '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
      { jsonrpc: "2.0", result: 19, id: 1 },
    ],
    [
      "positional params, again",
      '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
      { jsonrpc: "2.0", result: -19, id: 2 },
    ],
    [
      "named params",
      '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
      { jsonrpc: "2.0", result: 19, id: 3 },
    ],
    [
      "named params, again",
      '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
      { jsonrpc: "2.0", result: 19, id: 4 },
    ],
    ["a notification", '{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', undefined],
    ["a notification of a method that there is not", '{"jsonrpc": "2.0", "method": "foobar"}', undefined],
    ["a method that there is not", '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', error("1", -32_601)],
    ["invalid JSON", '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', error(null, -32_700)],
    ["an invalid request", '{"jsonrpc": "2.0", "method": 1, "params": "bar"}', error(null, -32_600)],
    [
      "a batch of invalid JSON",
      '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"]',
      error(null, -32_700),
    ],
    ["an empty batch", "[]", error(null, -32_600)],
    ["an invalid batch", "[1]", [error(null, -32_600)]],
    [
      "a batch of three invalid ones",
      "[1,2,3]",
      [error(null, -32_600), error(null, -32_600), error(null, -32_600)],
    ],
    [
      "a batch",
      `[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]`,
      expect.arrayContaining([
        { jsonrpc: "2.0", result: 7, id: "1" },
        { jsonrpc: "2.0", result: 19, id: "2" },
        error(null, -32_600),
        error("5", -32_601),
        { jsonrpc: "2.0", result: ["hello", 5], id: "9" },
      ]),
    ],
    [
      "a batch of notifications",
      '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
      undefined,
    ],
  ];
  for (const [name, sent, answer] of rows) {
    test(name, async () => {
      await using served = await serve();
      served.client.send(sent);
      // What is not answered shows in that the next answer is the ping's.
      served.client.send('{"jsonrpc":"2.0","id":"end","method":"$/ping"}');
      if (answer !== undefined) expect(await parse(served.client)).toEqual(answer);
      expect(await parse(served.client)).toEqual({ jsonrpc: "2.0", id: "end", result: "pong" });
    });
  }
});

describe("answered, and the connection stays:", () => {
  const deep = `${"[".repeat(10_000)}${"]".repeat(10_000)}`;
  const call = (rest: string) => `{"jsonrpc":"2.0","id":1,${rest}}`;
  const rows: [string, string | Buffer, unknown][] = [
    ["a binary frame", frame(BINARY, "{}"), error(null, -32_700)],
    ["nothing", "", error(null, -32_700)],
    ["JSON that is no object", "5", error(null, -32_600)],
    ["null", "null", error(null, -32_600)],
    ["another version", '{"jsonrpc":"1.0","id":1,"method":"sum"}', error(1, -32_600)],
    ["an id that is an object", '{"jsonrpc":"2.0","id":{},"method":"sum"}', error(null, -32_600)],
    [
      "an id that is null",
      '{"jsonrpc":"2.0","id":null,"method":"get_data"}',
      { jsonrpc: "2.0", id: null, result: ["hello", 5] },
    ],
    [
      "an id that is a string",
      '{"jsonrpc":"2.0","id":"a","method":"get_data"}',
      { jsonrpc: "2.0", id: "a", result: ["hello", 5] },
    ],
    [
      "an id with a fraction",
      '{"jsonrpc":"2.0","id":1.5,"method":"get_data"}',
      { jsonrpc: "2.0", id: 1.5, result: ["hello", 5] },
    ],
    ["params that are a string", call('"method":"sum","params":"no"'), error(1, -32_600)],
    [
      "params that the schema refuses",
      call('"method":"sum","params":["a"]'),
      {
        jsonrpc: "2.0",
        id: 1,
        error: {
          code: -32_602,
          message: "Invalid params",
          data: { issues: [{ message: expect.any(String), path: [0] }] },
        },
      },
    ],
    ["no params where some are needed", call('"method":"sum"'), error(1, -32_602)],
    ["the method __proto__", call('"method":"__proto__"'), error(1, -32_601)],
    ["the method constructor", call('"method":"constructor"'), error(1, -32_601)],
    [
      "a method that is called toString",
      call('"method":"toString"'),
      { jsonrpc: "2.0", id: 1, result: "a method like any other" },
    ],
    ["a $/ method that is not ours", call('"method":"$/nothing"'), error(1, -32_601)],
    [
      "__proto__ in params",
      call('"method":"subtract","params":{"__proto__":{"minuend":1},"subtrahend":1}'),
      error(1, -32_602),
    ],
    ["depth 10,000", call(`"method":"sum","params":${deep}`), error(1, -32_602)],
    ["a batch of 101", `[${Array.from({ length: 101 }, () => "1").join()}]`, error(null, -32_600)],
    ["a stream in a batch", `[${call('"method":"count","params":{"to":3}')}]`, [error(1, -32_600)]],
    [
      "a method without a result",
      call('"method":"update","params":[1]'),
      { jsonrpc: "2.0", id: 1, result: null },
    ],
  ];
  for (const [name, sent, answer] of rows) {
    test(name, async () => {
      await using served = await serve();
      if (typeof sent === "string") served.client.send(sent);
      else served.client.write(sent);
      expect(await parse(served.client)).toEqual(answer);
      served.client.send('{"jsonrpc":"2.0","id":"end","method":"get_data"}');
      expect(await parse(served.client)).toEqual({ jsonrpc: "2.0", id: "end", result: ["hello", 5] });
    });
  }
});

test("what a method throws is -32603 with a reference that the log has too, and nothing else", async () => {
  await using served = await serve();
  served.client.send('{"jsonrpc":"2.0","id":1,"method":"fails"}');
  const text = await served.client.text();
  const { ref } = (JSON.parse(text) as { error: { data: { ref: string } } }).error.data;
  expect(text).not.toContain("hunter2");
  expect(served.log.lines.find(({ level }) => level === "error")?.fields).toMatchObject({
    ref,
    error: new Error("the password is hunter2"),
  });
});

test("a result that its schema forbids is -32603 and a log line that says what is wrong", async () => {
  await using served = await serve();
  served.client.send('{"jsonrpc":"2.0","id":1,"method":"lies"}');
  expect(await parse(served.client)).toEqual(error(1, -32_603));
  expect(String(served.log.lines.find(({ level }) => level === "error")?.fields.error)).toContain(
    "the result of lies does not match the contract",
  );
});

test("an id that is in flight is refused for a second call", async () => {
  await using served = await serve();
  const call = '{"jsonrpc":"2.0","id":7,"method":"slow","params":{"key":"a"}}';
  served.client.send(call);
  served.client.send(call);
  expect(await parse(served.client)).toEqual(error(7, -32_600));
  served.gates.get("a")!.resolve();
  expect(await parse(served.client)).toEqual({ jsonrpc: "2.0", id: 7, result: "a" });
  served.client.send(call);
  expect(await parse(served.client)).toEqual({ jsonrpc: "2.0", id: 7, result: "a" });
});

test("1,000 calls at once: no more than concurrency run, all are answered, each once", async () => {
  await using served = await serve({ concurrency: 10 });
  for (let id = 0; id < 1_000; id++) {
    served.client.send(`{"jsonrpc":"2.0","id":${id},"method":"slow","params":{"key":"k${id}"}}`);
  }
  await served.begun.until(10);
  await Bun.sleep(30); // for an eleventh, if there were one
  expect(served.begun.all).toHaveLength(10);
  for (let next = 0; next < 1_000; next++) {
    await served.begun.until(next + 1);
    served.gates.get(`k${next}`)!.resolve();
  }
  const ids = new Set<number>();
  for (let count = 0; count < 1_000; count++) ids.add(((await parse(served.client)) as { id: number }).id);
  expect(ids.size).toBe(1_000);
});

test("cancel: the signal fires, -32800 comes at once, a late result is let go, and a slot is free", async () => {
  await using served = await serve();
  served.client.send('{"jsonrpc":"2.0","id":1,"method":"slow","params":{"key":"a"}}');
  await served.begun.until(1);
  served.client.send('{"jsonrpc":"2.0","method":"$/cancel","params":{"id":1}}');
  expect(await parse(served.client)).toEqual(error(1, -32_800));
  expect(await served.aborted.until(1)).toEqual(["a"]);
  served.gates.get("a")!.resolve();
  served.client.send('{"jsonrpc":"2.0","method":"$/cancel","params":{"id":99}}');
  served.client.send('{"jsonrpc":"2.0","method":"$/cancel"}');
  served.client.send('{"jsonrpc":"2.0","id":2,"method":"get_data"}');
  expect(await parse(served.client)).toMatchObject({ id: 2 });
});

test("when the client leaves, the signals of what runs fire", async () => {
  await using served = await serve();
  const other = await served.other();
  other.send('{"jsonrpc":"2.0","id":1,"method":"slow","params":{"key":"a"}}');
  await served.begun.until(1);
  other.reset();
  expect(await served.aborted.until(1)).toEqual(["a"]);
});

test("a stream is its values and then null; cancelled, it ends and its generator with it", async () => {
  await using served = await serve();
  served.client.send('{"jsonrpc":"2.0","id":1,"method":"count","params":{"to":3}}');
  for (const value of [0, 1, 2]) {
    expect(await parse(served.client)).toEqual({
      jsonrpc: "2.0",
      method: "$/next",
      params: { id: 1, value },
    });
  }
  expect(await parse(served.client)).toEqual({ jsonrpc: "2.0", id: 1, result: null });
  served.client.send('{"jsonrpc":"2.0","id":2,"method":"count","params":{"to":1e9}}');
  await served.client.text();
  served.client.send('{"jsonrpc":"2.0","method":"$/cancel","params":{"id":2}}');
  let last = (await parse(served.client)) as { id?: unknown };
  while (last.id !== 2) last = (await parse(served.client)) as { id?: unknown };
  expect<unknown>(last).toEqual(error(2, -32_800));
  expect(await served.begun.until(2)).toEqual(["count ended", "count aborted"]);
});

test("a seventeenth stream at a time is refused", async () => {
  await using served = await serve();
  served.client.socket.pause();
  for (let id = 0; id < 17; id++) {
    served.client.send(`{"jsonrpc":"2.0","id":${id},"method":"count","params":{"to":1e9}}`);
  }
  served.client.socket.resume();
  let refused = (await parse(served.client)) as { id?: unknown };
  while (refused.id === undefined) refused = (await parse(served.client)) as { id?: unknown };
  expect<unknown>(refused).toEqual(error(16, -32_002));
});

test("a stream is held back while its reader is: the generator does not run ahead", async () => {
  const log = keptLog();
  await using app = quiet({ logger: log, ws: { backpressureLimit: 64 * 1024 } });
  let made = 0;
  const big = defineChannel({ path: "/big", methods: { all: { stream: z.string() } } });
  app.channel(big).implement({
    methods: {
      async *all() {
        for (; made < 10_000; made++) yield "x".repeat(16 * 1024);
      },
    },
  });
  await using client = await open(listen(app), "/big");
  client.socket.pause();
  client.send('{"jsonrpc":"2.0","id":1,"method":"all"}');
  await until(() => made > 0, "the first value");
  let before = -1;
  while (before !== made) {
    before = made;
    await Bun.sleep(60);
  }
  expect(made).toBeLessThan(1_000); // what kernel and buffer take, of 10,000
  client.socket.resume();
  for (let count = 0; count < 10_000; count++) await client.text();
  expect(await parse(client)).toEqual({ jsonrpc: "2.0", id: 1, result: null });
  expect(app.websocket.counters.dropped).toBe(0);
}, 20_000);

describe("$/pause and $/resume", () => {
  /** A server whose stream counts up, and notes how far its generator has come. */
  async function streaming() {
    const app = quiet();
    const seen = { made: 0, ended: new Events<boolean>() };
    const numbers = defineChannel({
      path: "/numbers",
      methods: { all: { params: z.object({ to: z.number() }), stream: z.number() } },
    });
    app.channel(numbers).implement({
      methods: {
        async *all({ to }, { signal }) {
          try {
            for (seen.made = 0; seen.made < to; seen.made++) yield seen.made;
          } finally {
            seen.ended.push(signal.aborted);
          }
        },
      },
    });
    const client = await open(listen(app), "/numbers");
    const say = (method: string, params: object): void =>
      client.send(JSON.stringify({ jsonrpc: "2.0", method, params }));
    const value = async (): Promise<unknown> =>
      ((await parse(client)) as { params?: { value: number } }).params?.value;
    /** Reads on until a ping that was sent now is answered, and gives the values that came before. */
    const untilPong = async (): Promise<unknown[]> => {
      client.send('{"jsonrpc":"2.0","id":"p","method":"$/ping"}');
      const values: unknown[] = [];
      for (;;) {
        const frame = (await parse(client)) as { id?: unknown; params?: { value: number } };
        if (frame.id === "p") return values;
        values.push(frame.params?.value);
      }
    };
    return {
      client,
      seen,
      say,
      value,
      untilPong,
      async [Symbol.asyncDispose]() {
        await client[Symbol.asyncDispose]();
        await app.stop({ timeout: 100 });
      },
    };
  }

  test("stop the generator, and let it go on where it was", async () => {
    await using on = await streaming();
    on.client.send('{"jsonrpc":"2.0","id":1,"method":"all","params":{"to":1e9}}');
    expect(await on.value()).toBe(0);
    on.say("$/pause", { id: 1 });
    on.say("$/pause", { id: 1 });
    await on.untilPong();
    // Of what was made before, everything has come; and nothing more is made.
    const { made } = on.seen;
    expect(await on.untilPong()).toEqual([]);
    expect(await on.untilPong()).toEqual([]);
    expect(on.seen.made).toBe(made);
    on.say("$/resume", { id: 1 });
    expect(await on.value()).toBe(made + 1);
    expect(await on.value()).toBe(made + 2);
    on.say("$/resume", { id: 1 });
    expect(await on.value()).toBe(made + 3);
  });

  test("a paused stream ends with $/cancel, and with its connection", async () => {
    await using on = await streaming();
    for (const id of [1, 2]) {
      on.client.send(`{"jsonrpc":"2.0","id":${id},"method":"all","params":{"to":1e9}}`);
      on.say("$/pause", { id });
    }
    await on.untilPong();
    on.say("$/cancel", { id: 1 });
    expect(await parse(on.client)).toEqual(error(1, -32_800));
    expect(await on.seen.ended.until(1)).toEqual([true]);
    on.client.reset();
    expect(await on.seen.ended.until(2)).toEqual([true, true]);
  });

  test("for what is no stream they do nothing, and are answered where they ask for it", async () => {
    await using on = await streaming();
    on.say("$/pause", { id: 99 });
    on.say("$/resume", {});
    on.client.send('{"jsonrpc":"2.0","method":"$/pause"}');
    on.client.send('{"jsonrpc":"2.0","id":5,"method":"$/pause","params":{"id":[]}}');
    expect(await parse(on.client)).toEqual({ jsonrpc: "2.0", id: 5, result: null });
    on.client.send('{"jsonrpc":"2.0","id":99,"method":"all","params":{"to":2}}');
    expect([await on.value(), await on.value(), await parse(on.client)]).toEqual([
      0,
      1,
      { jsonrpc: "2.0", id: 99, result: null },
    ]);
  });

  test("an id that is used again after a cancel is another stream", async () => {
    await using on = await streaming();
    on.client.send('{"jsonrpc":"2.0","id":1,"method":"all","params":{"to":1e9}}');
    on.say("$/pause", { id: 1 });
    on.say("$/cancel", { id: 1 });
    on.client.send('{"jsonrpc":"2.0","id":1,"method":"all","params":{"to":2}}');
    let last = (await parse(on.client)) as { id?: unknown };
    while (last.id !== 1) last = (await parse(on.client)) as { id?: unknown };
    expect<unknown>(last).toEqual(error(1, -32_800));
    expect([await on.value(), await on.value(), await parse(on.client)]).toEqual([
      0,
      1,
      { jsonrpc: "2.0", id: 1, result: null },
    ]);
  });
});

test("a stream that waits for nothing leaves everybody else a turn", async () => {
  await using served = await serve();
  await using other = await served.other();
  // Its reader is another thread: it takes all that comes, so that the server never has to wait for it.
  const reader = new Worker(
    URL.createObjectURL(
      new Blob([
        `onmessage = ({ data }) => {
          const socket = new WebSocket(data);
          socket.onopen = () => socket.send('{"jsonrpc":"2.0","id":1,"method":"count","params":{"to":1e9}}');
          let count = 0;
          socket.onmessage = () => { if (++count === 1_000) postMessage("reading"); };
        };`,
      ]),
    ),
  );
  const reading = new Promise((resolve) => (reader.onmessage = resolve));
  reader.postMessage(`ws://127.0.0.1:${other.socket.remotePort}/rpc`);
  await reading;
  for (let id = 0; id < 10; id++) {
    other.send(`{"jsonrpc":"2.0","id":${id},"method":"get_data"}`);
    expect(await parse(other)).toMatchObject({ id });
  }
  reader.terminate();
});
