// Facts about Bun that the code relies on, on raw Bun.serve: when one of these fails, Bun has changed, and the code
// that a comment here names may have to.

import { afterAll, describe, expect, test } from "bun:test";
import type { Server, WebSocketHandler } from "bun";
import { until } from "./support/app.js";
import { Events } from "./support/log.js";
import { closeFrame, dial, frame, open, type RawClient, request, TEXT } from "./support/raw.js";

const servers: Server<undefined>[] = [];
afterAll(() => servers.forEach((server) => void server.stop(true)));

type Handlers = Partial<WebSocketHandler<undefined>>;
type Upgrade = (
  request: Request,
  server: Server<undefined>,
) => Response | undefined | Promise<Response | undefined>;

const accept: Upgrade = (request, server) => {
  server.upgrade(request);
  return undefined;
};

function raw(handlers: Handlers, upgrade: Upgrade = accept): { server: Server<undefined>; port: number } {
  const server = Bun.serve({
    port: 0,
    fetch: upgrade,
    websocket: { message() {}, ...handlers },
  }) as Server<undefined>;
  servers.push(server);
  return { server, port: server.port! };
}

describe("closing (life.ts)", () => {
  const violations: [string, Buffer, string][] = [
    ["invalid UTF-8", frame(TEXT, Buffer.from([0xff])), "Received invalid UTF-8"],
    ["a message too big", frame(TEXT, "x".repeat(200)), "Received too big message"],
    ["a reserved opcode", frame(3, "a"), "Received "],
    ["no mask", frame(TEXT, "a", { masked: false }), "Received "],
    ["a reserved bit", frame(TEXT, "a", { rsv: 2 }), "Received "],
    ["a continuation of nothing", frame(0, "a"), "Received "],
    ["a fragmented control frame", frame(9, "a", { fin: false }), "Received "],
  ];
  for (const [name, bytes, sentence] of violations) {
    test(`${name} is reported as 1006 with a sentence`, async () => {
      const ends = new Events<[number, string]>();
      const { port } = raw({
        maxPayloadLength: 100,
        close: (_ws, code, reason) => ends.push([code, reason]),
      });
      await using client = await open(port);
      client.write(bytes);
      expect(await ends.until(1)).toEqual([[1006, expect.stringContaining(sentence)]]);
    });
  }

  test("a reset and a FIN are 1006 without a sentence, a bare close frame is 1005", async () => {
    for (const [end, code] of [
      [(client: RawClient) => client.reset(), 1006],
      [(client: RawClient) => client.fin(), 1006],
      [(client: RawClient) => client.write(closeFrame()), 1005],
    ] as const) {
      const ends = new Events<[number, string]>();
      const { port } = raw({ close: (_ws, code, reason) => ends.push([code, reason]) });
      await using client = await open(port);
      end(client);
      expect(await ends.until(1)).toEqual([[code, ""]]);
    }
  });

  test("close runs inside ws.close() and terminate(), without subscriptions and remoteAddress", async () => {
    for (const how of ["close", "terminate"] as const) {
      const order = new Events<unknown>();
      const { port } = raw({
        open: (ws) => void ws.subscribe("a"),
        message(ws) {
          order.push("before");
          ws[how]();
          order.push("after");
        },
        close: (ws) => order.push([ws.subscriptions, ws.remoteAddress]),
      });
      await using client = await open(port);
      client.send("now");
      expect(await order.until(3)).toEqual(["before", [[], undefined], "after"]);
    }
  });

  test("codes are not validated (socket.ts does)", async () => {
    const { port } = raw({ message: (ws) => ws.close(5000) });
    await using client = await open(port);
    client.send("now");
    expect((await client.closeFrame()).code).toBe(5000);
  });
});

describe("handlers (life.ts)", () => {
  test("open runs inside server.upgrade", async () => {
    const order: string[] = [];
    const { port } = raw({ open: () => void order.push("open") }, (request, server) => {
      order.push("before");
      server.upgrade(request);
      order.push("after");
      return undefined;
    });
    await using _client = await open(port);
    expect(order).toEqual(["before", "open", "after"]);
  });

  test("handlers are not awaited", async () => {
    const order = new Events<string>();
    const { port } = raw({
      async message(_ws, message) {
        order.push(`begin ${message}`);
        await new Promise(setImmediate);
        order.push(`end ${message}`);
      },
    });
    await using client = await open(port);
    client.write(Buffer.concat([frame(TEXT, "a"), frame(TEXT, "b")]));
    expect((await order.until(4)).slice(0, 2)).toEqual(["begin a", "begin b"]);
  });

  test("pause in open does not hold frames of the packet already read, but later ones", async () => {
    const heard = new Events<string>();
    const { port } = raw({
      open: (ws) => void ws.pause(),
      message: (_ws, message) => heard.push(String(message)),
    });
    await using client = await dial(port);
    client.write(Buffer.concat([Buffer.from(request("/")), frame(TEXT, "a")]));
    await client.response();
    expect(await heard.until(1)).toEqual(["a"]);
    client.send("b");
    await Bun.sleep(30); // long enough for it to be read, if it were
    expect(heard.all).toEqual(["a"]);
  });

  test("a paused socket notices a reset, but no FIN", async () => {
    const ends = new Events<string>();
    const { port } = raw({ open: (ws) => void ws.pause(), close: () => ends.push("closed") });
    await using quiet = await open(port);
    quiet.fin();
    await Bun.sleep(30);
    expect(ends.all).toEqual([]);
    await using loud = await open(port);
    loud.reset();
    expect(await ends.until(1)).toEqual(["closed"]);
  });

  for (const [how, handler, event] of [
    ["throw", "message() { throw 1 }", "uncaughtException"],
    ["rejection", "async message() { throw 1 }", "unhandledRejection"],
  ] as const) {
    test(`a ${how} ends the process, unless somebody listens for ${event}`, async () => {
      const script = `
        const server = Bun.serve({ port: 0, fetch: (request, server) => void server.upgrade(request), websocket: { ${handler} } });
        const socket = new WebSocket(server.url.href.replace("http", "ws"));
        process.on("${event}", () => { console.log("${event}"); process.exit(); });
        socket.onopen = () => socket.send("a");
      `;
      const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "ignore" });
      expect(await new Response(child.stdout).text()).toBe(`${event}\n`);
    });
  }
});

describe("the handshake (handshake.ts)", () => {
  const upgradeWith =
    (headers?: Record<string, string>): Upgrade =>
    (request, server) => {
      server.upgrade(request, headers === undefined ? undefined : { headers });
      return undefined;
    };

  for (const [name, headers, answered] of [
    ["left alone, the first subprotocol offered is answered", undefined, "a"],
    ["a header given to upgrade is answered as it is", { "sec-websocket-protocol": "b" }, "b"],
    ["an empty one means none", { "sec-websocket-protocol": "" }, null],
  ] as const) {
    test(name, async () => {
      const { port } = raw({}, upgradeWith(headers));
      await using client = await dial(port);
      client.write(request("/", { "Sec-WebSocket-Protocol": "a, b" }));
      expect((await client.response()).headers.get("sec-websocket-protocol")).toBe(answered);
    });
  }

  test("after an await, upgrade works; it is false once the client is gone, of which the signal tells", async () => {
    const results = new Events<boolean>();
    const asked = new Events<Request>();
    let gate = Promise.withResolvers<void>();
    const { port } = raw({}, async (request, server) => {
      asked.push(request);
      await gate.promise;
      results.push(server.upgrade(request));
      return undefined;
    });
    await using first = await dial(port);
    first.write(request("/"));
    await asked.until(1);
    gate.resolve();
    expect((await first.response()).status).toBe(101);
    gate = Promise.withResolvers();
    const second = await dial(port);
    second.write(request("/"));
    const { signal } = (await asked.until(2))[1]!;
    second.reset();
    await until(() => signal.aborted, "the abort");
    gate.resolve();
    expect(await results.until(2)).toEqual([true, false]);
  });

  test("a pending upgrade still succeeds while the server stops", async () => {
    const asked = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const { port, server } = raw({}, async (request, server) => {
      asked.resolve();
      await gate.promise;
      server.upgrade(request);
      return undefined;
    });
    await using client = await dial(port);
    client.write(request("/"));
    await asked.promise;
    void server.stop();
    gate.resolve();
    expect((await client.response()).status).toBe(101);
  });

  test("upgrade is lenient where harpia is not: no Connection header will do", async () => {
    const { port } = raw({});
    await using client = await dial(port);
    client.write(request("/", { Connection: undefined }));
    expect((await client.response()).status).toBe(101);
  });
});

describe("sending (socket.ts)", () => {
  test("what is no string and no bytes is made a string", async () => {
    const { port } = raw({ open: (ws) => void ws.send({} as string) });
    await using client = await open(port);
    expect(await client.text()).toBe("[object Object]");
  });

  test("an empty message is sent, and reported as 0 bytes", async () => {
    const results = new Events<number>();
    const { port } = raw({ open: (ws) => results.push(ws.send("")) });
    await using client = await open(port);
    expect(await client.frame()).toMatchObject({ opcode: TEXT, payload: Buffer.alloc(0) });
    expect(results.all).toEqual([0]);
  });

  test("server.publish compresses unless told not to, ws.send and ws.publish only when told to", async () => {
    const text = "compress me ".repeat(50);
    const { port, server } = raw({
      perMessageDeflate: true,
      open: (ws) => void ws.subscribe("a"),
      message: (ws) => void ws.publish("a", text),
    });
    const offer = { "Sec-WebSocket-Extensions": "permessage-deflate" };
    await using client = await open(port, "/", offer);
    await using other = await open(port, "/", offer);
    server.publish("a", text);
    server.publish("a", text, false);
    expect([(await client.frame()).compressed, (await client.frame()).compressed]).toEqual([true, false]);
    other.send("now");
    expect((await client.frame()).compressed).toBe(false);
  });

  test("closeOnBackpressureLimit reports 1006 like a reset, so harpia has its own", async () => {
    const ends = new Events<[number, string]>();
    const { port } = raw({
      backpressureLimit: 64 * 1024,
      closeOnBackpressureLimit: true,
      message(ws) {
        for (let index = 0; index < 200; index++) ws.send("x".repeat(64 * 1024));
      },
      close: (_ws, code, reason) => ends.push([code, reason]),
    });
    await using client = await open(port);
    client.socket.pause();
    client.send("now");
    expect(await ends.until(1)).toEqual([[1006, ""]]);
  });
});

describe("the server (bun.ts, options.ts)", () => {
  test("tls without key and cert starts plaintext, and says nothing", async () => {
    for (const tls of [{}, { key: undefined, cert: undefined }]) {
      const server = Bun.serve({ port: 0, tls, fetch: () => new Response("plain") });
      expect(await (await fetch(`http://localhost:${server.port}/`)).text()).toBe("plain");
      await server.stop(true);
    }
  });

  test("with development: false and reusePort left out, two servers share a port, and nobody is told", async () => {
    const options = { hostname: "127.0.0.1", development: false, fetch: () => new Response() };
    const first = Bun.serve({ ...options, port: 0 });
    const second = Bun.serve({ ...options, port: first.port });
    expect(second.port).toBe(first.port!);
    await Promise.all([first.stop(true), second.stop(true)]);
    const third = Bun.serve({ ...options, port: 0, reusePort: false });
    expect(() => Bun.serve({ ...options, port: third.port, reusePort: false })).toThrow();
    await third.stop(true);
  });

  test("of two routes that differ in param names, the last one wins", async () => {
    const server = Bun.serve({ port: 0, routes: { "/a/:x": new Response("x"), "/a/:y": new Response("y") } });
    expect(await (await fetch(new URL("/a/1", server.url))).text()).toBe("y");
    await server.stop(true);
  });

  test("reload replaces all routes, and keeps open sockets", async () => {
    const websocket = { message: (ws: { send(text: string): unknown }) => void ws.send("alive") };
    const server = Bun.serve({
      port: 0,
      routes: { "/a": new Response("a"), "/ws": (request, server) => void server.upgrade(request) },
      websocket,
    });
    await using client = await open(server.port!, "/ws");
    server.reload({ routes: { "/b": new Response("b") }, fetch: () => new Response("none"), websocket });
    expect(await (await fetch(new URL("/a", server.url))).text()).toBe("none");
    client.send("now");
    expect(await client.text()).toBe("alive");
    await server.stop(true);
  });

  test("idleTimeout takes what we send for a sign of life, so a dead client is never found (harpia has its own)", async () => {
    let closed = false;
    let socket: { send(text: string): unknown } | undefined;
    const { port } = raw({
      idleTimeout: 4,
      sendPings: false,
      open: (ws) => void (socket = ws),
      close: () => void (closed = true),
    });
    await using _client = await open(port); // says nothing, ever
    const timer = setInterval(() => socket?.send("are you there?"), 500);
    await Bun.sleep(10_000);
    clearInterval(timer);
    expect(closed).toBe(false);
  }, 15_000);
});
