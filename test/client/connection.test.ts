// The client's connection over real sockets: its states, every way to lose it, the token, and what becomes of calls
// meanwhile. Where minutes would have to pass, the client runs in a world whose clock is faster.

import { describe, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import { type Harpia, type HarpiaOptions, type ListenOptions } from "harpia";
import { connect, type ConnectionState, RpcError, type WebSocketConstructor } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { clock, inWorld, startServer } from "../support/client.js";
import { Events } from "../support/log.js";
import { contract as fixture } from "./fixture/contract.js";

const contract = defineChannel({
  path: "/c",
  methods: {
    end: { params: z.object({ code: z.number() }) },
    note: { params: z.object({ text: z.string() }) },
    echo: { params: z.object({ text: z.string() }), result: z.string() },
    hang: {},
    safe: { idempotent: true },
    ones: { stream: z.number() },
  },
  events: {
    told: { params: z.object({ text: z.string() }) },
    which: { result: z.string() },
  },
});

type Upgrade = (token: string | undefined) => Response | undefined;

function serve({
  upgrade = () => undefined,
  options = {},
  listenOptions = {},
}: { upgrade?: Upgrade; options?: HarpiaOptions; listenOptions?: ListenOptions } = {}) {
  const app = quiet(options);
  const heard = new Events<string>();
  const live = app
    .channel(contract, { upgrade: (_request, { token }) => upgrade(token) ?? { token } })
    .implement({
      methods: {
        end({ code }, { ws }) {
          if (code === 1006) ws.terminate();
          else ws.close(code, "test");
        },
        note: ({ text }) => heard.push(text),
        echo({ text }) {
          heard.push(text);
          return text;
        },
        hang() {
          heard.push("hang");
          return new Promise<void>(() => {});
        },
        safe() {
          heard.push("safe");
          return heard.all.filter((what) => what === "safe").length === 1
            ? new Promise<void>(() => {})
            : undefined;
        },
        async *ones() {
          for (;;) yield 1;
        },
      },
    });
  const port = listen(app, listenOptions);
  return {
    app: app as Harpia,
    live,
    heard,
    port,
    url: `ws://127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => app.stop({ timeout: 50 }),
  };
}

const cut = ({ app }: { app: Harpia }): void => {
  for (const ws of app.websocket.connections) ws.terminate();
};

function statesOf(client: {
  onState(listener: (state: ConnectionState) => void): unknown;
}): Events<ConnectionState> {
  const states = new Events<ConnectionState>();
  client.onState((state) => states.push(state));
  return states;
}

async function rejection(promise: Promise<unknown>): Promise<RpcError> {
  try {
    await promise;
  } catch (error) {
    return error as RpcError;
  }
  throw new Error("it did not reject");
}

/** A world in which waits for the next attempt are as if Math.random gave 0.9, kept, and a hundred times shorter. */
function impatient() {
  const waits: number[] = [];
  let jump = 0;
  return {
    waits,
    pass: (ms: number) => void (jump += ms),
    globals: {
      Math: Object.assign(Object.create(Math) as typeof Math, { random: () => 0.9 }),
      performance: { now: () => performance.now() + jump },
      setTimeout(act: () => void, ms: number) {
        if (ms >= 10_000) return setTimeout(act, ms);
        waits.push(Math.round(ms));
        return setTimeout(act, ms / 100);
      },
    },
  };
}

/** A TCP server that does with a connection what it is told; no WebSocket server would. */
async function rawServer(act: (socket: Socket) => void): Promise<AsyncDisposable & { url: string }> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    act(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `ws://127.0.0.1:${(server.address() as { port: number }).port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

describe("the close code", () => {
  const rows: [number, ConnectionState][] = [
    ...[1000, 1002, 1003, 1007, 1008, 1010, 4400, 4401, 4403, 4499].map((code): [number, ConnectionState] => [
      code,
      "closed",
    ]),
    ...[1001, 1006, 1009, 1011, 1012, 1013, 1014, 3000, 4000, 4408, 4425, 4429, 4500].map(
      (code): [number, ConnectionState] => [code, "reconnecting"],
    ),
  ];
  for (const [code, state] of rows) {
    test(`${code}: ${state}`, async () => {
      await using server = serve();
      using client = connect(contract, { url: server.url, token: "a text, so there is no other" });
      const states = statesOf(client);
      await rejection(client.call("end", { code }));
      expect(await states.until(2)).toEqual(["open", state]);
      if (state === "closed") expect(client.closeCode).toBe(code);
    });
  }
});

describe("waiting", () => {
  test("grows while nobody is there, and starts anew after a stable minute", async () => {
    const world = impatient();
    const { connect } = await inWorld(world.globals);
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const states = statesOf(client);
    for (let count = 1; count <= 3; count++) {
      await states.until(count * 2 - 1);
      cut(server);
      await states.until(count * 2);
    }
    await states.until(7);
    expect(world.waits).toEqual([450, 900, 1800]);
    world.pass(60_000);
    cut(server);
    await states.until(9);
    expect(world.waits).toEqual([450, 900, 1800, 450]);
  });

  test("is long when the server restarts, the next time too, and longer when it says so", async () => {
    const world = impatient();
    const { connect } = await inWorld(world.globals);
    await using server = serve();
    const rows: [number, number[]][] = [
      [1012, [9_000, 9_000]],
      [4429, [1_800]],
      [1001, [450, 900]],
    ];
    for (const [code, waits] of rows) {
      using client = connect(contract, { url: server.url });
      const states = statesOf(client);
      for (let times = 1; times <= waits.length; times++) {
        await rejection(client.call("end", { code }));
        await states.until(1 + 2 * times);
      }
      expect([code, world.waits.splice(0)]).toEqual([code, waits]);
    }
  });

  test("is over when the page comes online or is looked at, not when it is hidden, and after close() nothing listens", async () => {
    const page = new EventTarget();
    const document = Object.assign(new EventTarget(), { visibilityState: "hidden" });
    let listening = 0;
    for (const target of [page, document]) {
      const { addEventListener, removeEventListener } = target;
      target.addEventListener = (...args: Parameters<typeof addEventListener>) => {
        listening++;
        addEventListener.apply(target, args);
      };
      target.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
        listening--;
        removeEventListener.apply(target, args);
      };
    }
    const { connect } = await inWorld({
      addEventListener: page.addEventListener,
      removeEventListener: page.removeEventListener,
      document,
      Math: Object.assign(Object.create(Math) as typeof Math, { random: () => 1_000_000 }),
    });
    await using server = serve();
    const client = connect(contract, { url: server.url });
    const states = statesOf(client);
    await states.until(1);
    for (const wake of [
      () => page.dispatchEvent(new Event("online")),
      () => {
        document.visibilityState = "visible";
        document.dispatchEvent(new Event("visibilitychange"));
      },
    ]) {
      const count = states.all.length;
      cut(server);
      await states.until(count + 1);
      document.visibilityState = "hidden";
      document.dispatchEvent(new Event("visibilitychange"));
      await Bun.sleep(20); // for an attempt, if there were one
      expect(states.all.at(-1)).toBe("reconnecting");
      wake();
      await states.until(count + 2);
      expect(states.all.at(-1)).toBe("open");
    }
    expect(listening).toBe(2);
    client.close();
    expect(listening).toBe(0);
  });
});

describe("a dead server", () => {
  test("is found by its silence; calls wait until it is back", async () => {
    await using server = await startServer();
    const { connect } = await inWorld(clock(50));
    using client = connect(fixture, { url: server.url, params: { room: "a" } });
    const states = statesOf(client);
    await states.until(1);
    await server.kill("SIGSTOP");
    await states.until(2);
    const call = client.call("hello", { name: "Ada" }, { timeout: Infinity });
    await server.kill("SIGCONT");
    expect(await call).toBe("Hello Ada in a, from nobody");
    expect(states.all.slice(0, 3)).toEqual(["open", "reconnecting", "open"]);
  }, 20_000);

  test("is doubted as soon as the page comes online: an answer has to come within ten seconds", async () => {
    await using server = await startServer();
    const page = new EventTarget();
    const { connect } = await inWorld({
      addEventListener: page.addEventListener.bind(page),
      removeEventListener: page.removeEventListener.bind(page),
      // Only what lasts as long as the answer is short: the silence would last 25 s.
      setTimeout: (act: () => void, ms: number) => setTimeout(act, ms === 10_000 ? 100 : ms),
    });
    using client = connect(fixture, { url: server.url, params: { room: "a" } });
    const states = statesOf(client);
    await states.until(1);
    await server.kill("SIGSTOP");
    page.dispatchEvent(new Event("online"));
    expect(await states.until(2)).toEqual(["open", "reconnecting"]);
  });

  test("is none that answers: the client asks again and again, and stays", async () => {
    const asked = new Events<string>();
    await using server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request, server) =>
        server.upgrade(request, { headers: { "Sec-WebSocket-Protocol": "harpia.v1" } })
          ? undefined
          : new Response(),
      websocket: {
        message(ws, message) {
          asked.push(String(message));
          ws.send('{"jsonrpc":"2.0","id":"$ping","result":"pong"}');
        },
      },
    });
    const { connect } = await inWorld(clock(25));
    using client = connect(contract, { url: server.url });
    const states = statesOf(client);
    expect(new Set(await asked.until(3))).toEqual(
      new Set(['{"jsonrpc":"2.0","id":"$ping","method":"$/ping"}']),
    );
    expect(states.all).toEqual(["open"]);
  });

  test("that accepts and then says nothing is given up after 15 s, before the handshake and after it", async () => {
    const { connect } = await inWorld(clock(100));
    const accepts = (text: (key: string) => string) =>
      rawServer((socket) =>
        socket.once("data", (data) =>
          socket.write(text(/sec-websocket-key: (\S+)/i.exec(String(data))![1]!)),
        ),
      );
    await using silent = await accepts(() => "");
    await using mute = await accepts(
      (key) =>
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: harpia.v1\r\nSec-WebSocket-Accept: ${new Bun.CryptoHasher("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64")}\r\n\r\n`,
    );
    for (const { url } of [silent, mute]) {
      using client = connect(contract, { url });
      expect(await statesOf(client).until(1)).toEqual(["reconnecting"]);
    }
  });
});

describe("a refused handshake", () => {
  test("is never shown as open", async () => {
    await using server = serve({ upgrade: () => new Response("no", { status: 403 }) });
    using client = connect(contract, { url: server.url });
    expect(await statesOf(client).until(1)).toEqual(["closed"]);
    expect(client.closeCode).toBe(4403);
  });

  test("has read nothing: calls and notifications leave again, once and in order", async () => {
    const world = impatient();
    const { connect } = await inWorld(world.globals);
    let refusals = 2;
    await using server = serve({
      upgrade: () => (refusals-- > 0 ? new Response("full", { status: 503 }) : undefined),
    });
    using client = connect(contract, { url: server.url });
    const states = statesOf(client);
    client.notify("note", { text: "1" });
    const second = client.call("echo", { text: "2" });
    client.notify("note", { text: "3" });
    const fourth = client.call("echo", { text: "4" });
    await Promise.all([second, fourth]);
    client.notify("note", { text: "5" });
    expect(await server.heard.until(5)).toEqual(["1", "2", "3", "4", "5"]);
    expect(states.all).toEqual(["reconnecting", "open"]);
    expect(world.waits).toEqual([9_000, 9_000]);
  });

  test("of 4401 asks for one more token; a connection that worked earns another", async () => {
    await using server = serve({
      upgrade: (token) => (token === "good" ? undefined : new Response("no", { status: 401 })),
    });
    const tokens = ["bad", "good", "bad", "good", "bad", "worse", "good"];
    using client = connect(contract, { url: server.url, token: async () => tokens.shift() });
    const states = statesOf(client);
    await client.call("echo", { text: "a" });
    await rejection(client.call("end", { code: 4401 })); // "bad", and then there is no new one
    expect(await states.until(3)).toEqual(["reconnecting", "open", "reconnecting"]);
    await states.until(4);
    expect([client.state, tokens]).toEqual(["closed", ["good", "bad", "worse", "good"]]);
  });
});

describe("token()", () => {
  test("that throws or rejects is asked again; what waits says why it was in vain", async () => {
    const world = impatient();
    const { connect } = await inWorld(world.globals);
    await using server = serve({ upgrade: (token) => (token === "good" ? undefined : Response.error()) });
    let asked = 0;
    const trouble = new Error("no session");
    using client = connect(contract, {
      url: server.url,
      token() {
        if (++asked === 1) throw trouble;
        return asked < 4 ? Promise.reject(trouble) : Promise.resolve("good");
      },
    });
    const late = await rejection(client.call("echo", { text: "a" }, { timeout: 5 }));
    expect([late.reason, late.message, late.cause]).toEqual([
      "TIMEOUT",
      "echo was not answered within 5 ms (reconnecting)",
      trouble,
    ]);
    expect(await client.call("echo", { text: "b" })).toBe("b");
    expect(asked).toBe(4);
  });

  test("that hangs is asked again after 15 s, and what it says later is not heard", async () => {
    const { connect } = await inWorld(clock(100));
    const seen = new Events<string | undefined>();
    await using server = serve({ upgrade: (token) => void seen.push(token) });
    const first = Promise.withResolvers<string>();
    let asked = 0;
    using client = connect(contract, {
      url: server.url,
      token: () => (++asked <= 2 ? first.promise : "third"),
    });
    const states = statesOf(client);
    await states.until(1);
    const late = await rejection(client.call("echo", { text: "a" }, { timeout: 1 }));
    expect(String(late.cause)).toContain("token() has not settled");
    await states.until(2);
    first.resolve("first");
    await Bun.sleep(5);
    expect([states.all, seen.all]).toEqual([["reconnecting", "open"], ["third"]]);
  });

  for (const garbage of [5, {}, true, Symbol("s"), ["a"]]) {
    test(`that returns ${String(garbage) || "[]"} is as if it had thrown`, async () => {
      await using server = serve();
      using client = connect(contract, { url: server.url, token: (() => garbage) as never });
      const states = statesOf(client);
      await states.until(1);
      const late = await rejection(client.call("echo", { text: "a" }, { timeout: 1 }));
      expect(String(late.cause)).toContain("token must be a string");
      expect(server.app.websocket.counters.opened).toBe(0);
    });
  }

  for (const none of [undefined, null, ""]) {
    test(`that returns ${JSON.stringify(none)} connects without one`, async () => {
      const seen = new Events<string | undefined>();
      await using server = serve({ upgrade: (token) => void seen.push(token) });
      using _client = connect(contract, { url: server.url, token: () => none });
      expect(await seen.until(1)).toEqual([undefined]);
    });
  }
});

test("a WebSocket constructor that throws is the end, and says so: it would throw again", async () => {
  const trouble = new Error("mixed content");
  class Throws {
    constructor() {
      throw trouble;
    }
  }
  using client = connect(contract, {
    url: "ws://127.0.0.1:1",
    WebSocket: Throws as unknown as WebSocketConstructor,
  });
  const { reason, cause } = await rejection(client.call("hang"));
  expect([client.state, reason, cause]).toEqual(["closed", "CLOSED", trouble]);
  expect((await rejection(client.call("hang"))).cause).toBe(trouble);
});

describe("close()", () => {
  test("while the token is awaited: no connection is made", async () => {
    await using server = serve();
    const token = Promise.withResolvers<string>();
    const client = connect(contract, { url: server.url, token: () => token.promise });
    const call = rejection(client.call("hang"));
    client.close();
    token.resolve("late");
    expect((await call).reason).toBe("CLOSED");
    await Bun.sleep(20); // for a handshake, if there were one
    expect(server.app.websocket.counters).toMatchObject({ opened: 0, refused: 0 });
  });

  test("while it connects, is open, waits to come back, and is closed: each is the end", async () => {
    await using server = serve();
    const atOnce = connect(contract, { url: server.url });
    await Bun.sleep(0); // the socket has been made
    atOnce.close();

    const open = connect(contract, { url: server.url });
    await open.call("echo", { text: "a" });
    const left = rejection(open.call("hang"));
    await server.heard.until(2);
    open.close(4000, "bye");
    expect([(await left).reason, open.closeCode]).toEqual(["CONNECTION_LOST", 4000]);

    const waiting = connect(contract, { url: server.url });
    await waiting.call("echo", { text: "b" });
    const states = statesOf(waiting);
    cut(server);
    await states.until(1);
    const unsent = rejection(waiting.call("hang"));
    waiting.close();
    waiting.close();
    expect((await unsent).reason).toBe("CLOSED");
    expect(states.all).toEqual(["reconnecting", "closed"]);

    for (const client of [atOnce, open, waiting]) {
      expect(client.state).toBe("closed");
      expect((await rejection(client.call("hang"))).reason).toBe("CLOSED");
      expect((await rejection(client.stream("ones").next())).reason).toBe("CLOSED");
      expect(() => client.notify("note", { text: "c" })).toThrow("closed");
    }
    await until(() => server.app.websocket.connections.size === 0, "nobody is left");
  });

  test("inside of a state's listener, and of an event's", async () => {
    await using server = serve();
    const first = connect(contract, { url: server.url });
    first.onState((state) => state === "open" && first.close());
    // Who comes after hears what is true by then.
    expect(await statesOf(first).until(1)).toEqual(["closed"]);

    const second = connect(contract, { url: server.url });
    const again = statesOf(second);
    second.onState((state) => state === "reconnecting" && second.close());
    await again.until(1);
    cut(server);
    expect(await again.until(3)).toEqual(["open", "reconnecting", "closed"]);
    await until(() => server.app.websocket.connections.size === 0, "nobody is left");

    const third = connect(contract, { url: server.url });
    const heard: string[] = [];
    third.on("told", ({ text }) => {
      heard.push(text);
      third.close();
    });
    await third.call("echo", { text: "a" });
    const [ws] = server.live.connections;
    void server.live.emit(ws!, "told", { text: "1" });
    await server.live.emit(ws!, "told", { text: "2" });
    await until(() => server.app.websocket.connections.size === 0, "the end");
    expect(heard).toEqual(["1"]);
  });

  test("with a code that may not be sent, or too long a reason, throws and changes nothing", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    for (const code of [0, 999, 1001, 1006, 1008, 2999, 5000, Number.NaN]) {
      expect(() => client.close(code)).toThrow(RangeError);
    }
    expect(() => client.close(4000, "é".repeat(62))).toThrow("at most 123 bytes");
    expect(await client.call("echo", { text: "still here" })).toBe("still here");
    client.close(4000, "é".repeat(61));
  });
});

describe("a lost connection", () => {
  test("sends an idempotent call again, but not when that was too big and may be why it broke", async () => {
    await using server = serve({ listenOptions: { ws: { maxPayloadLength: 1024 } } });
    using client = connect(contract, { url: server.url });
    const safe = client.call("safe");
    await server.heard.until(1);
    cut(server);
    await safe;
    expect(server.heard.all).toEqual(["safe", "safe"]);

    server.heard.all.length = 0;
    const other = rejection(client.call("safe"));
    await server.heard.until(1);
    const big = rejection(client.call("echo", { text: "x".repeat(2_000) }));
    expect([(await other).reason, (await big).reason]).toEqual(["CONNECTION_LOST", "CONNECTION_LOST"]);
    expect((await big).message).toContain("(1009)");
  });

  test("leaves an answer to the server's question behind: on the next one its id is another's", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const states = statesOf(client);
    const slow = Promise.withResolvers<string>();
    const asked = new Events<void>();
    client.answer("which", () => {
      asked.push();
      return asked.all.length === 1 ? slow.promise : new Promise(() => {});
    });
    await states.until(1);
    const first = rejection(server.live.ask([...server.live.connections][0]!, "which", undefined));
    await asked.until(1);
    cut(server);
    expect((await first).reason).toBe("CONNECTION_LOST");
    await states.until(3);
    const second = rejection(
      server.live.ask([...server.live.connections][0]!, "which", undefined, { timeout: 50 }),
    );
    await asked.until(2);
    slow.resolve("the first one's");
    expect((await second).reason).toBe("TIMEOUT");
  });

  test("keeps 1,000 notifications, in order; one more throws", async () => {
    await using server = serve();
    const open = Promise.withResolvers<string>();
    using client = connect(contract, { url: server.url, token: () => open.promise });
    const states = statesOf(client);
    for (let count = 0; count < 1_000; count++) client.notify("note", { text: String(count) });
    expect(() => client.notify("note", { text: "more" })).toThrow("1000 notifications wait");
    open.resolve("");
    expect(await server.heard.until(1_000)).toEqual(
      Array.from({ length: 1_000 }, (_, count) => String(count)),
    );
    await states.until(1);
    client.notify("note", { text: "again" });
    expect((await server.heard.until(1_001)).at(-1)).toBe("again");
  });
});

describe("a call", () => {
  test("waits for the connection up to its timeout; so does a stream, whose time ends when it leaves", async () => {
    await using server = serve();
    const open = Promise.withResolvers<string>();
    using client = connect(contract, { url: server.url, token: () => open.promise, timeout: 40 });
    const stream = client.stream("ones");
    expect((await rejection(stream.next())).reason).toBe("TIMEOUT");
    expect((await rejection(client.call("hang"))).message).toBe(
      "hang was not answered within 40 ms (connecting)",
    );
    const patient = client.call("echo", { text: "a" }, { timeout: Infinity });
    await Bun.sleep(60);
    open.resolve("");
    expect(await patient).toBe("a");
    expect(server.heard.all).toEqual(["a"]); // what was given up never left
    const ones = client.stream("ones");
    await ones.next();
    await Bun.sleep(60);
    expect((await ones.next()).value).toBe(1);
    await ones.return!();
  });

  test("with a timeout that is none throws where it is written", async () => {
    for (const timeout of [0, -1, Number.NaN, "soon" as unknown as number]) {
      expect(() => connect(contract, { url: "ws://127.0.0.1:1", timeout })).toThrow(
        "timeout must be milliseconds",
      );
      using client = connect(contract, { url: "ws://127.0.0.1:1" });
      expect((await rejection(client.call("hang", undefined, { timeout }))).message).toContain(
        "timeout must be milliseconds",
      );
    }
  });

  test("with params that JSON cannot say rejects, and nothing is left behind", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    for (const text of [1n, circle] as unknown as string[]) {
      expect(await rejection(client.call("echo", { text }))).toBeInstanceOf(TypeError);
      expect(() => client.notify("note", { text })).toThrow(TypeError);
    }
    expect(await client.call("echo", { text: "a" })).toBe("a");
    expect(server.heard.all).toEqual(["a"]);
  });
});

describe("url", () => {
  const rows: [string, string][] = [
    ["ws://HOST", "/c"],
    ["http://HOST", "/c"],
    ["http://HOST/", "/c"],
    ["ws://HOST/api", "/api/c"],
    ["ws://HOST/api/v1/", "/api/v1/c"],
    ["ws://HOST/api?tenant=a%20b", "/api/c?tenant=a%20b"],
    ["ws://HOST/#part", "/c"],
  ];
  for (const [url, asked] of rows) {
    test(`${url} asks for ${asked}`, async () => {
      const seen = new Events<string>();
      await using server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch(request) {
          seen.push(request.url.replace(/^.*?:\/\/[^/]*/, ""));
          return new Response("no", { status: 404 });
        },
      });
      using _client = connect(contract, { url: url.replace("HOST", server.url.host) });
      expect(await seen.until(1)).toEqual([asked]);
    });
  }

  test("in a page may be a path, and https: is wss:", async () => {
    const asked: string[] = [];
    class Kept {
      constructor(url: string) {
        asked.push(url);
        throw new Error("kept");
      }
    }
    const { connect } = await inWorld({
      location: { href: "https://example.com/app/?x=1" },
      WebSocket: Kept,
    });
    for (const url of ["/", "/api", "https://other.example", new URL("wss://u.example:8443/a")])
      connect(contract, { url });
    await until(() => asked.length === 4);
    expect(asked).toEqual([
      "wss://example.com/c",
      "wss://example.com/api/c",
      "wss://other.example/c",
      "wss://u.example:8443/a/c",
    ]);
  });

  test("that is none throws, and says what it was", () => {
    for (const url of [
      "nonsense",
      "",
      "ftp://a.example",
      "/",
      "//",
      undefined as unknown as string,
      "wsx://a",
    ]) {
      expect(() => connect(contract, { url })).toThrow(`and is ${JSON.stringify(String(url))}`);
    }
  });

  test("params are percent-encoded; what a URL would swallow throws", async () => {
    await using server = await startServer();
    const call = async (room: string): Promise<string> => {
      using client = connect(fixture, { url: server.url, params: { room } });
      return await client.call("hello", { name: "A" });
    };
    for (const room of ["a/b", "ä ö", "?x=1#y", "%2F", "..."]) {
      expect(await call(room)).toBe(`Hello A in ${room}, from nobody`);
    }
    for (const room of [".", ".."])
      await expect(call(room)).rejects.toThrow('a param of /chat/:room cannot be "." or ".."');
    await expect(call("")).rejects.toThrow('needs the param "room"');
    await expect(call(5 as unknown as string)).rejects.toThrow('needs the param "room"');
  });
});

test("a listener that throws disturbs no other: its error goes where uncaught errors go", async () => {
  const uncaught: unknown[] = [];
  const { connect } = await inWorld({
    queueMicrotask: (act: () => void) => {
      try {
        act();
      } catch (error) {
        uncaught.push(error);
      }
    },
  });
  await using server = serve();
  using client = connect(contract, { url: server.url });
  const heard = new Events<string>();
  client.onState(() => {
    throw new Error("in a state");
  });
  const states = statesOf(client);
  client.on("told", () => {
    throw new Error("in an event");
  });
  client.on("told", ({ text }) => heard.push(text));
  client.answer("which", () => {
    throw new Error("in an answer");
  });
  await client.call("echo", { text: "a" });
  const [ws] = server.live.connections;
  await server.live.emit(ws!, "told", { text: "hello" });
  expect(await heard.until(1)).toEqual(["hello"]);
  expect((await rejection(server.live.ask(ws!, "which", undefined))).reason).toBe("INTERNAL");
  expect(states.all).toEqual(["open"]);
  expect(uncaught.map((error) => (error as Error).message)).toEqual([
    "in a state",
    "in an event",
    "in an answer",
  ]);
});
