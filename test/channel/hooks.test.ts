// What stands around a channel's methods: upgrade, refresh, expire, before, limits and timeouts.

import { describe, expect, test } from "bun:test";
import type { ChannelSocket } from "harpia";
import { defineChannel, RpcError } from "harpia/contract";
import { z } from "zod";
import { listen, quiet } from "../support/app.js";
import { call, Gates, notification, received } from "../support/channel.js";
import { Events, keptLog } from "../support/log.js";
import { open } from "../support/raw.js";

const contract = defineChannel({
  path: "/hooks/:room",
  methods: {
    who: { result: z.string() },
    double: { params: z.object({ n: z.string().transform(Number) }), result: z.number() },
    note: { params: z.object({ text: z.string() }) },
    hold: { params: z.object({ key: z.string() }), result: z.string() },
    count: { params: z.object({ to: z.number() }), stream: z.number() },
    forEver: { stream: z.number() },
  },
});

type Ws = ChannelSocket<typeof contract, { user: string }>;

interface Hooks {
  before?(
    call: () => Promise<unknown>,
    context: { method: string; params: unknown; ws: Ws },
  ): Promise<unknown>;
  refresh?(token: string, context: { ws: Ws }): void | Promise<void>;
  rateLimit?: { messages: number; per: number; close?: boolean };
}

function serve(hooks: Hooks = {}) {
  const log = keptLog();
  const app = quiet({ logger: log });
  const gates = new Gates();
  const notes = new Events<string>();
  const closed = new Events<number>();
  const live = app
    .channel(contract, {
      upgrade: (_request, { token }) => (token === undefined ? false : { user: token }),
      close: (_ws, code) => closed.push(code),
      ...hooks,
    })
    .implement({
      methods: {
        who: (_params, { ws }) => `${ws.data.user} in ${ws.params.room}`,
        double: ({ n }) => n * 2,
        note: {
          rateLimit: { messages: 2, per: 60_000 },
          run: ({ text }) => notes.push(text),
        },
        hold: { timeout: 30, run: ({ key }, { signal }) => gates.wait(key, signal) },
        async *count({ to }) {
          for (let value = 0; value < to; value++) yield value;
        },
        forEver: {
          timeout: 60,
          async *run(_params, { signal }) {
            try {
              for (let value = 0; ; value++) {
                yield value;
                await Bun.sleep(5);
              }
            } finally {
              notes.push(`ended: ${(signal.reason as RpcError).reason}`);
            }
          },
        },
      },
    });
  const port = listen(app);
  return {
    app,
    live,
    log,
    gates,
    notes,
    closed,
    connect: (token = "ann") => open(port, `/hooks/lobby?token=${token}`),
  };
}

test("upgrade decides, and what it returns is ws.data in every method", async () => {
  const { app, connect } = serve();
  await using _app = app;
  await using client = await connect();
  client.send(call(1, "who"));
  expect(await received(client)).toMatchObject({ result: "ann in lobby" });
  await expect(open(app.server!.port!, "/hooks/lobby")).rejects.toThrow("403");
});

describe("before", () => {
  test("runs around every method, with its name, its validated params and its connection", async () => {
    const seen: unknown[] = [];
    const { app, connect } = serve({
      async before(call, { method, params, ws }) {
        seen.push([method, params, ws.data.user]);
        const result = await call();
        seen.push(result);
        return result;
      },
    });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "double", { n: "21" }));
    expect(await received(client)).toMatchObject({ id: 1, result: 42 });
    // Neither what the schema refuses nor what is no method comes to it.
    client.send(call(2, "double", { n: 21 }));
    expect(await received(client)).toMatchObject({ id: 2, error: { code: -32_602 } });
    client.send(call(3, "nothing"));
    expect(await received(client)).toMatchObject({ id: 3, error: { code: -32_601 } });
    expect(seen).toEqual([["double", { n: 21 }, "ann"], 42]);
    client.send(call(4, "count", { to: 1 }));
    expect(await received(client)).toMatchObject({ method: "$/next", params: { id: 4, value: 0 } });
    expect(await received(client)).toMatchObject({ id: 4, result: null });
    expect(seen[2]).toEqual(["count", { to: 1 }, "ann"]);
  });

  test("that never calls answers by itself; its result is validated like any other", async () => {
    const { app, connect, log } = serve({
      before: async (_call, { method }) => (method === "who" ? "nobody" : "none"),
    });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "who"));
    expect(await received(client)).toMatchObject({ id: 1, result: "nobody" });
    client.send(call(2, "double", { n: "1" }));
    expect(await received(client)).toMatchObject({ id: 2, error: { code: -32_603 } });
    client.send(call(3, "count", { to: 1 }));
    expect(await received(client)).toMatchObject({ id: 3, error: { code: -32_603 } });
    expect(log.lines.map(({ fields }) => String(fields.error))).toEqual([
      expect.stringContaining("the result of double does not match the contract"),
      expect.stringContaining("a streaming method must return an iterable"),
    ]);
  });

  test("may change the result, or run the method again", async () => {
    let runs = 0;
    const { app, connect } = serve({
      async before(call) {
        await call();
        runs++;
        return `${String(await call())}!`;
      },
    });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "who"));
    expect(await received(client)).toMatchObject({ id: 1, result: "ann in lobby!" });
    expect(runs).toBe(1);
  });

  test("that throws FORBIDDEN, at once or later, forbids; that throws anything else is -32603", async () => {
    const { app, connect, log } = serve({
      before(call, { method }) {
        if (method === "who") throw new RpcError("FORBIDDEN", "not you");
        if (method === "note") return Promise.reject(new RpcError("RATE_LIMITED", "slower"));
        if (method === "count") throw new Error("boom");
        return call();
      },
    });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "who"));
    expect(await received(client)).toMatchObject({ error: { code: -32_001, message: "not you" } });
    client.send(call(2, "note", { text: "a" }));
    expect(await received(client)).toMatchObject({ error: { code: -32_002, message: "slower" } });
    expect(log.lines).toEqual([]);
    client.send(call(3, "count", { to: 1 }));
    expect(await received(client)).toMatchObject({ error: { code: -32_603 } });
    expect(log.lines).toHaveLength(1);
  });
});

describe("a method's rateLimit", () => {
  test("answers -32002 above it, for each connection and each method by itself", async () => {
    const { app, connect, notes } = serve();
    await using _app = app;
    await using client = await connect();
    for (let id = 0; id < 3; id++) client.send(call(id, "note", { text: `${id}` }));
    expect(await received(client)).toMatchObject({ id: 0, result: null });
    expect(await received(client)).toMatchObject({ id: 1, result: null });
    expect(await received(client)).toMatchObject({
      id: 2,
      error: { code: -32_002, message: "Too many calls of note" },
    });
    client.send(notification("note", { text: "not this" }));
    client.send(call(3, "who"));
    expect(await received(client)).toMatchObject({ id: 3, result: "ann in lobby" });
    await using other = await connect("bob");
    other.send(call(1, "note", { text: "bob's" }));
    expect(await received(other)).toMatchObject({ id: 1, result: null });
    expect(notes.all).toEqual(["0", "1", "bob's"]);
  });
});

describe("the channel's rateLimit", () => {
  test("reads more slowly, and loses nothing", async () => {
    const { app, connect } = serve({ rateLimit: { messages: 5, per: 50 } });
    await using _app = app;
    await using client = await connect();
    for (let id = 0; id < 20; id++) client.send(call(id, "who"));
    for (let id = 0; id < 20; id++)
      expect(await received(client)).toMatchObject({ id, result: "ann in lobby" });
  });

  test("closes with 1008 where it says so", async () => {
    const { app, connect, closed } = serve({ rateLimit: { messages: 5, per: 60_000, close: true } });
    await using _app = app;
    await using client = await connect();
    for (let id = 0; id < 6; id++) client.send(call(id, "who"));
    expect((await client.closeFrame()).code).toBe(1008);
    expect(await closed.until(1)).toEqual([1008]);
  });
});

describe("a method's timeout", () => {
  test("answers -32003, and the signal fires with the reason; what the method returns later goes nowhere", async () => {
    const { app, connect, gates } = serve();
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "hold", { key: "a" }));
    expect(await received(client)).toEqual({
      jsonrpc: "2.0",
      id: 1,
      error: { code: -32_003, message: "hold took longer than 30 ms" },
    } as never);
    expect(await gates.aborted.until(1)).toEqual(["a"]);
    gates.open("a");
    client.send(call(1, "who"));
    expect(await received(client)).toMatchObject({ id: 1, result: "ann in lobby" });
  });

  test("is that of a whole stream", async () => {
    const { app, connect, notes } = serve();
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "forEver"));
    expect(await received(client)).toMatchObject({ params: { id: 1, value: 0 } });
    let last = await received(client);
    while (last.method !== undefined) last = await received(client);
    expect(last).toMatchObject({
      id: 1,
      error: { code: -32_003, message: "forEver took longer than 60 ms" },
    });
    expect(await notes.until(1)).toEqual(["ended: TIMEOUT"]);
  });

  test("of one call of a batch is that call's error", async () => {
    const { app, connect, gates } = serve();
    await using _app = app;
    await using client = await connect();
    client.send(`[${call(1, "hold", { key: "a" })},${call(2, "who")},${notification("hold", { key: "b" })}]`);
    expect<unknown>(await received(client)).toEqual([
      expect.objectContaining({ id: 2, result: "ann in lobby" }),
      expect.objectContaining({ id: 1, error: expect.objectContaining({ code: -32_003 }) }),
    ]);
    // A notification is told as well.
    expect((await gates.aborted.until(2)).toSorted()).toEqual(["a", "b"]);
    gates.openAll();
  });
});

describe("refresh", () => {
  test("takes a new token for a living connection, or refuses it; neither token nor error reaches client or log", async () => {
    const { app, connect, log } = serve({
      refresh(token, { ws }) {
        if (token === "stolen") throw new Error("the database knows this one");
        ws.data.user = token;
      },
    });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "$/refresh", { token: "eve" }));
    expect(await received(client)).toMatchObject({ id: 1, result: true });
    client.send(call(2, "$/refresh", { token: "stolen" }));
    const refused = await client.text();
    expect(JSON.parse(refused)).toMatchObject({ id: 2, error: { code: -32_001 } });
    expect(refused).not.toContain("database");
    client.send(call(3, "who"));
    expect(await received(client)).toMatchObject({ result: "eve in lobby" });
    expect(log.lines).toMatchObject([{ level: "debug", message: "refresh did not take a token" }]);
    expect(JSON.stringify(log.lines)).not.toContain("stolen");
  });

  test("runs one at a time for a connection: another is refused with -32002", async () => {
    const gates = new Gates();
    const { app, connect } = serve({ refresh: async (token) => void (await gates.wait(token)) });
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "$/refresh", { token: "a" }));
    client.send(call(2, "$/refresh", { token: "b" }));
    expect(await received(client)).toMatchObject({ id: 2, error: { code: -32_002 } });
    gates.open("a");
    expect(await received(client)).toMatchObject({ id: 1, result: true });
    expect(gates.begun.all).toEqual(["a"]);
  });
});

describe("live.expire", () => {
  test("closes with 4401 at the time; the last one set counts", async () => {
    const { app, connect, live, closed } = serve();
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "who"));
    await received(client);
    const [ws] = live.connections;
    live.expire(ws!, new Date(Date.now() + 3_600_000));
    live.expire(ws!, Date.now() + 1e12);
    live.expire(ws!, Date.now() + 20);
    expect(await client.closeFrame()).toEqual({ code: 4401, reason: "Token expired" });
    expect(await closed.until(1)).toEqual([4401]);
    // Over: nothing happens, and nothing is left to wait for.
    live.expire(ws!, Date.now() - 1);
  });

  test("in the past closes at once", async () => {
    const { app, connect, live } = serve();
    await using _app = app;
    await using client = await connect();
    client.send(call(1, "who"));
    await received(client);
    const [ws] = live.connections;
    live.expire(ws!, 0);
    expect((await client.closeFrame()).code).toBe(4401);
  });
});
