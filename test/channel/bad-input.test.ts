// What clients, methods and schemas can get wrong on a channel: each is answered or told, and the connection goes on.

import { describe, expect, test } from "bun:test";
import { type Contract, defineChannel, RpcError, type Schema } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { call, Gates, notification, type Received, received, result } from "../support/channel.js";
import { keptLog } from "../support/log.js";
import { CLOSE, closeFrame, frame, open, type RawClient, TEXT } from "../support/raw.js";

const KIB = 1024;

/** A schema of no library, which does as it is told. */
function schema(validate: (value: unknown) => unknown): Schema {
  return { "~standard": { version: 1, vendor: "test", validate: validate as never } };
}

const throws = schema(() => {
  throw new Error("the schema is broken");
});
const rejects = schema(() => Promise.reject(new Error("the schema is broken")));
const slowly = schema(async (value) => {
  await Promise.resolve();
  return typeof value === "number" ? { value: value + 1 } : { issues: [{ message: "no number" }] };
});
// oxlint-disable-next-line unicorn/no-thenable
const thenable = schema((value) => ({ then: (take: (given: unknown) => void) => take({ value }) }));

const contract = defineChannel({
  path: "/bad",
  methods: {
    echo: { params: z.any(), result: z.any() },
    hold: { params: z.object({ key: z.string() }), result: z.string() },
    give: { params: z.object({ what: z.string() }), result: z.any() },
    fail: {
      params: z.object({ how: z.string() }),
      errors: {
        MUTED: z.object({ until: z.number() }),
        BROKEN: throws,
        REJECTING: rejects,
        BIG: z.string(),
      },
    },
    paramsThrow: { params: throws },
    paramsReject: { params: rejects },
    resultThrows: { result: throws },
    resultRejects: { result: rejects },
    slowly: { params: slowly, result: slowly },
    thenable: { params: thenable, result: thenable },
    stream: { params: z.object({ what: z.string() }), stream: z.any() },
    forbids: { params: z.object({ what: z.string() }), stream: z.number() },
    asks: { result: z.boolean() },
    closes: {},
    toString: { result: z.string() },
    constructor: { result: z.string() },
    ["__proto__"]: { result: z.string() },
  },
  events: {
    note: { params: z.object({ text: z.string() }) },
    confirm: { params: z.object({ text: z.string() }), result: z.boolean() },
  },
});

const cycle: Record<string, unknown> = {};
cycle.self = cycle;
const GIVES: Record<string, () => unknown> = {
  bigint: () => 1n,
  cycle: () => cycle,
  toJSON: () => ({
    toJSON() {
      throw new Error("no JSON of this");
    },
  }),
  undefined: () => undefined,
  function: () => () => 1,
  symbol: () => Symbol("s"),
  large: () => "é".repeat(600 * KIB),
  nearlyLarge: () => "é".repeat(500 * KIB),
  rejectsUndefined: () => Promise.reject(),
  throwsNull() {
    throw null;
  },
};

function serve() {
  const log = keptLog();
  const app = quiet({ logger: log, ws: { backpressureLimit: 64 * KIB } });
  const gates = new Gates();
  const ran: string[] = [];
  const live = app.channel(contract).implement({
    methods: {
      echo: (params) => params,
      hold: ({ key }, { signal }) => gates.wait(key, signal),
      give: ({ what }) => GIVES[what]!(),
      fail({ how }, { error }) {
        switch (how) {
          case "forbidden":
            throw new RpcError("FORBIDDEN", "not yours", { data: { why: "x" } });
          case "MUTED":
            throw error("MUTED", { until: "no number" as unknown as number });
          case "BROKEN":
            throw error("BROKEN", 1);
          case "REJECTING":
            throw error("REJECTING", 1);
          case "BIG":
            throw error("BIG", "x".repeat(2_000 * KIB));
          default:
            throw error(how as "BIG", "x");
        }
      },
      paramsThrow() {},
      paramsReject() {},
      resultThrows: () => 1,
      resultRejects: () => 1,
      slowly: (value) => value,
      thenable: (value) => value,
      // oxlint-disable-next-line require-yield
      async *stream({ what }) {
        if (what === "throws") throw new Error("boom");
        yield "first";
        if (what === "later") throw new Error("boom");
        if (what === "hang") await gates.wait("hang");
        yield GIVES[what]?.();
      },
      forbids: (({ what }: { what: string }) => {
        if (what === "string") return "a string";
        if (what === "undefined") return undefined;
        if (what === "rejects") return Promise.reject(new Error("boom"));
        return [1, "two", 3];
      }) as never,
      asks: (_params, { ws }) => live.ask(ws, "confirm", { text: "sure?" }),
      closes(_params, { ws }) {
        ws.close(4000, "enough");
      },
      toString: () => "toString",
      constructor: () => "constructor",
      ["__proto__"]: () => {
        ran.push("__proto__");
        return "__proto__";
      },
    },
  });
  return { app, live, log, gates, ran, port: listen(app) };
}

/** The connection still answers. */
async function isAlive(client: RawClient): Promise<void> {
  client.send(call("alive", "echo", { still: "here" }));
  expect(await received(client)).toEqual({
    jsonrpc: "2.0",
    id: "alive",
    result: { still: "here" },
  } as Received);
}

const ok = (id: unknown, value: unknown): unknown => ({ jsonrpc: "2.0", id, result: value });
const error = (id: unknown, code: number, more: object = {}): unknown => ({
  jsonrpc: "2.0",
  id,
  error: expect.objectContaining({ code, ...more }),
});
const internal = error(1, -32_603, { data: { ref: expect.any(String) } });

const deep = `${"[".repeat(10_000)}${"]".repeat(10_000)}`;

describe("answered:", () => {
  const give = (what: string) => call(1, "give", { what });
  const fail = (how: string) => call(1, "fail", { how });
  const rows: [string, string, unknown][] = [
    // ids
    ["an empty id", call("", "echo"), ok("", null)],
    ["the id 0", call(0, "echo"), ok(0, null)],
    ["a negative id with a fraction", call(-1.5, "echo"), ok(-1.5, null)],
    ["the greatest whole id", call(2 ** 53 - 1, "echo"), ok(2 ** 53 - 1, null)],
    [
      "an id that a number cannot hold",
      '{"jsonrpc":"2.0","id":9007199254740993,"method":"echo"}',
      error(null, -32_600),
    ],
    ["an id beyond all numbers", '{"jsonrpc":"2.0","id":1e999,"method":"echo"}', error(null, -32_600)],
    ["an id of 100 KiB", call("x".repeat(100 * KIB), "echo"), ok("x".repeat(100 * KIB), null)],
    ["an id that is true", call(true, "echo"), error(null, -32_600)],
    ["an id that is an array", call([1], "echo"), error(null, -32_600)],
    // names
    ["a method that is called toString", call(1, "toString"), ok(1, "toString")],
    ["a method that is called constructor", call(1, "constructor"), ok(1, "constructor")],
    ["a method that is called __proto__", call(1, "__proto__"), ok(1, "__proto__")],
    ["a method of every object", call(1, "hasOwnProperty"), error(1, -32_601)],
    ["a method without a name", call(1, ""), error(1, -32_601)],
    ["a method name of 100 KiB", call(1, "x".repeat(100 * KIB)), error(1, -32_601)],
    ["rpc.discover", call(1, "rpc.discover"), error(1, -32_601)],
    // params
    [
      "__proto__ in params, which stays a name",
      '{"jsonrpc":"2.0","id":1,"method":"echo","params":{"__proto__":{"a":1}}}',
      ok(1, JSON.parse('{"__proto__":{"a":1}}')),
    ],
    [
      "__proto__ around a frame",
      '{"__proto__":{"jsonrpc":"2.0","id":1,"method":"echo"}}',
      error(null, -32_600),
    ],
    [
      "constructor in params",
      call(1, "hold", { constructor: { prototype: { key: "a" } } }),
      error(1, -32_602),
    ],
    [
      "params 10,000 deep, echoed",
      `{"jsonrpc":"2.0","id":1,"method":"echo","params":${deep}}`,
      { jsonrpc: "2.0", id: 1, result: expect.any(Array) },
    ],
    ["an array 500,000 deep", "[".repeat(500_000), error(null, -32_700)],
    ["an object 100,000 deep", '{"a":'.repeat(100_000), error(null, -32_700)],
    ["params that are null", '{"jsonrpc":"2.0","id":1,"method":"echo","params":null}', error(1, -32_600)],
    ["a method that is null", '{"jsonrpc":"2.0","id":1,"method":null}', error(1, -32_600)],
    ["no version", '{"id":1,"method":"echo"}', error(1, -32_600)],
    ["an error that is none", '{"jsonrpc":"2.0","id":1,"error":"no"}', error(1, -32_600)],
    // results
    ["a result that is a BigInt", give("bigint"), internal],
    ["a result that is a circle", give("cycle"), internal],
    ["a result whose toJSON throws", give("toJSON"), internal],
    ["a result that is undefined", give("undefined"), ok(1, null)],
    ["a result that is a function", give("function"), ok(1, null)],
    ["a result that is a symbol", give("symbol"), ok(1, null)],
    ["a result above maxPayloadLength", give("large"), error(1, -32_004)],
    ["a rejection with nothing", give("rejectsUndefined"), internal],
    ["a thrown null", give("throwsNull"), internal],
    // errors
    [
      "FORBIDDEN, thrown by the method",
      fail("forbidden"),
      { jsonrpc: "2.0", id: 1, error: { code: -32_001, message: "not yours", data: { why: "x" } } },
    ],
    ["an error whose data its schema forbids", fail("MUTED"), internal],
    ["an error whose schema throws", fail("BROKEN"), internal],
    ["an error whose schema rejects", fail("REJECTING"), internal],
    ["an error that the contract does not have", fail("GONE"), internal],
    ["an error that is called constructor", fail("constructor"), internal],
    ["an error above maxPayloadLength", fail("BIG"), error(1, -32_004)],
    // schemas
    ["a params schema that throws", call(1, "paramsThrow"), internal],
    ["a params schema that rejects", call(1, "paramsReject"), internal],
    ["a result schema that throws", call(1, "resultThrows"), internal],
    ["a result schema that rejects", call(1, "resultRejects"), internal],
    [
      "async schemas that refuse",
      call(1, "slowly", {}),
      error(1, -32_602, { data: { issues: [{ message: "no number", path: [] }] } }),
    ],
    ["schemas that give thenables", call(1, "thenable", { a: 1 }), ok(1, { a: 1 })],
    // harpia's own
    ["a cancel for nothing", call(1, "$/cancel", { id: "nothing" }), ok(1, null)],
    ["a cancel of itself", call(1, "$/cancel", { id: 1 }), ok(1, null)],
    ["a cancel without params", call(1, "$/cancel"), ok(1, null)],
    ["a cancel with an array", call(1, "$/cancel", [1]), ok(1, null)],
    ["a cancel of an object", call(1, "$/cancel", { id: {} }), ok(1, null)],
    ["a pause of nothing", call(1, "$/pause", { id: 5 }), ok(1, null)],
    ["a refresh without a hook", call(1, "$/refresh", { token: "a" }), error(1, -32_001)],
    ["a refresh without a token", call(1, "$/refresh", { token: 5 }), error(1, -32_602)],
    ["$/", call(1, "$/"), error(1, -32_601)],
    ["$/next from a client", call(1, "$/next", { id: 1, value: 1 }), error(1, -32_601)],
    // streams
    ["a stream that returns a string", call(1, "forbids", { what: "string" }), internal],
    ["a stream that returns nothing", call(1, "forbids", { what: "undefined" }), internal],
    ["a stream that rejects", call(1, "forbids", { what: "rejects" }), internal],
    ["a stream that throws before its first value", call(1, "stream", { what: "throws" }), internal],
    ["a stream whose params are refused", call(1, "stream", { what: 5 }), error(1, -32_602)],
  ];
  for (const [name, sent, answer] of rows) {
    test(name, async () => {
      const { app, port } = serve();
      await using _app = app;
      await using client = await open(port, "/bad");
      client.send(sent);
      expect<unknown>(await received(client)).toEqual(answer);
      await isAlive(client);
    });
  }
});

describe("never answered:", () => {
  const rows: [string, string][] = [
    ["a notification that fails", notification("fail", { how: "BROKEN" })],
    ["a notification whose params are refused", notification("hold", {})],
    ["a notification that asks for a stream", notification("stream", { what: "x" })],
    ["a notification of a $/ method that is not ours", notification("$/nothing")],
    ["an answer that nobody asked for", result(99, true)],
    ["an error that nobody asked for", '{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}'],
    ["a batch of answers", `[${result(1, true)},${result(2, true)}]`],
  ];
  for (const [name, sent] of rows) {
    test(name, async () => {
      const { app, port } = serve();
      await using _app = app;
      await using client = await open(port, "/bad");
      client.send(sent);
      await isAlive(client);
    });
  }
});

test("names of every object are no methods of the contract's implementation", async () => {
  const { app, ran, port } = serve();
  await using _app = app;
  await using client = await open(port, "/bad");
  client.send(call(1, "__proto__"));
  await received(client);
  expect(ran).toEqual(["__proto__"]);
  expect({}).not.toHaveProperty("a");
});

test("every -32603 has its line in the log, with the reference and the cause", async () => {
  const { app, log, port } = serve();
  await using _app = app;
  await using client = await open(port, "/bad");
  const causes: Record<string, string> = {
    bigint: "BigInt",
    cycle: "cyclic",
    toJSON: "no JSON of this",
    throwsNull: "threw a value that is no Error: null",
  };
  for (const [what, cause] of Object.entries(causes)) {
    client.send(call(1, "give", { what }));
    const { error } = await received(client);
    const { ref } = error!.data as { ref: string };
    const line = log.lines.find(({ fields }) => fields.ref === ref)!;
    expect(line).toMatchObject({
      level: "error",
      message: "the method give failed",
      fields: { route: "/bad" },
    });
    expect(String(line.fields.error)).toContain(cause);
  }
  expect(app.websocket.counters.errors).toBe(4);
});

test("a result above backpressureLimit arrives, if it is within maxPayloadLength", async () => {
  const { app, port } = serve();
  await using _app = app;
  await using client = await open(port, "/bad");
  client.send(call(1, "give", { what: "nearlyLarge" }));
  expect((await received(client)).result).toBe("é".repeat(500 * KIB));
  expect(app.websocket.counters.dropped).toBe(0);
});

describe("a stream", () => {
  const rows: [string, string, unknown][] = [
    ["that throws after a value", "later", internal],
    ["with a value that JSON cannot say", "bigint", internal],
    ["with a value above maxPayloadLength", "large", error(1, -32_004)],
  ];
  for (const [name, what, answer] of rows) {
    test(`${name} ends with the error`, async () => {
      const { app, port } = serve();
      await using _app = app;
      await using client = await open(port, "/bad");
      client.send(call(1, "stream", { what }));
      expect(await received(client)).toMatchObject({ method: "$/next", params: { id: 1, value: "first" } });
      expect<unknown>(await received(client)).toEqual(answer);
      await isAlive(client);
    });
  }

  test("with a value that its schema forbids ends with -32603, after those before it", async () => {
    const { app, log, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.send(call(1, "forbids", { what: "two" }));
    expect(await received(client)).toMatchObject({ params: { value: 1 } });
    expect<unknown>(await received(client)).toEqual(internal);
    expect(String(log.lines[0]?.fields.error)).toContain("a value of forbids does not match the contract");
  });

  test("that was cancelled has its place until its generator has ended", async () => {
    const { app, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    const ids = Array.from({ length: 16 }, (_, id) => id);
    for (const id of ids) client.send(call(id, "stream", { what: "hang" }));
    for (const id of ids) expect(await received(client)).toMatchObject({ params: { id, value: "first" } });
    await gates.begun.until(16);
    for (const id of ids) client.send(notification("$/cancel", { id }));
    for (const id of ids) expect<unknown>(await received(client)).toEqual(error(id, -32_800));
    client.send(call(99, "stream", { what: "undefined" }));
    expect<unknown>(await received(client)).toEqual(error(99, -32_002));
    gates.openAll();
    await isAlive(client);
    client.send(call(99, "stream", { what: "undefined" }));
    expect(await received(client)).toMatchObject({ params: { id: 99, value: "first" } });
  });
});

describe("a batch", () => {
  const batch = (...frames: string[]) => `[${frames.join(",")}]`;
  const rows: [string, string, unknown][] = [
    ["with one id twice", batch(call(1, "echo"), call(1, "echo")), [ok(1, null), error(1, -32_600)]],
    [
      "with ids that are null and fractions",
      batch(call(null, "echo"), call(1.5, "echo")),
      [ok(null, null), ok(1.5, null)],
    ],
    ["with a batch inside", `[[${call(1, "echo")}]]`, [error(null, -32_600)]],
    [
      "with harpia's own methods",
      batch(call(1, "$/ping"), call(2, "$/cancel", { id: 7 })),
      [ok(1, "pong"), ok(2, null)],
    ],
    [
      "whose answers are too large together",
      batch(
        ...[1, 2, 3].map((id) => call(id, "echo", ["x".repeat(300 * KIB)])),
        call(4, "give", { what: "nearlyLarge" }),
        call(5, "echo"),
      ),
      [
        expect.objectContaining({ id: 1, result: expect.any(Array) }),
        expect.objectContaining({ id: 2, result: expect.any(Array) }),
        expect.objectContaining({ id: 3, result: expect.any(Array) }),
        error(4, -32_004),
        ok(5, null),
      ],
    ],
  ];
  for (const [name, sent, answer] of rows) {
    test(name, async () => {
      const { app, port } = serve();
      await using _app = app;
      await using client = await open(port, "/bad");
      client.send(sent);
      expect<unknown>(await received(client)).toEqual(answer);
      await isAlive(client);
    });
  }

  test("of which one call is cancelled is answered whole", async () => {
    const { app, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.send(batch(call(1, "hold", { key: "a" }), call(2, "hold", { key: "b" }), call(3, "echo")));
    await gates.begun.until(2);
    client.send(notification("$/cancel", { id: 1 }));
    await isAlive(client); // so the cancel was read
    gates.open("b");
    expect<unknown>(await received(client)).toEqual([ok(3, null), error(1, -32_800), ok(2, "b")]);
    gates.open("a");
    await isAlive(client);
  });
});

describe("ids in flight:", () => {
  test("null is one of them", async () => {
    const { app, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.send(call(null, "hold", { key: "a" }));
    client.send(call(null, "hold", { key: "b" }));
    expect<unknown>(await received(client)).toEqual(error(null, -32_600));
    gates.open("a");
    expect<unknown>(await received(client)).toEqual(ok(null, "a"));
  });

  test('1 and "1" are two', async () => {
    const { app, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.send(call(1, "hold", { key: "a" }));
    client.send(call("1", "hold", { key: "b" }));
    gates.open("b");
    expect<unknown>(await received(client)).toEqual(ok("1", "b"));
    gates.open("a");
    expect<unknown>(await received(client)).toEqual(ok(1, "a"));
  });
});

describe("the connection is over", () => {
  test("for calls behind one whose method closed it: they do not run, and nothing is logged", async () => {
    const { app, log, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.write(
      Buffer.concat(
        [call(1, "closes"), call(2, "hold", { key: "late" }), "["].map((text) => frame(TEXT, text)),
      ),
    );
    const { opcode } = await client.frame();
    expect(opcode).toBe(CLOSE);
    await until(() => app.websocket.connections.size === 0, "the end");
    expect(gates.begun.all).toEqual([]);
    expect(log.lines).toEqual([]);
  });

  test("for calls that the client sends after its close frame", async () => {
    const { app, log, gates, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.write(Buffer.concat([closeFrame(1000), frame(TEXT, call(1, "hold", { key: "late" }))]));
    expect((await client.closeFrame()).code).toBe(1000);
    await until(() => app.websocket.connections.size === 0, "the end");
    expect(gates.begun.all).toEqual([]);
    expect(log.lines).toEqual([]);
  });

  const rows: [string, Buffer, number][] = [
    ["params above maxPayloadLength", frame(TEXT, call(1, "echo", ["x".repeat(1_100 * KIB)])), 1009],
    ["text that is not UTF-8", frame(TEXT, Buffer.from([0x22, 0xff, 0x22])), 1007],
    ["a frame without a mask", frame(TEXT, call(1, "echo"), { masked: false }), 1002],
  ];
  for (const [name, bytes, code] of rows) {
    test(`after ${name}: ${code}, and others go on`, async () => {
      const { app, port } = serve();
      await using _app = app;
      await using other = await open(port, "/bad");
      await using client = await open(port, "/bad");
      client.write(bytes);
      expect((await client.closeFrame()).code).toBe(code);
      await isAlive(other);
    });
  }

  test("for a method that obeys its signal, without a line in the log", async () => {
    const log = keptLog();
    await using app = quiet({ logger: log });
    const waits = defineChannel({ path: "/waits", methods: { wait: {}, fetch: {} } });
    const ended: unknown[] = [];
    app.channel(waits).implement({
      methods: {
        wait: (_params, { signal }) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener("abort", () => {
              ended.push(signal.reason);
              reject(signal.reason as Error);
            });
          }),
        async fetch(_params, { signal }) {
          await Bun.sleep(0);
          // Made late, it has fired already.
          while (!signal.aborted) await Bun.sleep(1);
          ended.push("fetch");
          throw new DOMException("aborted", "AbortError");
        },
      },
    });
    await using client = await open(listen(app), "/waits");
    client.send(call(1, "wait"));
    client.send(call(2, "fetch"));
    client.send(call(3, "wait"));
    client.send(notification("$/cancel", { id: 1 }));
    client.send(notification("$/cancel", { id: 2 }));
    expect(await received(client)).toMatchObject({ id: 1, error: { code: -32_800 } });
    expect(await received(client)).toMatchObject({ id: 2, error: { code: -32_800 } });
    client.reset();
    await until(() => ended.length === 3, "the end of all three");
    expect(ended).toContainEqual(expect.objectContaining({ reason: "CANCELLED" }));
    expect(ended).toContainEqual(expect.objectContaining({ reason: "CONNECTION_LOST" }));
    await app.stop();
    expect(log.lines).toEqual([]);
  });
});

describe("the server's own mistakes:", () => {
  test("an event that is not in the contract, is asked, or does not match, rejects", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    await isAlive(client);
    const [ws] = live.connections;
    const any = live as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
    for (const event of ["nothing", "toString", "__proto__", 5]) {
      await expect(any.emit!(ws, event, {})).rejects.toThrow("has no event");
      await expect(any.broadcast!(event, {})).rejects.toThrow("has no event");
      await expect(any.ask!(ws, event, {})).rejects.toThrow("has no event");
    }
    await expect(any.emit!(ws, "confirm", { text: "a" })).rejects.toThrow(
      'The event "confirm" of /bad has a result, so use live.ask.',
    );
    await expect(any.ask!(ws, "note", { text: "a" })).rejects.toThrow(
      'The event "note" of /bad has no result, so use live.emit or live.broadcast.',
    );
    await expect(any.emit!(ws, "note", { text: 5 })).rejects.toThrow("the params of note does not match");
    await expect(any.emit!(ws, "note")).rejects.toThrow("the params of note does not match");
    // None of it reached the client.
    await isAlive(client);
  });

  test("an event above maxPayloadLength rejects with TOO_LARGE", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    await isAlive(client);
    const [ws] = live.connections;
    const text = "x".repeat(1_100 * KIB);
    await expect(live.emit(ws!, "note", { text })).rejects.toMatchObject({ reason: "TOO_LARGE" });
    await expect(live.broadcast("note", { text })).rejects.toMatchObject({ reason: "TOO_LARGE" });
    await expect(live.ask(ws!, "confirm", { text })).rejects.toMatchObject({ reason: "TOO_LARGE" });
    await isAlive(client);
  });

  test("a ws of another channel, or none, is refused by name", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    const other = app
      .channel(defineChannel({ path: "/other", methods: {} } satisfies Contract))
      .implement({});
    await using client = await open(port, "/other");
    await until(() => other.connections.size === 1, "the connection");
    const [ws] = other.connections as unknown as typeof live.connections;
    const refused = {
      code: "INVALID_OPTION",
      message: expect.stringContaining("no connection of the channel /bad"),
    };
    for (const wrong of [ws!, undefined as never, {} as never, 5 as never]) {
      await expect(live.emit(wrong, "note", { text: "a" })).rejects.toMatchObject(refused);
      await expect(live.ask(wrong, "confirm", { text: "a" })).rejects.toMatchObject(refused);
      expect(() => live.expire(wrong, 0)).toThrow("no connection of the channel /bad");
    }
    void client;
  });

  test("a timeout or a time that is none is refused", async () => {
    const { app, live, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    await isAlive(client);
    const [ws] = live.connections;
    for (const timeout of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, "1" as unknown as number]) {
      await expect(live.ask(ws!, "confirm", { text: "a" }, { timeout })).rejects.toMatchObject({
        code: "INVALID_OPTION",
        message: expect.stringContaining('"timeout" must be milliseconds'),
      });
    }
    for (const at of [Number.NaN, new Date("no"), null as never, "soon" as never, undefined as never]) {
      expect(() => live.expire(ws!, at)).toThrow("at must be a Date or milliseconds");
    }
    await isAlive(client);
  });

  test("what a client answered to an ask is not this method's word: -32603, and the log has it", async () => {
    const { app, log, port } = serve();
    await using _app = app;
    await using client = await open(port, "/bad");
    client.send(call(1, "asks"));
    const { id } = await received(client);
    client.send(`{"jsonrpc":"2.0","id":${String(id)},"error":{"code":-32001,"message":"forbidden by me"}}`);
    const text = await client.text();
    expect(text).not.toContain("by me");
    expect<unknown>(JSON.parse(text)).toEqual(internal);
    expect(String(log.lines[0]?.fields.error)).toContain("forbidden by me");
    client.send(call(1, "asks"));
    client.send(result((await received(client)).id, "yes"));
    expect<unknown>(await received(client)).toEqual(internal);
    expect(String(log.lines[1]?.fields.error)).toContain("the client's answer to confirm does not match");
  });
});
