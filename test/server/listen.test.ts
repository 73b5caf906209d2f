// Errors that help: each wrong use throws a HarpiaError with a stable code, the value, and what to do; before
// anything is bound.

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type ErrorCode,
  type Harpia,
  harpia,
  HarpiaError,
  type HarpiaOptions,
  type ListenOptions,
} from "harpia";
import { echo, listen, quiet } from "../support/app.js";
import { open, RawClient, request } from "../support/raw.js";

const key = Bun.file(new URL("../support/tls/key.pem", import.meta.url));
const cert = Bun.file(new URL("../support/tls/cert.pem", import.meta.url));
const SRC = new URL("../../src/index.ts", import.meta.url).pathname;

/** What `act` throws; fails if it does not. */
function thrownBy(act: () => unknown): HarpiaError {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(HarpiaError);
    return error as HarpiaError;
  }
  throw new Error("nothing was thrown");
}

interface Row {
  name: string;
  act: (app: Harpia) => unknown;
  code: ErrorCode;
  value?: unknown;
  /** What the message must say. */
  says: string[];
}

// What plain JavaScript would let through.
const loose = (value: unknown) => value as never;

const ROWS: Row[] = [
  {
    name: 'the path "chat"',
    act: (app) => app.ws("chat", {}),
    code: "INVALID_PATH",
    value: "chat",
    says: ['"/chat"'],
  },
  {
    name: 'the path "/a/:id/:id"',
    act: (app) => app.ws("/a/:id/:id", {}),
    code: "INVALID_PATH",
    value: "/a/:id/:id",
    says: [":id", "twice"],
  },
  { name: "an empty path", act: (app) => app.ws("", {}), code: "INVALID_PATH", value: "", says: ['"/"'] },
  {
    name: "a path that is no string",
    act: (app) => app.ws(loose(/chat/), {}),
    code: "INVALID_PATH",
    says: ["string"],
  },
  {
    name: "a path with a query",
    act: (app) => app.ws("/chat?x=1", {}),
    code: "INVALID_PATH",
    value: "/chat?x=1",
    says: ["ws.data.url"],
  },
  {
    name: "a path with a half param",
    act: (app) => app.ws("/a/b:id", {}),
    code: "INVALID_PATH",
    value: "/a/b:id",
    says: ['"b:id"'],
  },
  {
    name: "a param without a name",
    act: (app) => app.ws("/a/:", {}),
    code: "INVALID_PATH",
    value: "/a/:",
    says: ['":"'],
  },
  {
    name: "a star in the middle",
    act: (app) => app.ws("/a/*/b", {}),
    code: "INVALID_PATH",
    value: "/a/*/b",
    says: ["last"],
  },
  {
    name: "a route registered twice",
    act: (app) => {
      app.ws("/chat", {});
      app.ws("/chat", {});
    },
    code: "ROUTE_CONFLICT",
    value: "/chat",
    says: ["already"],
  },
  {
    name: "routes that differ in param names only",
    act: (app) => {
      app.ws("/a/:id", {});
      app.ws("/a/:name", {});
    },
    code: "ROUTE_CONFLICT",
    value: "/a/:name",
    says: ['"/a/:id"'],
  },
  {
    name: "a route that is in routes too",
    act: (app) => {
      app.ws("/a/:id", {});
      app.listen({ port: 0, routes: { "/a/:x": new Response("a") } });
    },
    code: "ROUTE_CONFLICT",
    value: "/a/:id",
    says: ['"/a/:x"', "routes"],
  },
  {
    name: "a route after listen that is in routes",
    act: (app) => {
      app.listen({ port: 0, routes: { "/a": new Response("a") } });
      app.ws("/a", {});
    },
    code: "ROUTE_CONFLICT",
    value: "/a",
    says: ["routes"],
  },
  {
    name: "no handlers",
    act: (app) => app.ws("/chat", loose(undefined)),
    code: "INVALID_OPTION",
    says: ["handlers", "undefined"],
  },
  {
    name: "an unknown handler",
    act: (app) => app.ws("/chat", loose({ onMessage() {} })),
    code: "UNKNOWN_OPTION",
    value: "onMessage",
    says: ['"message"', '"/chat"'],
  },
  {
    name: "a misspelt handler",
    act: (app) => app.ws("/chat", loose({ mesage() {} })),
    code: "UNKNOWN_OPTION",
    value: "mesage",
    says: ['Did you mean "message"?'],
  },
  {
    name: "a handler like nothing known",
    act: (app) => app.ws("/chat", loose({ zzzzzzzzz() {} })),
    code: "UNKNOWN_OPTION",
    value: "zzzzzzzzz",
    says: ["It takes: upgrade, open, message"],
  },
  {
    name: "a handler that is no function",
    act: (app) => app.ws("/chat", loose({ open: true })),
    code: "INVALID_OPTION",
    value: true,
    says: ['"open"', "function"],
  },
  {
    name: "concurrency 0",
    act: (app) => app.ws("/chat", { concurrency: 0 }),
    code: "INVALID_OPTION",
    value: 0,
    says: ['"concurrency"'],
  },
  {
    name: "a rate limit without messages",
    act: (app) => app.ws("/chat", { rateLimit: loose({ per: 5 }) }),
    code: "INVALID_OPTION",
    says: ["rateLimit.messages"],
  },
  {
    name: "a rate limit per nothing",
    act: (app) => app.ws("/chat", { rateLimit: { messages: 1, per: 0 } }),
    code: "INVALID_OPTION",
    value: 0,
    says: ["rateLimit.per"],
  },
  {
    name: "a rate limit with another name",
    act: (app) => app.ws("/chat", { rateLimit: loose({ messages: 1, window: 5 }) }),
    code: "UNKNOWN_OPTION",
    value: "window",
    says: ["messages, per, burst, close"],
  },
  {
    name: "protocols that are no list",
    act: (app) => app.ws("/chat", { protocols: loose("chat") }),
    code: "INVALID_OPTION",
    value: "chat",
    says: ['"protocols"'],
  },
  {
    name: "a protocol with a space",
    act: (app) => app.ws("/chat", { protocols: ["a b"] }),
    code: "INVALID_OPTION",
    says: ['"protocols"'],
  },
  {
    name: "origins with a path",
    act: (app) => app.ws("/chat", { origins: ["https://a.example/x"] }),
    code: "INVALID_OPTION",
    value: "https://a.example/x",
    says: ["scheme, host and port"],
  },
  {
    name: "a port above 65535",
    act: (app) => app.listen({ port: 65_536 }),
    code: "INVALID_OPTION",
    value: 65_536,
    says: ['"port"', "65535"],
  },
  {
    name: "a port that is no number",
    act: (app) => app.listen({ port: loose("http") }),
    code: "INVALID_OPTION",
    value: "http",
    says: ['"port"'],
  },
  {
    name: "a negative port",
    act: (app) => app.listen({ port: -1 }),
    code: "INVALID_OPTION",
    value: -1,
    says: ['"port"'],
  },
  {
    name: "NaN for a port",
    act: (app) => app.listen({ port: Number.NaN }),
    code: "INVALID_OPTION",
    says: ['"port"'],
  },
  {
    name: "an unknown listen option",
    act: (app) => app.listen(loose({ prot: 3000 })),
    code: "UNKNOWN_OPTION",
    value: "prot",
    says: ['Did you mean "port"?'],
  },
  {
    name: "websocket in listen",
    act: (app) => app.listen(loose({ websocket: {} })),
    code: "UNKNOWN_OPTION",
    value: "websocket",
    says: ["app.ws(path, handlers)"],
  },
  {
    name: "unix and port",
    act: (app) => app.listen(loose({ unix: "/tmp/x", port: 0 })),
    code: "INVALID_OPTION",
    value: "/tmp/x",
    says: ["not both"],
  },
  {
    name: "fetch that is no function",
    act: (app) => app.listen({ port: 0, fetch: loose({}) }),
    code: "INVALID_OPTION",
    says: ["app.fetch"],
  },
  {
    name: "a listen that is no object",
    act: (app) => app.listen(loose(3000)),
    code: "INVALID_OPTION",
    value: 3000,
    says: ["{ port: 3000 }"],
  },
  {
    name: "tls: {}",
    act: (app) => app.listen({ port: 0, tls: {} }),
    code: "INVALID_TLS",
    says: ['"key"', '"cert"', "neither"],
  },
  {
    name: "tls: null",
    act: (app) => app.listen({ port: 0, tls: loose(null) }),
    code: "INVALID_TLS",
    value: null,
    says: ["null"],
  },
  {
    name: "tls with undefined in it",
    act: (app) => app.listen({ port: 0, tls: { key: undefined, cert: undefined } }),
    code: "INVALID_TLS",
    says: ["neither"],
  },
  {
    name: "tls: a key alone",
    act: (app) => app.listen({ port: 0, tls: { key } }),
    code: "INVALID_TLS",
    says: ['no "cert"'],
  },
  {
    name: "tls: a list without names",
    act: (app) =>
      app.listen({
        port: 0,
        tls: [
          { key, cert },
          { key, cert },
        ],
      }),
    code: "INVALID_TLS",
    says: ['"serverName"'],
  },
  {
    name: "tls: a missing file",
    act: (app) => app.listen({ port: 0, tls: { key: Bun.file("/no/such/key.pem"), cert } }),
    code: "TLS_FILE_MISSING",
    value: "/no/such/key.pem",
    says: ["/no/such/key.pem", "ENOENT"],
  },
  {
    name: "tls: a key that is none",
    act: (app) => app.listen({ port: 0, tls: { key: "garbage", cert: "garbage" } }),
    code: "LISTEN_FAILED",
    says: ["Bun could not start"],
  },
  {
    name: "an address that is not this machine's",
    act: (app) => app.listen({ port: 0, hostname: "192.0.2.1" }),
    code: "LISTEN_FAILED",
    says: ["192.0.2.1"],
  },
  {
    name: "listen twice",
    act: (app) => {
      app.listen({ port: 0 });
      app.listen({ port: 0 });
    },
    code: "ALREADY_LISTENING",
    says: ["http://", "second app"],
  },
  {
    name: "serveOptions after listen",
    act: (app) => {
      app.listen({ port: 0 });
      app.serveOptions();
    },
    code: "ALREADY_LISTENING",
    says: ["Use one or the other"],
  },
  {
    name: "listen after serveOptions",
    act: (app) => {
      app.serveOptions();
      app.listen({ port: 0 });
    },
    code: "ALREADY_LISTENING",
    says: ["serveOptions()"],
  },
  {
    name: "a route after serveOptions",
    act: (app) => {
      app.serveOptions();
      app.ws("/late", {});
    },
    code: "ROUTES_FROZEN",
    value: "/late",
    says: ["before it"],
  },
  {
    name: "an unknown serveOptions option",
    act: (app) => app.serveOptions(loose({ port: 1 })),
    code: "UNKNOWN_OPTION",
    value: "port",
    says: ["ws"],
  },
  {
    name: "a publication to no topic",
    act: (app) => app.publish("", "a"),
    code: "INVALID_TOPIC",
    value: "",
    says: ["non-empty"],
  },
  {
    name: "a publication of an object",
    act: (app) => app.publish("news", loose({ a: 1 })),
    code: "INVALID_MESSAGE",
    says: ["JSON.stringify"],
  },
];

describe("a HarpiaError that says what to do, for", () => {
  for (const { name, act, code, value, says } of ROWS) {
    test(name, async () => {
      await using app = quiet();
      const error = thrownBy(() => act(app));
      expect([error.code, error.message]).toEqual([code, error.message]);
      for (const words of says) expect(error.message).toContain(words);
      if (value !== undefined) expect(error.value).toEqual(value);
    });
  }

  const LIMITS: [HarpiaOptions, string][] = [
    [{ ws: { maxPayloadLength: 0 } }, "maxPayloadLength"],
    [{ ws: { maxPayloadLength: 1.5 } }, "maxPayloadLength"],
    [{ ws: { backpressureLimit: 10 } }, "backpressureLimit"],
    [{ ws: { idleTimeout: -1 } }, "idleTimeout"],
    [{ ws: { idleTimeout: Number.NaN } }, "idleTimeout"],
    [{ ws: { perMessageDeflate: loose("shared") } }, "perMessageDeflate"],
    [{ ws: { closeOnBackpressureLimit: loose(1) } }, "closeOnBackpressureLimit"],
    [{ ws: loose(5) }, "ws"],
    [{ maxConnections: 0 }, "maxConnections"],
    [{ handshakeTimeout: 0 }, "handshakeTimeout"],
    [{ handshakeTimeout: Number.POSITIVE_INFINITY }, "handshakeTimeout"],
    [{ logger: loose({ log() {} }) }, "logger"],
    [{ origins: loose("https://a.example") }, "origins"],
    [{ trustProxy: loose(true) }, "trustProxy"],
  ];
  for (const [options, name] of LIMITS) {
    test(`harpia(${JSON.stringify(options)})`, () => {
      const error = thrownBy(() => harpia(options));
      expect([error.code, error.message.includes(name)]).toEqual(["INVALID_OPTION", true]);
    });
  }

  test("an unknown option of harpia() and of ws", () => {
    expect(thrownBy(() => harpia(loose({ orgins: "*" }))).message).toContain('Did you mean "origins"?');
    expect(thrownBy(() => harpia({ ws: loose({ maxPayload: 5 }) })).message).toContain(
      'Did you mean "maxPayloadLength"?',
    );
  });
});

test("a taken port names the port, binds nothing, and the app can listen on another", async () => {
  await using first = quiet();
  const port = listen(first);
  await using second = quiet();
  second.ws("/", echo);
  const error = thrownBy(() => listen(second, { port }));
  expect([error.code, error.value]).toEqual(["PORT_IN_USE", port]);
  expect(error.message).toContain(`port ${port}`);
  await using client = await open(listen(second));
  client.send("up");
  expect(await client.text()).toBe("up");
});

test("a taken port is found across processes too, and shared only with reusePort", async () => {
  const script = `
    import { harpia } from ${JSON.stringify(SRC)};
    const app = harpia();
    try { app.listen(JSON.parse(process.argv.at(-1))); console.log("up"); } catch (error) { console.log(error.code); }
    process.exit();
  `;
  const attempt = async (options: ListenOptions) => {
    const child = Bun.spawn([process.execPath, "-e", script, JSON.stringify(options)], {
      stdout: "pipe",
      stderr: "inherit",
    });
    return (await new Response(child.stdout).text()).trim();
  };
  await using alone = quiet();
  expect(await attempt({ hostname: "127.0.0.1", port: listen(alone) })).toBe("PORT_IN_USE");
  await using shared = quiet();
  expect(
    await attempt({ hostname: "127.0.0.1", port: listen(shared, { reusePort: true }), reusePort: true }),
  ).toBe("up");
});

test("a port that this user may not have is PERMISSION_DENIED", async () => {
  if (process.getuid?.() === 0) return; // root may have any
  await using app = quiet();
  expect(thrownBy(() => app.listen({ port: 80 })).code).toBe("PERMISSION_DENIED");
});

test("a Bun that is too old is BUN_REQUIRED, and says which is needed", async () => {
  const script = `
    import { harpia } from ${JSON.stringify(SRC)};
    Object.defineProperty(process.versions, "bun", { value: "1.1.0" });
    try { harpia(); } catch (error) { console.log(error.code, error.message); }
  `;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  expect(await new Response(child.stdout).text()).toMatch(
    /^BUN_REQUIRED .*1\.4\.5 or later, and this is 1\.1\.0.*bun upgrade/,
  );
});

test("limits of listen win over the app's, field by field; wrong ones bind nothing", async () => {
  await using app = quiet({ ws: { maxPayloadLength: 10, idleTimeout: 5 } });
  app.ws("/", echo);
  expect(() => listen(app, { ws: { idleTimeout: -1 } })).toThrow();
  const port = listen(app, { ws: { maxPayloadLength: 20 } });
  await using client = await open(port);
  client.send("x".repeat(15));
  expect(await client.text()).toHaveLength(15);
});

describe("TLS", () => {
  async function saysHello(port: number, host = "localhost"): Promise<string> {
    // Bun's client takes options here, which the DOM's type does not know.
    const options = { tls: { rejectUnauthorized: false } } as unknown as string[];
    const socket = new WebSocket(`wss://${host}:${port}/`, options);
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    socket.onmessage = ({ data }) => resolve(String(data));
    socket.onerror = () => reject(new Error("no connection"));
    return await promise.finally(() => socket.close());
  }

  test("key and cert as Bun.file", async () => {
    await using app = quiet();
    app.ws("/", { open: (ws) => void ws.send(ws.url.split(":")[0]!) });
    expect(await saysHello(listen(app, { tls: { key, cert } }))).toBe("https");
  });

  test("a list, by server name", async () => {
    await using app = quiet();
    app.ws("/", { open: (ws) => void ws.send(new URL(ws.url).hostname) });
    const tls = ["a.localhost", "b.localhost"].map((serverName) => ({ serverName, key, cert }));
    const port = listen(app, { tls });
    expect(await saysHello(port, "b.localhost")).toBe("b.localhost");
  });
});

describe("a unix socket", () => {
  async function dialUnix(path: string): Promise<RawClient> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return new RawClient(socket);
  }

  function folder(): { path: string } & Disposable {
    const dir = mkdtempSync(join(tmpdir(), "harpia-"));
    return { path: join(dir, "app.sock"), [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
  }

  test("serves connections", async () => {
    using dir = folder();
    await using app = quiet();
    app.ws("/", echo);
    app.listen({ unix: dir.path });
    await using client = await dialUnix(dir.path);
    client.write(request("/"));
    expect((await client.response()).status).toBe(101);
    client.send("hello");
    expect(await client.text()).toBe("hello");
  });

  test("that somebody listens on is PORT_IN_USE, and goes on working", async () => {
    using dir = folder();
    await using first = quiet();
    first.ws("/", echo);
    first.listen({ unix: dir.path });
    await using second = quiet();
    expect(thrownBy(() => second.listen({ unix: dir.path }))).toMatchObject({
      code: "PORT_IN_USE",
      value: dir.path,
    });
    await using client = await dialUnix(dir.path);
    client.write(request("/"));
    expect((await client.response()).status).toBe(101);
  });

  test("left behind by a process that was killed is taken over", async () => {
    using dir = folder();
    const script = `Bun.serve({ unix: process.argv.at(-1), fetch: () => new Response() }); console.log("up");`;
    const child = Bun.spawn([process.execPath, "-e", script, dir.path], { stdout: "pipe" });
    await child.stdout.getReader().read();
    child.kill("SIGKILL");
    await child.exited;
    await using app = quiet();
    app.ws("/", echo);
    app.listen({ unix: dir.path });
    await using client = await dialUnix(dir.path);
    client.write(request("/"));
    expect((await client.response()).status).toBe(101);
  });

  test("in the place of a file: an error, and the file stays", async () => {
    using dir = folder();
    writeFileSync(dir.path, "precious");
    await using app = quiet();
    expect(() => app.listen({ unix: dir.path })).toThrow(HarpiaError);
    expect(await Bun.file(dir.path).text()).toBe("precious");
  });
});
