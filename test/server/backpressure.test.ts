// Slow readers: memory stays bounded, `send` says so, counters count, and there is a way to wait.

import { expect, test } from "bun:test";
import type { ServerWebSocket } from "harpia";
import { listen, quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";
import { type RawClient, frame, open, TEXT } from "../support/raw.js";

const CHUNK = "x".repeat(64 * 1024);
const MIB = 1024 * 1024;

/** Sends until the client's share of the buffer is full. */
function fill(ws: ServerWebSocket): number {
  let sent = 0;
  while (ws.send(CHUNK) !== 0) sent++;
  return sent;
}

/** Waits for the app's only connection. */
async function only(app: {
  websocket: { connections: ReadonlySet<ServerWebSocket> };
}): Promise<ServerWebSocket> {
  await until(() => app.websocket.connections.size === 1, "the connection");
  return [...app.websocket.connections][0]!;
}

async function stalled(port: number): Promise<RawClient> {
  const client = await open(port);
  client.socket.pause();
  return client;
}

test("a reader that never reads, at 1,000 messages of 64 KiB: memory is bounded, send says 0, counters count, drain fires when it reads on", async () => {
  const drained = Promise.withResolvers<void>();
  await using app = quiet();
  app.ws("/", { drain: () => drained.resolve() });
  await using client = await stalled(listen(app));
  const ws = await only(app);
  Bun.gc(true);
  const before = process.memoryUsage().rss;
  const results: number[] = [];
  for (let index = 0; index < 1_000; index++) {
    results.push(ws.send(CHUNK));
    if (index % 10 === 0) await new Promise(setImmediate);
  }
  expect(results[0]).toBe(CHUNK.length);
  expect(results).toContain(-1);
  const dropped = results.filter((result) => result === 0).length;
  expect(dropped).toBeGreaterThan(800); // all but what the kernel and the buffer take
  expect(app.websocket.counters).toMatchObject({ dropped, slowClosed: 0, errors: 0 });
  expect(ws.bufferedAmount).toBeLessThanOrEqual(MIB + CHUNK.length + 10);
  expect(process.memoryUsage().rss - before).toBeLessThan(24 * MIB);
  expect(app.websocket.connections.has(ws)).toBe(true);
  client.socket.resume();
  await drained.promise;
  await until(() => ws.bufferedAmount === 0, "the empty buffer");
  // What was taken arrives whole and in order; what was dropped is missing as whole messages.
  ws.send("end");
  let whole = 0;
  for (let text = await client.text(); text !== "end"; text = await client.text()) {
    expect(text.length).toBe(CHUNK.length);
    whole++;
  }
  expect(whole).toBe(1_000 - dropped);
});

test("drained() waits for room: a sender that awaits it loses nothing to a slow reader", async () => {
  const TOTAL = 300;
  const results: number[] = [];
  await using app = quiet();
  app.ws("/", {
    async open(ws) {
      for (let index = 0; index < TOTAL; index++) {
        results.push(ws.send(`${index}:${CHUNK}`));
        if (results.at(-1)! <= 0) expect(await ws.drained()).toBe(true);
      }
    },
  });
  await using client = await stalled(listen(app));
  await until(() => results.includes(-1), "backpressure");
  client.socket.resume();
  for (let index = 0; index < TOTAL; index++) {
    const text = await client.text();
    expect(text.slice(0, text.indexOf(":"))).toBe(`${index}`);
  }
  expect(results).not.toContain(0);
  expect(app.websocket.counters.dropped).toBe(0);
});

test("drained() resolves at once with room, and with false when the socket closes", async () => {
  await using app = quiet();
  app.ws("/", {});
  const client = await stalled(listen(app));
  const ws = await only(app);
  expect(await ws.drained()).toBe(true);
  fill(ws);
  const waits = [ws.drained(), ws.drained()];
  client.reset();
  expect(await Promise.all(waits)).toEqual([false, false]);
  expect(await ws.drained()).toBe(false);
});

test("closeOnBackpressureLimit closes the slow connection instead, once, and counts it", async () => {
  const ends = new Events<number>();
  await using app = quiet();
  app.ws("/", { close: (_ws, code) => ends.push(code) });
  await using _client = await stalled(
    listen(app, { ws: { closeOnBackpressureLimit: true, backpressureLimit: 128 * 1024 } }),
  );
  const ws = await only(app);
  fill(ws);
  expect(ends.all).toEqual([]); // not inside `send`
  ws.send(CHUNK);
  expect(await ends.until(1)).toEqual([1006]);
  expect(app.websocket.counters).toMatchObject({ slowClosed: 1, closed: 1 });
});

test("a publication that a subscriber has no room for is counted; the others get it", async () => {
  const ends = new Events<string>();
  for (const close of [false, true]) {
    await using app = quiet({ ws: { closeOnBackpressureLimit: close, backpressureLimit: 128 * 1024 } });
    app.ws("/", {
      open: (ws) => void ws.subscribe("news"),
      close: (ws, code) => ends.push(`${ws.data.who} ${code}`),
    });
    const port = listen(app);
    await using _slow = await stalled(port);
    const slow = await only(app);
    slow.data.who = "slow";
    fill(slow);
    const { dropped } = app.websocket.counters;
    if (close) {
      await ends.until(1);
      continue;
    }
    await using quick = await open(port);
    await until(() => app.websocket.connections.size === 2, "the second connection");
    expect(app.publish("news", "hello")).toBe(0);
    expect(app.websocket.counters.dropped).toBe(dropped + 1);
    expect(await quick.text()).toBe("hello");
  }
  expect(ends.all).toContain("slow 1006");
});

test("a publication closes the slow one too, if the app wants that", async () => {
  const ends = new Events<number>();
  await using app = quiet({ ws: { closeOnBackpressureLimit: true, backpressureLimit: 128 * 1024 } });
  app.ws("/", { open: (ws) => void ws.subscribe("news"), close: (_ws, code) => ends.push(code) });
  await using _slow = await stalled(listen(app));
  await only(app);
  while (app.publish("news", CHUNK) !== 0);
  expect(await ends.until(1)).toEqual([1006]);
  expect(app.websocket.counters).toMatchObject({ slowClosed: 1, dropped: 1 });
});

test("a client that floods while messages are held back cannot fill the memory: it is not read from", async () => {
  const gate = Promise.withResolvers<void>();
  const events = new Events<number>();
  await using app = quiet();
  app.ws("/", { open: () => gate.promise, message: (_ws, message) => events.push(message.length) });
  await using client = await open(listen(app));
  const flood = Buffer.concat(Array.from({ length: 64 }, () => frame(TEXT, CHUNK)));
  let stuck = false;
  for (let sent = 0; sent < 64 && !stuck; sent++) {
    stuck = !client.socket.write(flood) && client.socket.writableLength > 32 * MIB;
  }
  await Bun.sleep(50); // for what would be read, if it were
  expect(client.socket.writableLength).toBeGreaterThan(16 * MIB);
  gate.resolve();
  await events.until(10);
});

test("many connections that wait in drained() at once are each told their own", async () => {
  await using app = quiet({ ws: { backpressureLimit: 64 * 1024 } });
  app.ws("/", {});
  const port = listen(app);
  const clients = await Promise.all(Array.from({ length: 10 }, () => stalled(port)));
  await until(() => app.websocket.connections.size === 10, "ten connections");
  const sockets = [...app.websocket.connections];
  sockets.forEach(fill);
  const waits = sockets.map((ws) => ws.drained());
  clients.forEach((client, index) => (index % 2 === 0 ? client.reset() : client.socket.resume()));
  const results = await Promise.all(waits);
  expect(results.filter(Boolean)).toHaveLength(5);
  for (const client of clients) await client[Symbol.asyncDispose]();
});
