// Every reason to refuse a handshake, by a raw TCP client: status, body, and that no handler ran.
// The rows stand in the order of docs/handshake.md.

import { describe, expect, test } from "bun:test";
import { type Harpia, harpia, type HarpiaOptions, type WebSocketRoute } from "harpia";
import { answer, listen, quiet, shake, until } from "../support/app.js";
import { Events, keptLog } from "../support/log.js";
import { dial, frame, open, type RawResponse, request, TEXT } from "../support/raw.js";

interface Watched extends AsyncDisposable {
  app: Harpia;
  port: number;
  /** The names of the handlers that ran. */
  ran: string[];
}

/** An app with one route on `/`, whose handlers note that they ran. */
function watched(
  route: Pick<WebSocketRoute, "upgrade" | "protocols" | "requireProtocol" | "origins"> = {},
  options: HarpiaOptions = {},
): Watched {
  const app = quiet(options);
  const ran: string[] = [];
  const note = (name: string) => () => void ran.push(name);
  app.ws("/", {
    ...route,
    upgrade(request, context) {
      ran.push("upgrade");
      return route.upgrade?.(request, context);
    },
    open: note("open"),
    message: note("message"),
    close: note("close"),
    error: note("error"),
    drain: note("drain"),
  });
  return { app, port: listen(app), ran, [Symbol.asyncDispose]: () => app.stop() };
}

/** What the response says, and what ran for it. */
function said({ status, body }: RawResponse, { app, ran }: Watched) {
  return { status, body, ran, refused: app.websocket.counters.refused, open: app.websocket.connections.size };
}

test("a path that has no route is 404", async () => {
  await using it = watched();
  const response = await shake(it.port, "/nowhere");
  expect(said(response, it)).toEqual({ status: 404, body: "Not found\n", ran: [], refused: 0, open: 0 });
});

test("a path that has no route is the user's fetch's, if there is one", async () => {
  await using app = quiet();
  app.ws("/", {});
  const port = listen(app, { fetch: (request) => new Response(new URL(request.url).pathname) });
  expect(await shake(port, "/nowhere")).toMatchObject({ status: 200, body: "/nowhere" });
});

describe("a request that is no WebSocket handshake", () => {
  const rows: {
    name: string;
    request: string;
    status: number;
    body: string;
    header: [string, string | null];
  }[] = [
    ...["", "a b", "a/b", "a^b", "host:port"].map((host) => ({
      name: `with the Host ${JSON.stringify(host)}: 400`,
      request: request("/", { Host: host, Upgrade: undefined }),
      status: 400,
      body: "The Host header is not valid.\n",
      header: ["upgrade", null] as [string, string | null],
    })),
    {
      name: "without Upgrade: 426, and what this address is",
      request: request("/", { Upgrade: undefined, Connection: undefined, Host: "chat.example" }),
      status: 426,
      body: 'This address speaks WebSocket: connect to it with new WebSocket("ws://chat.example/").\n',
      header: ["upgrade", "websocket"],
    },
    {
      name: "with another Upgrade: 426",
      request: request("/?token=secret", { Upgrade: "h2c", Host: "chat.example" }),
      status: 426,
      body: 'This address speaks WebSocket: connect to it with new WebSocket("ws://chat.example/").\n',
      header: ["connection", "Upgrade"],
    },
    {
      name: "with another method: 405",
      request: request("/", { "Content-Length": "0" }, { method: "POST" }),
      status: 405,
      body: "A WebSocket handshake is a GET request.\n",
      header: ["allow", "GET"],
    },
    {
      name: "of version 8: 426, and the version spoken",
      request: request("/", { "Sec-WebSocket-Version": "8" }),
      status: 426,
      body: "Only version 13 of the WebSocket protocol is spoken here.\n",
      header: ["sec-websocket-version", "13"],
    },
    {
      name: "of no version: 426",
      request: request("/", { "Sec-WebSocket-Version": undefined }),
      status: 426,
      body: "Only version 13 of the WebSocket protocol is spoken here.\n",
      header: ["sec-websocket-version", "13"],
    },
    ...[
      undefined,
      "",
      "c2hvcnQ=",
      "dGhlIHNhbXBsZSBub25jZQ",
      "dGhlIHNhbXBsZSBub25jZR==",
      "!hlIHNhbXBsZSBub25jZQ==",
    ].map((key) => ({
      name: `with the key ${key}: 400`,
      request: request("/", { "Sec-WebSocket-Key": key }),
      status: 400,
      body: "Sec-WebSocket-Key must be 16 bytes in base64.\n",
      header: ["upgrade", null] as [string, string | null],
    })),
  ];
  for (const row of rows) {
    test(row.name, async () => {
      await using it = watched();
      const response = await answer(it.port, row.request);
      expect(said(response, it)).toEqual({
        status: row.status,
        body: row.body,
        ran: [],
        refused: 1,
        open: 0,
      });
      expect(response.headers.get(row.header[0])).toBe(row.header[1]);
      expect(response.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    });
  }

  test("over TLS: the hint says wss", async () => {
    await using app = quiet();
    app.ws("/", {});
    const tls = new URL("../support/tls/", import.meta.url);
    const port = listen(app, {
      tls: { key: Bun.file(new URL("key.pem", tls)), cert: Bun.file(new URL("cert.pem", tls)) },
    });
    const response = await fetch(`https://localhost:${port}/`, { tls: { rejectUnauthorized: false } });
    expect(await response.text()).toContain(`new WebSocket("wss://localhost:${port}/")`);
  });

  for (const upgrade of ["WebSocket", "websocket, h2c", "h2c, WebSocket"]) {
    test(`but \`Upgrade: ${upgrade}\` is one (RFC 6455 section 4.2.1)`, async () => {
      await using it = watched();
      expect((await shake(it.port, "/", { Upgrade: upgrade })).status).toBe(101);
    });
  }
});

test("while it stops: 503 with Retry-After", async () => {
  const gate = Promise.withResolvers<void>();
  await using app = quiet();
  app.ws("/", { close: () => gate.promise });
  const port = listen(app);
  await using _client = await open(port);
  const stopped = app.stop();
  const response = await shake(port);
  gate.resolve();
  await stopped;
  expect([response.status, response.body]).toEqual([503, "The server is stopping.\n"]);
  expect(response.headers.get("retry-after")).toBe("5");
});

test("an upgrade still pending when it stops: 503, and no handler", async () => {
  const asked = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const holdOpen = Promise.withResolvers<void>();
  await using it = watched({
    async upgrade() {
      asked.resolve();
      await gate.promise;
      return {};
    },
  });
  it.app.ws("/held", { close: () => holdOpen.promise });
  await using _held = await open(it.port, "/held");
  await using client = await dial(it.port);
  client.write(request("/"));
  await asked.promise;
  const stopped = it.app.stop();
  gate.resolve();
  expect(await client.response()).toMatchObject({ status: 503, body: "The server is stopping.\n" });
  holdOpen.resolve();
  await stopped;
  expect(it.ran).toEqual(["upgrade"]);
});

describe("above maxConnections: 503 with Retry-After", () => {
  const FULL = "The server has as many connections as it takes.\n";

  test("open connections count, and a place is free once one has closed", async () => {
    const log = keptLog();
    await using it = watched({}, { maxConnections: 1, logger: log });
    const first = await open(it.port);
    const second = await shake(it.port);
    expect([second.status, second.body, second.headers.get("retry-after")]).toEqual([503, FULL, "5"]);
    expect((await shake(it.port)).status).toBe(503);
    // One line a minute, not one a handshake: a full server is busy enough.
    expect(log.lines.filter(({ level }) => level === "warn").map(({ fields }) => fields)).toEqual([
      { maxConnections: 1 },
    ]);
    await first[Symbol.asyncDispose]();
    await until(() => it.app.websocket.connections.size === 0);
    expect((await shake(it.port)).status).toBe(101);
  });

  test("handshakes in progress count", async () => {
    const asked = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    await using it = watched(
      {
        async upgrade() {
          asked.resolve();
          await gate.promise;
          return {};
        },
      },
      { maxConnections: 1 },
    );
    await using first = await dial(it.port);
    first.write(request("/"));
    await asked.promise;
    expect(await shake(it.port)).toMatchObject({ status: 503, body: FULL });
    gate.resolve();
    expect((await first.response()).status).toBe(101);
  });
});

describe("the Origin", () => {
  test("of a stranger: 403, naming the origin and the option", async () => {
    await using it = watched();
    const response = await shake(it.port, "/", { Origin: "https://evil.example", Host: "chat.example" });
    expect(said(response, it)).toEqual({
      status: 403,
      body: 'The origin https://evil.example may not connect to chat.example. Allow it with harpia({ origins: ["https://evil.example"] }). If a proxy stands in front, let it pass the Host header on, or set trustProxy and let it send X-Forwarded-Host.\n',
      ran: [],
      refused: 1,
      open: 0,
    });
  });

  test("of a stranger behind a trusted proxy: 403 without the hint about proxies", async () => {
    await using it = watched({}, { trustProxy: 1 });
    const { status, body } = await shake(it.port, "/", {
      Origin: "https://evil.example",
      "X-Forwarded-Host": "chat.example",
    });
    expect(status).toBe(403);
    expect(body).toBe(
      'The origin https://evil.example may not connect to chat.example. Allow it with harpia({ origins: ["https://evil.example"] }).\n',
    );
  });

  const accepted: [string, Record<string, string>, HarpiaOptions, WebSocketRoute["origins"]][] = [
    ["none, as from a program", {}, {}, undefined],
    ["of the same host", { Origin: "https://chat.example", Host: "chat.example" }, {}, undefined],
    ["in the app's list", { Origin: "https://app.example" }, { origins: ["https://app.example"] }, undefined],
    ["in the route's list", { Origin: "https://app.example" }, {}, ["https://app.example"]],
    [
      "of loopback, to loopback, in development",
      { Origin: "http://localhost:5173", Host: "127.0.0.1:3000" },
      {},
      undefined,
    ],
    [
      "of the host that a trusted proxy names",
      { Origin: "https://chat.example", Host: "10.0.0.1", "X-Forwarded-Host": "chat.example" },
      { trustProxy: 1 },
      undefined,
    ],
  ];
  for (const [name, headers, options, origins] of accepted) {
    test(`${name}: accepted`, async () => {
      await using it = watched(origins === undefined ? {} : { origins }, options);
      expect((await shake(it.port, "/", headers)).status).toBe(101);
    });
  }

  test("a route's list stands instead of the app's", async () => {
    await using it = watched({ origins: ["https://one.example"] }, { origins: ["https://two.example"] });
    expect((await shake(it.port, "/", { Origin: "https://two.example" })).status).toBe(403);
    expect((await shake(it.port, "/", { Origin: "https://one.example" })).status).toBe(101);
  });

  test("X-Forwarded-Host counts for nothing while no proxy is trusted", async () => {
    await using it = watched();
    const headers = { Origin: "https://evil.example", "X-Forwarded-Host": "evil.example" };
    expect((await shake(it.port, "/", headers)).status).toBe(403);
  });
});

describe("subprotocols", () => {
  test("only others offered: 400, naming both lists", async () => {
    await using it = watched({ protocols: ["chat.v2", "chat.v1"] });
    const response = await shake(it.port, "/", { "Sec-WebSocket-Protocol": "mqtt, chat.v3" });
    expect(said(response, it)).toEqual({
      status: 400,
      body: "A subprotocol is needed (spoken here: chat.v2, chat.v1; offered: mqtt, chat.v3).\n",
      ran: [],
      refused: 1,
      open: 0,
    });
  });

  test("none offered where one is required: 400", async () => {
    await using it = watched({ protocols: ["chat"], requireProtocol: true });
    expect(await shake(it.port)).toMatchObject({
      status: 400,
      body: "A subprotocol is needed (spoken here: chat; none was offered).\n",
    });
    expect(it.ran).toEqual([]);
  });
});

describe("upgrade", () => {
  test("returned a Response: that response, as it is", async () => {
    await using it = watched({
      upgrade: () => new Response("Who are you?", { status: 401, headers: { "www-authenticate": "Bearer" } }),
    });
    const response = await shake(it.port);
    expect(said(response, it)).toEqual({
      status: 401,
      body: "Who are you?",
      ran: ["upgrade"],
      refused: 1,
      open: 0,
    });
    expect(response.headers.get("www-authenticate")).toBe("Bearer");
  });

  test("returned false: 403", async () => {
    await using it = watched({ upgrade: () => false });
    const response = await shake(it.port);
    expect(said(response, it)).toEqual({
      status: 403,
      body: "This connection is not allowed.\n",
      ran: ["upgrade"],
      refused: 1,
      open: 0,
    });
  });

  for (const [how, upgrade] of [
    [
      "threw",
      () => {
        throw new Error("the database is at 10.1.2.3");
      },
    ],
    [
      "rejected",
      async () => {
        throw new Error("the database is at 10.1.2.3");
      },
    ],
  ] as const) {
    test(`${how}: 500, nothing of the error reaches the client, and the log has it`, async () => {
      const log = keptLog();
      await using it = watched({ upgrade }, { logger: log });
      const response = await shake(it.port, "/?token=secret&room=tea");
      expect(said(response, it)).toEqual({
        status: 500,
        body: "The server failed to decide on this connection.\n",
        ran: ["upgrade"],
        refused: 1,
        open: 0,
      });
      expect([...response.headers.values()].join()).not.toContain("database");
      const [line] = log.lines.filter(({ level }) => level === "error");
      expect(line?.fields).toMatchObject({ route: "/", error: new Error("the database is at 10.1.2.3") });
      expect(line?.fields.url).toContain("?token=[redacted]&room=tea");
      expect(it.app.websocket.counters.errors).toBe(1);
    });
  }

  test("took longer than handshakeTimeout: 503, what it returns later is let go, and a place is free again", async () => {
    const log = keptLog();
    const gate = Promise.withResolvers<object>();
    await using it = watched(
      { upgrade: () => gate.promise },
      { handshakeTimeout: 20, logger: log, maxConnections: 1 },
    );
    const response = await shake(it.port);
    expect(response).toMatchObject({
      status: 503,
      body: "The server took too long to decide on this connection.\n",
    });
    expect(response.headers.get("retry-after")).toBe("5");
    expect(log.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    gate.reject(new Error("too late to matter"));
    expect((await shake(it.port)).status).toBe(500); // decided at once now
    expect(it.ran).toEqual(["upgrade", "upgrade"]);
  });

  for (const value of [null, 5, "yes", true, [1]] as unknown[]) {
    test(`returned ${JSON.stringify(value)}, which means nothing: 500, and the log says what may be returned`, async () => {
      const log = keptLog();
      // A wrong type, as plain JavaScript would let through.
      await using it = watched({ upgrade: () => value as object }, { logger: log });
      expect((await shake(it.port)).status).toBe(500);
      expect(log.lines.find(({ level }) => level === "error")?.fields.error).toMatchObject({
        code: "INVALID_UPGRADE_RESULT",
        value,
      });
    });
  }

  test("returned undefined: accepted, and ws.data has the URL alone", async () => {
    const data: unknown[] = [];
    await using app = quiet();
    app.ws("/", { upgrade() {}, open: (ws) => void data.push(ws.data) });
    const port = listen(app);
    await using _client = await open(port, "/?a=1");
    expect(data).toEqual([{ url: "http://localhost/?a=1" }]);
  });

  test("client gone meanwhile: no handler runs, nothing is refused, nothing logged", async () => {
    const log = keptLog();
    const asked = Promise.withResolvers<Request>();
    const gate = Promise.withResolvers<void>();
    await using it = watched(
      {
        async upgrade(request) {
          asked.resolve(request);
          await gate.promise;
          return {};
        },
      },
      { logger: log },
    );
    const client = await dial(it.port);
    client.write(request("/"));
    const { signal } = await asked.promise;
    client.reset();
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    gate.resolve();
    expect((await shake(it.port)).status).toBe(101); // the server is through with the first by then
    await until(() => it.app.websocket.connections.size === 0);
    expect(it.ran).toEqual(["upgrade", "upgrade", "open", "close"]);
    expect(log.lines).toEqual([]);
    expect(it.app.websocket.counters).toMatchObject({ opened: 1, refused: 0, errors: 0 });
  });

  test("what it sets on headers goes out with the 101", async () => {
    await using app = quiet();
    app.ws("/", {
      upgrade(_request, { headers }) {
        headers.append("set-cookie", "a=1; HttpOnly");
        headers.append("set-cookie", "b=2");
        headers.set("x-region", "eu");
      },
    });
    const { status, headers } = await shake(listen(app));
    expect(status).toBe(101);
    expect(headers.getSetCookie()).toEqual(["a=1; HttpOnly", "b=2"]);
    expect(headers.get("x-region")).toBe("eu");
  });
});

test("the reasons come in that order", async () => {
  // Wrong in every way at once; each step repairs the first thing that was found wrong.
  await using it = watched({ protocols: ["chat"], upgrade: () => false }, { maxConnections: 1 });
  it.app.ws("/other", {});
  const blocker = await open(it.port, "/other");
  const headers: Record<string, string | undefined> = {
    Upgrade: "h2c",
    "Sec-WebSocket-Version": "7",
    "Sec-WebSocket-Key": "no",
    "Sec-WebSocket-Protocol": "mqtt",
    Origin: "https://evil.example",
    "Content-Length": "0",
  };
  const statuses: number[] = [];
  const step = async (path = "/", method = "POST") => {
    statuses.push((await answer(it.port, request(path, headers, { method }))).status);
  };
  await step("/nowhere");
  await step();
  headers.Upgrade = "websocket";
  await step();
  await step("/", "GET");
  headers["Sec-WebSocket-Version"] = "13";
  await step("/", "GET");
  headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ==";
  await step("/", "GET");
  await blocker[Symbol.asyncDispose]();
  await until(() => it.app.websocket.connections.size === 0);
  await step("/", "GET");
  headers.Origin = undefined;
  await step("/", "GET");
  expect(it.ran).toEqual([]);
  headers["Sec-WebSocket-Protocol"] = "chat";
  await step("/", "GET");
  expect(statuses).toEqual([404, 426, 405, 426, 400, 503, 403, 400, 403]);
  expect(it.ran).toEqual(["upgrade"]);
});

test("without a promise from upgrade nothing is awaited: frames right behind the handshake are read", async () => {
  const heard = new Events<string>();
  await using app = quiet();
  app.ws("/", { upgrade: () => ({}), message: (_ws, message) => heard.push(String(message)) });
  await using client = await dial(listen(app));
  client.write(Buffer.concat([Buffer.from(request("/")), frame(TEXT, "early")]));
  expect((await client.response()).status).toBe(101);
  expect(await heard.until(1)).toEqual(["early"]);
});

test("no log line holds a token", async () => {
  const log = keptLog();
  await using app = harpia({ logger: log });
  app.ws("/", {
    upgrade() {
      throw new Error("no");
    },
  });
  const port = listen(app);
  await shake(port, "/?a=1&token=s3cret", {
    "Sec-WebSocket-Protocol": `bearer.${Buffer.from("s3cret").toString("base64url")}`,
  });
  await shake(port, "/?token=s3cret", { Upgrade: undefined });
  expect(log.lines.length).toBeGreaterThan(1);
  expect(JSON.stringify(log.lines)).not.toContain("s3cret");
  expect(JSON.stringify(log.lines)).not.toContain(Buffer.from("s3cret").toString("base64url"));
});
