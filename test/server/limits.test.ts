// What holds a client's messages back or ends a silent one: concurrency, rate limit, heartbeat.

import { describe, expect, test } from "bun:test";
import { listen, quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";
import { closeFrame, frame, open, PING, PONG, TEXT } from "../support/raw.js";

const texts = (count: number) =>
  Buffer.concat(Array.from({ length: count }, (_, index) => frame(TEXT, `${index}`)));

describe("concurrency", () => {
  test("no more handlers run at a time, all messages run, in order", async () => {
    const events = new Events<string>();
    let running = 0;
    let most = 0;
    await using app = quiet();
    app.ws("/", {
      concurrency: 3,
      async message(_ws, message) {
        most = Math.max(most, ++running);
        await new Promise(setImmediate);
        running--;
        events.push(String(message));
      },
    });
    await using client = await open(listen(app));
    client.write(texts(500));
    await events.until(500);
    expect(most).toBe(3);
    expect(events.all).toEqual(Array.from({ length: 500 }, (_, index) => `${index}`));
  });

  test("1 means one after the other, and what was queued begins before close when the client leaves", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      concurrency: 1,
      async message(_ws, message) {
        events.push(`begin ${message}`);
        await new Promise(setImmediate);
        events.push(`end ${message}`);
      },
      close: (_ws, code) => events.push(`close ${code}`),
    });
    await using client = await open(listen(app));
    client.write(Buffer.concat([texts(3), closeFrame(1000)]));
    await events.until(7);
    const ends = ["begin 0", "end 0", "begin 1", "end 1", "begin 2"];
    expect(events.all.slice(0, 5)).toEqual(ends);
    expect(events.all.slice(5).sort()).toEqual(["close 1000", "end 2"]);
  });

  test("a handler that fails frees its place", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      concurrency: 1,
      async message(_ws, message) {
        events.push(String(message));
        throw new Error("boom");
      },
      error() {},
    });
    await using client = await open(listen(app));
    client.write(texts(5));
    expect(await events.until(5)).toEqual(["0", "1", "2", "3", "4"]);
  });

  test("sync handlers are never held", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", { concurrency: 1, message: (_ws, message) => events.push(String(message)) });
    await using client = await open(listen(app));
    client.write(texts(100));
    expect(await events.until(100)).toHaveLength(100);
  });
});

describe("rateLimit", () => {
  test("lets a burst through, holds the rest back and hands it over later, in order", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      rateLimit: { messages: 10, per: 100, burst: 5 },
      message: (_ws, message) => events.push(String(message)),
    });
    await using client = await open(listen(app));
    const began = performance.now();
    client.write(texts(12));
    await events.until(5);
    await events.until(12);
    expect(events.all).toEqual(Array.from({ length: 12 }, (_, index) => `${index}`));
    // 7 above the burst at 10 ms each: a bound from below, which no slow machine breaks.
    expect(performance.now() - began).toBeGreaterThan(60);
  });

  test("with close: 1008, and nothing above it runs", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      rateLimit: { messages: 3, per: 60_000, close: true },
      message: (_ws, message) => events.push(String(message)),
      close: (_ws, code, reason) => events.push(`close ${code} ${reason}`),
    });
    await using client = await open(listen(app));
    client.write(texts(5));
    expect(await client.closeFrame()).toEqual({ code: 1008, reason: "Rate limit exceeded" });
    expect(await events.until(4)).toEqual(["0", "1", "2", "close 1008 Rate limit exceeded"]);
  });

  test("each connection has its own", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", { rateLimit: { messages: 1, per: 60_000 }, message: (ws) => events.push(ws.id) });
    const port = listen(app);
    await using a = await open(port);
    await using b = await open(port);
    for (const client of [a, b]) client.write(texts(3));
    expect(new Set(await events.until(2)).size).toBe(2);
  });

  test("what waits above the limit is dropped when the client leaves, and close runs", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      rateLimit: { messages: 1, per: 60_000 },
      message: (_ws, message) => events.push(String(message)),
      close: (_ws, code) => events.push(`close ${code}`),
    });
    await using client = await open(listen(app));
    client.write(texts(3));
    await events.until(1);
    client.reset();
    expect(await events.until(2)).toEqual(["0", "close 1006"]);
  });

  test("together with concurrency", async () => {
    const events = new Events<string>();
    let running = 0;
    await using app = quiet();
    app.ws("/", {
      concurrency: 1,
      rateLimit: { messages: 5, per: 10 },
      async message(_ws, message) {
        expect(++running).toBe(1);
        await new Promise(setImmediate);
        running--;
        events.push(String(message));
      },
    });
    await using client = await open(listen(app));
    client.write(texts(20));
    expect(await events.until(20)).toEqual(Array.from({ length: 20 }, (_, index) => `${index}`));
  });
});

describe("the heartbeat", () => {
  const ws = { idleTimeout: 0.16 };

  test("pings a client that was silent for half of idleTimeout, and one that answers stays", async () => {
    await using app = quiet();
    app.ws("/", {});
    await using client = await open(listen(app, { ws }));
    for (let pings = 0; pings < 4; pings++) {
      let next = await client.frame();
      while (next.opcode !== PING) next = await client.frame();
      client.write(frame(PONG, next.payload));
    }
    expect(app.websocket.connections.size).toBe(1);
  });

  test("finds a dead client that is still sent to, which Bun's own timer would not", async () => {
    const ends = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      error: (_ws, error) => ends.push((error as Error & { code?: string }).code ?? ""),
      close: (_ws, code) => ends.push(`${code}`),
    });
    await using _client = await open(listen(app, { ws }));
    await until(() => app.websocket.connections.size === 1);
    const timer = setInterval(
      () => app.websocket.connections.forEach((socket) => socket.send("are you there?")),
      5,
    );
    expect(await ends.until(2)).toEqual(["IDLE_TIMEOUT", "1006"]);
    clearInterval(timer);
  });

  test("a client that only talks is not pinged to death", async () => {
    await using app = quiet();
    app.ws("/", {});
    await using client = await open(listen(app, { ws }));
    const began = performance.now();
    while (performance.now() - began < 400) {
      client.send("hello");
      await Bun.sleep(10);
    }
    expect(app.websocket.connections.size).toBe(1);
  });

  test("a paused connection whose client has gone is found", async () => {
    for (const leave of ["reset", "fin"] as const) {
      const ends = new Events<number>();
      await using app = quiet();
      app.ws("/", { open: (socket) => socket.pause(), close: (_ws, code) => ends.push(code) });
      await using client = await open(listen(app, { ws }));
      client[leave]();
      expect(await ends.until(1)).toEqual([1006]);
    }
  });

  test("a paused connection whose client lives stays, and loses nothing", async () => {
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      open: (socket) => socket.pause(),
      message: (_ws, message) => events.push(String(message)),
    });
    await using client = await open(listen(app, { ws }));
    client.write(texts(5));
    const began = performance.now();
    while (performance.now() - began < 500) {
      const { opcode, payload } = await client.frame();
      if (opcode === PING) client.write(frame(PONG, payload));
    }
    expect(events.all).toEqual([]);
    expect(app.websocket.connections.size).toBe(1);
    [...app.websocket.connections][0]!.resume();
    expect(await events.until(5)).toEqual(["0", "1", "2", "3", "4"]);
  });

  test("0 turns it off", async () => {
    await using app = quiet();
    app.ws("/", {});
    await using client = await open(listen(app, { ws: { idleTimeout: 0 } }));
    await Bun.sleep(100);
    app.websocket.connections.forEach((socket) => socket.send("the first frame"));
    expect((await client.frame()).opcode).toBe(TEXT);
  });

  test("a process that was blocked does not find everybody dead", async () => {
    await using app = quiet();
    app.ws("/", {});
    await using client = await open(listen(app, { ws }));
    await until(() => app.websocket.connections.size === 1);
    Bun.sleepSync(500); // more than three idle timeouts, in which nothing could be read
    client.send("hello");
    await Bun.sleep(60);
    expect(app.websocket.connections.size).toBe(1);
  });
});
