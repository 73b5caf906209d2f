// Stopping: everybody is told, close handlers are awaited, nothing holds it up for longer than `timeout`.

import { expect, test } from "bun:test";
import { harpia } from "harpia";
import { echo, listen, quiet, shake, until } from "../support/app.js";
import { Events } from "../support/log.js";
import { type RawClient, open } from "../support/raw.js";

test("1,000 open connections: all get 1001, their async close handlers ran before it resolved, new handshakes got 503, the port is free", async () => {
  const COUNT = 1_000;
  const gate = Promise.withResolvers<void>();
  const codes: number[] = [];
  const app = quiet();
  app.ws("/", {
    async close(_ws, code) {
      await gate.promise;
      codes.push(code);
    },
  });
  const port = listen(app);
  const clients: RawClient[] = [];
  for (let batch = 0; batch < 10; batch++) {
    clients.push(...(await Promise.all(Array.from({ length: COUNT / 10 }, () => open(port)))));
  }
  let stopped = false;
  const stop = app.stop().then(() => (stopped = true));
  const frames = await Promise.all(clients.map((client) => client.closeFrame()));
  expect(new Set(frames.map(({ code, reason }) => `${code} ${reason}`))).toEqual(
    new Set(["1001 Going away"]),
  );
  expect((await shake(port)).status).toBe(503);
  expect(stopped).toBe(false);
  gate.resolve();
  await stop;
  expect(codes).toEqual(Array.from({ length: COUNT }, () => 1001));
  expect(app.websocket.connections.size).toBe(0);
  await using next = harpia({ logger: false });
  expect(next.listen({ hostname: "127.0.0.1", port }).port).toBe(port);
  for (const client of clients) client.socket.destroy();
});

test("handlers that run when it begins finish before connections close", async () => {
  const gate = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  await using app = quiet();
  app.ws("/", {
    async message(ws) {
      begun.resolve();
      await gate.promise;
      ws.send("the answer");
    },
  });
  await using client = await open(listen(app));
  client.send("the question");
  await begun.promise;
  const stopped = app.stop();
  gate.resolve();
  expect(await client.text()).toBe("the answer");
  expect((await client.closeFrame()).code).toBe(1001);
  await stopped;
});

for (const handler of ["message", "close"] as const) {
  test(`a ${handler} handler that never ends is cut at timeout`, async () => {
    const begun = Promise.withResolvers<void>();
    const app = quiet();
    app.ws("/", {
      [handler]() {
        begun.resolve();
        return new Promise(() => {});
      },
    });
    const port = listen(app);
    await using client = await open(port);
    client.send("now");
    if (handler === "message") await begun.promise;
    await app.stop({ timeout: 50 });
    expect((await client.closeFrame()).code).toBe(1001);
    expect(app.websocket.connections.size).toBe(0);
    await expect(open(port)).rejects.toThrow();
  });
}

test("an HTTP request that never ends is cut at timeout", async () => {
  const begun = Promise.withResolvers<void>();
  const app = quiet();
  const port = listen(app, {
    fetch() {
      begun.resolve();
      return new Promise<Response>(() => {});
    },
  });
  const request = fetch(`http://127.0.0.1:${port}/`);
  const failed = request.then(
    () => false,
    () => true,
  );
  await begun.promise;
  await app.stop({ timeout: 50 });
  expect(await failed).toBe(true);
});

test("an HTTP request that ends in time is answered", async () => {
  const begun = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const app = quiet();
  const port = listen(app, {
    async fetch() {
      begun.resolve();
      await gate.promise;
      return new Response("done");
    },
  });
  const request = fetch(`http://127.0.0.1:${port}/`);
  await begun.promise;
  const stopped = app.stop();
  gate.resolve();
  expect(await (await request).text()).toBe("done");
  await stopped;
});

test("a client that ignores the close frame holds nothing up", async () => {
  const app = quiet();
  app.ws("/", {});
  await using _client = await open(listen(app)); // never answers, never ends
  await app.stop({ timeout: 60_000 });
  expect(app.websocket.connections.size).toBe(0);
});

test("twice is fine: both wait for the same end", async () => {
  const app = quiet();
  const codes = new Events<number>();
  app.ws("/", { close: (_ws, code) => codes.push(code) });
  await using _client = await open(listen(app));
  await Promise.all([app.stop(), app.stop({ restart: true }), app.stop()]);
  await app.stop();
  expect(codes.all).toEqual([1001]);
});

test("before listen, it only makes the app unusable", async () => {
  const app = quiet();
  await app.stop();
  for (const use of [() => app.listen(), () => app.ws("/", {}), () => app.serveOptions()]) {
    expect(use).toThrow(expect.objectContaining({ code: "STOPPED" }));
  }
  expect(app.publish("topic", "nobody hears")).toBe(0);
});

test("stop from inside a handler ends well, when the handler does not await it", async () => {
  const stopped = Promise.withResolvers<void>();
  const app = quiet();
  app.ws("/", { message: () => void app.stop().then(stopped.resolve) });
  await using client = await open(listen(app));
  client.send("stop");
  expect((await client.closeFrame()).code).toBe(1001);
  await stopped.promise;
});

test("a connection that sends on through it disturbs nothing", async () => {
  const app = quiet();
  app.ws("/", { ...echo, close: () => Bun.sleep(20) });
  await using client = await open(listen(app));
  const timer = setInterval(() => client.send("again"), 1);
  await app.stop();
  clearInterval(timer);
  expect(app.websocket.counters).toMatchObject({ closed: 1, errors: 0 });
});

test("await using stops the app", async () => {
  const codes = new Events<number>();
  let client: RawClient;
  {
    await using app = quiet();
    app.ws("/", { close: (_ws, code) => codes.push(code) });
    client = await open(listen(app));
    await until(() => app.websocket.connections.size === 1);
  }
  expect(codes.all).toEqual([1001]);
  client.socket.destroy();
});

test("wrong options are refused", async () => {
  await using app = quiet();
  expect(() => app.stop({ timeout: -1 })).toThrow(expect.objectContaining({ code: "INVALID_OPTION" }));
  expect(() => app.stop({ timeout: "1s" as unknown as number })).toThrow(
    expect.objectContaining({ code: "INVALID_OPTION" }),
  );
  expect(() => app.stop({ timeOut: 5 } as object)).toThrow(
    expect.objectContaining({ code: "UNKNOWN_OPTION", message: expect.stringContaining('"timeout"') }),
  );
});
