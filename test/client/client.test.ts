// The client and a channel, end to end over real sockets: what a user writes, and what happens when the network or
// the server goes.

import { describe, expect, test } from "bun:test";
import type { Harpia, HarpiaOptions, Live } from "harpia";
import { connect, type ConnectionState, isContractError, RpcError } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { Events, keptLog } from "../support/log.js";

const chat = defineChannel({
  path: "/chat/:room",
  methods: {
    say: {
      params: z.object({
        text: z
          .string()
          .min(1)
          .transform((text) => text.trim()),
      }),
      result: z.object({ at: z.number(), text: z.string() }),
      errors: { MUTED: z.object({ until: z.number() }) },
    },
    typing: { params: z.object({ on: z.boolean() }) },
    ask: { params: z.object({ upTo: z.number() }), stream: z.number() },
    whoami: { result: z.string() },
    never: {},
    get: { result: z.string(), idempotent: true },
  },
  events: {
    said: { params: z.object({ from: z.string(), text: z.string() }) },
    confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
  },
});

interface Server extends AsyncDisposable {
  app: Harpia;
  port: number;
  url: string;
  live: Live<typeof chat>;
  heard: Events<string>;
}

function serve(port = 0, options: HarpiaOptions = {}): Server {
  const app = quiet(options);
  const heard = new Events<string>();
  const live = app
    .channel(chat, {
      upgrade(_request, { token, params }) {
        if (token === "wrong") return new Response("Invalid token", { status: 401 });
        if (token === "banned") return false;
        return { name: token ?? "nobody", room: params.room };
      },
      refresh(token, { ws }) {
        if (token === "wrong") throw new Error("no");
        ws.data.name = token;
      },
    })
    .implement({
      methods: {
        say({ text }, { ws, error }) {
          if (text === "spam") throw error("MUTED", { until: 7 });
          if (text === "crash") throw new Error("boom");
          return { at: 1, text: `${ws.data.room}/${ws.data.name}: ${text}` };
        },
        typing: ({ on }) => heard.push(`typing ${on}`),
        async *ask({ upTo }, { signal }) {
          try {
            for (let value = 0; value < upTo; value++) {
              yield value;
              if (value % 100 === 0) await new Promise(setImmediate);
            }
          } finally {
            heard.push(signal.aborted ? "aborted" : "ended");
          }
        },
        whoami: (_params, { ws }) => ws.data.name,
        never: {
          timeout: 60,
          run(_params, { signal }) {
            heard.push("never begins");
            signal.addEventListener("abort", () => heard.push("never aborted"));
            return new Promise<void>(() => {});
          },
        },
        async get() {
          heard.push("get");
          await Bun.sleep(heard.all.filter((what) => what === "get").length === 1 ? 5_000 : 0);
          return "got";
        },
      },
    });
  const bound = listen(app, { port });
  return {
    app,
    port: bound,
    url: `ws://127.0.0.1:${bound}`,
    live: live as unknown as Live<typeof chat>,
    heard,
    [Symbol.asyncDispose]: () => app.stop({ timeout: 100 }),
  };
}

const inRoom = { params: { room: "tea time" } };

async function rejection(promise: Promise<unknown>): Promise<RpcError> {
  try {
    await promise;
  } catch (error) {
    return error as RpcError;
  }
  throw new Error("it did not reject");
}

describe("a call", () => {
  test("is answered; params are transformed on the server, and the path's params arrive", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, token: "ada", ...inRoom });
    expect(await client.call("say", { text: "  hello " })).toEqual({ at: 1, text: "tea time/ada: hello" });
    expect(await client.call("whoami")).toBe("ada");
  });

  test("with params that the schema refuses rejects with INVALID_PARAMS and what is wrong", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    const error = await rejection(client.call("say", { text: "" }));
    expect(error).toBeInstanceOf(RpcError);
    expect([error.reason, error.code, error.data]).toEqual([
      "INVALID_PARAMS",
      -32_602,
      { issues: [{ message: expect.any(String), path: ["text"] }] },
    ]);
  });

  test("rejects with the contract's error, which narrows", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    const error: unknown = await rejection(client.call("say", { text: "spam" }));
    if (!isContractError(error, chat, "say", "MUTED")) throw new Error("not narrowed");
    expect(error.data.until.toFixed(1)).toBe("7.0");
    expect(error.error).toBe("MUTED");
  });

  test("that crashes rejects with INTERNAL and a reference", async () => {
    const log = keptLog();
    await using server = serve(0, { logger: log });
    using client = connect(chat, { url: server.url, ...inRoom });
    const error = await rejection(client.call("say", { text: "crash" }));
    expect([error.reason, error.message]).toEqual(["INTERNAL", "Internal error"]);
    expect(log.lines[0]?.fields.ref).toBe((error.data as { ref: string }).ref);
  });

  test("times out on the server by the method's timeout, whose signal fires", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    expect((await rejection(client.call("never"))).reason).toBe("TIMEOUT");
    expect(await server.heard.until(2)).toEqual(["never begins", "never aborted"]);
  });

  test("times out on the client, and is cancelled", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    expect((await rejection(client.call("never", undefined, { timeout: 20 }))).reason).toBe("TIMEOUT");
    expect(await server.heard.until(2)).toEqual(["never begins", "never aborted"]);
  });

  test("takes an AbortSignal: it rejects with its reason, and the server's signal fires", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    const controller = new AbortController();
    const call = client.call("never", undefined, { signal: controller.signal });
    await server.heard.until(1);
    controller.abort(new Error("enough"));
    expect((await rejection(call)).message).toBe("enough");
    await server.heard.until(2);
    expect((await rejection(client.call("never", undefined, { signal: controller.signal }))).message).toBe(
      "enough",
    );
  });

  test("notify is sent and forgotten", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    client.notify("typing", { on: true }); // before it is open: it waits
    expect(await server.heard.until(1)).toEqual(["typing true"]);
  });
});

describe("a stream", () => {
  test("is read with for await, in order, to its end", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    const values: number[] = [];
    for await (const value of client.stream("ask", { upTo: 500 })) values.push(value);
    expect(values).toEqual(Array.from({ length: 500 }, (_, index) => index));
    expect(server.heard.all).toEqual(["ended"]);
  });

  test("ends on the server when the reader breaks, or aborts", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    for await (const value of client.stream("ask", { upTo: 1e9 })) if (value === 3) break;
    expect(await server.heard.until(1)).toEqual(["aborted"]);
    const controller = new AbortController();
    const read = (async () => {
      for await (const value of client.stream("ask", { upTo: 1e9 }, { signal: controller.signal })) {
        if (value === 3) controller.abort(new Error("enough"));
      }
    })();
    expect((await rejection(read)).message).toBe("enough");
    await server.heard.until(2);
  });

  test("ends on the server when the client goes, and rejects when the server does", async () => {
    const server = serve();
    const leaver = connect(chat, { url: server.url, ...inRoom });
    for await (const value of leaver.stream("ask", { upTo: 1e9 })) {
      if (value < 3) continue;
      leaver.close();
      break;
    }
    expect(await server.heard.until(1)).toEqual(["aborted"]);
    using client = connect(chat, { url: server.url, ...inRoom });
    const stream = client.stream("ask", { upTo: 1e9 });
    await stream.next();
    for (const ws of server.app.websocket.connections) ws.terminate();
    const read = (async () => {
      for await (const _value of stream);
    })();
    expect((await rejection(read)).reason).toBe("CONNECTION_LOST");
    await server.app.stop({ timeout: 100 });
  });

  test("with params that the schema refuses rejects with the first value", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    expect((await rejection(client.stream("ask", { upTo: "no" as unknown as number }).next())).reason).toBe(
      "INVALID_PARAMS",
    );
  });
});

describe("the server speaks first", () => {
  test("emit reaches one, broadcast all, until the listener is taken off", async () => {
    await using server = serve();
    using ada = connect(chat, { url: server.url, token: "ada", ...inRoom });
    using bob = connect(chat, { url: server.url, token: "bob", ...inRoom });
    const heard = new Events<string>();
    const off = ada.on("said", ({ from, text }) => heard.push(`ada hears ${from}: ${text}`));
    bob.on("said", ({ text }) => heard.push(`bob hears ${text}`));
    await Promise.all([ada.call("whoami"), bob.call("whoami")]);
    const [first] = server.live.connections;
    await server.live.emit(first!, "said", { from: "server", text: "one" });
    await heard.until(1);
    await server.live.broadcast("said", { from: "server", text: "two" });
    expect((await heard.until(3)).toSorted()).toEqual([
      "ada hears server: one",
      "ada hears server: two",
      "bob hears two",
    ]);
    off();
    await server.live.broadcast("said", { from: "server", text: "three" });
    await heard.until(4);
    await ada.call("whoami");
    expect(heard.all).toHaveLength(4);
    await expect(server.live.broadcast("said", { from: 5 } as never)).rejects.toThrow(
      "does not match the contract",
    );
  });

  test("ask awaits a typed answer; errors, silence and a client that goes are told apart", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, ...inRoom });
    await client.call("whoami");
    const [ws] = server.live.connections;
    expect((await rejection(server.live.ask(ws!, "confirm", { what: "delete" }))).reason).toBe(
      "METHOD_NOT_FOUND",
    );
    const off = client.answer("confirm", async ({ what }) => what === "delete");
    expect(await server.live.ask(ws!, "confirm", { what: "delete" })).toBe(true);
    off();
    client.answer("confirm", () => "yes" as unknown as boolean);
    const mismatch = await rejection(server.live.ask(ws!, "confirm", { what: "x" }));
    expect(mismatch.message).toContain("the client's answer to confirm");
    client.answer("confirm", () => new Promise<boolean>(() => {}));
    expect((await rejection(server.live.ask(ws!, "confirm", { what: "x" }, { timeout: 20 }))).reason).toBe(
      "TIMEOUT",
    );
    const asked = rejection(server.live.ask(ws!, "confirm", { what: "x" }));
    client.close();
    expect((await asked).reason).toBe("CONNECTION_LOST");
  });
});

describe("the connection", () => {
  test("comes back after the server was killed and started again; calls wait meanwhile", async () => {
    const first = serve();
    using client = connect(chat, { url: first.url, token: "ada", timeout: 20_000, ...inRoom });
    const states: ConnectionState[] = [client.state];
    client.onState((state) => states.push(state));
    await client.call("whoami");
    await first.app.stop({ timeout: 100 });
    await until(() => client.state === "reconnecting", "reconnecting");
    const waiting = client.call("whoami");
    await using _second = serve(first.port);
    expect(await waiting).toBe("ada");
    expect(states).toEqual(["connecting", "open", "reconnecting", "open"]);
  }, 20_000);

  test("that breaks rejects calls that had left with CONNECTION_LOST, and repeats idempotent ones", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, timeout: 20_000, ...inRoom });
    const lost = rejection(client.call("never"));
    const again = client.call("get");
    await until(() => server.heard.all.length === 2, "both");
    for (const ws of server.app.websocket.connections) ws.terminate();
    expect((await lost).reason).toBe("CONNECTION_LOST");
    expect(await again).toBe("got");
    expect(server.heard.all.filter((what) => what === "get")).toHaveLength(2);
  }, 20_000);

  test("asks for a new token when the server says 4401, and ends when that is no better", async () => {
    await using server = serve();
    const tokens = ["wrong", "ada"];
    using client = connect(chat, { url: server.url, token: () => tokens.shift(), ...inRoom });
    expect(await client.call("whoami")).toBe("ada");
    using stubborn = connect(chat, { url: server.url, token: async () => "wrong", ...inRoom });
    const refused = await rejection(stubborn.call("whoami"));
    expect([refused.reason, refused.message]).toEqual(["CLOSED", "The connection is closed (4401)"]);
    expect(stubborn.state).toBe("closed");
  });

  test("that is refused for good ends: 4403", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, token: "banned", ...inRoom });
    const states = new Events<ConnectionState>();
    const codes: (number | undefined)[] = [client.closeCode];
    client.onState((state) => {
      states.push(state);
      codes.push(client.closeCode);
    });
    await until(() => client.state === "closed", "the end");
    // Whoever hears of the end can say why.
    expect(codes.at(0)).toBeUndefined();
    expect(codes.at(-1)).toBe(4403);
    expect(server.app.websocket.counters).toMatchObject({ refused: 1, opened: 0, closed: 0 });
    expect((await rejection(client.call("whoami"))).reason).toBe("CLOSED");
    expect(() => client.notify("typing", { on: true })).toThrow("closed");
  });

  test("takes a new token while it lives, and closes with 4401 when its time is over", async () => {
    await using server = serve();
    using client = connect(chat, { url: server.url, token: "ada", ...inRoom });
    await client.call("whoami");
    await client.refresh("ada 2");
    expect(await client.call("whoami")).toBe("ada 2");
    expect((await rejection(client.refresh("wrong"))).reason).toBe("FORBIDDEN");
    const [ws] = server.live.connections;
    server.live.expire(ws!, Date.now() + 20);
    await until(() => client.state === "closed", "the end: this token is a string, so there is no other");
  });

  test("close() ends it, and rejects what is open with CLOSED or CONNECTION_LOST", async () => {
    await using server = serve();
    const client = connect(chat, { url: server.url, ...inRoom });
    const early = rejection(client.call("whoami"));
    client.close();
    client.close();
    expect((await early).reason).toBe("CLOSED");
    expect(client.state).toBe("closed");
  });

  test("wrong options throw", () => {
    // The second has a scheme, "localhost:"; the third needs a page.
    for (const url of ["nonsense", "localhost:3000", "/"])
      expect(() => connect(chat, { url, ...inRoom })).toThrow("must be like");
    expect(() => connect(chat, { url: "ws://localhost", params: {} as never })).toThrow(
      'needs the param "room"',
    );
  });
});
