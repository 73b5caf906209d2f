// One connection's life: which handler runs when, in what order, and what it sees.

import { describe, expect, test } from "bun:test";
import { listen, quiet, until } from "../support/app.js";
import { Events, keptLog } from "../support/log.js";
import { closeFrame, dial, frame, open, request, TEXT } from "../support/raw.js";

describe("an async open", () => {
  test("no message runs before it has settled, none is lost, order is kept: 1,000 frames right behind the handshake", async () => {
    const gate = Promise.withResolvers<void>();
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      async open() {
        events.push("open begins");
        await gate.promise;
        events.push("open ends");
      },
      message: (_ws, message) => events.push(String(message)),
    });
    await using client = await dial(listen(app));
    const frames = Array.from({ length: 1_000 }, (_, index) => frame(TEXT, `${index}`));
    client.write(Buffer.concat([Buffer.from(request("/")), ...frames]));
    expect((await client.response()).status).toBe(101);
    await Bun.sleep(20); // the frames are here by now, and nothing tells that nothing happens
    expect(events.all).toEqual(["open begins"]);
    gate.resolve();
    const expected = ["open begins", "open ends", ...frames.map((_, index) => `${index}`)];
    expect(await events.until(expected.length)).toEqual(expected);
  });

  test("messages that come in many packets meanwhile wait too", async () => {
    const gate = Promise.withResolvers<void>();
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", { open: () => gate.promise, message: (_ws, message) => events.push(String(message)) });
    await using client = await open(listen(app));
    for (let index = 0; index < 50; index++) {
      client.send(`${index}`);
      await new Promise(setImmediate);
    }
    gate.resolve();
    expect(await events.until(50)).toEqual(Array.from({ length: 50 }, (_, index) => `${index}`));
  });

  test("what is queued runs before close, and close after open, when the client leaves meanwhile", async () => {
    const gate = Promise.withResolvers<void>();
    const events = new Events<string>();
    await using app = quiet();
    app.ws("/", {
      async open() {
        await gate.promise;
        events.push("open");
      },
      message: (_ws, message) => events.push(String(message)),
      close: (_ws, code) => events.push(`close ${code}`),
    });
    await using client = await dial(listen(app));
    client.write(
      Buffer.concat([Buffer.from(request("/")), frame(TEXT, "a"), frame(TEXT, "b"), closeFrame(1000)]),
    );
    await client.response();
    await until(() => app.websocket.connections.size === 0, "the connection's end");
    expect(events.all).toEqual([]);
    gate.resolve();
    expect(await events.until(4)).toEqual(["open", "a", "b", "close 1000"]);
  });

  test("that takes longer than handshakeTimeout: error says so, 1011, close runs once, nothing queued runs", async () => {
    const log = keptLog();
    const events = new Events<string>();
    const never = Promise.withResolvers<void>();
    await using app = quiet({ handshakeTimeout: 30, logger: log });
    app.ws("/", {
      open: () => never.promise,
      message: () => events.push("message"),
      error: (_ws, error) => events.push(`error ${(error as Error & { code?: string }).code}`),
      close: (_ws, code) => events.push(`close ${code}`),
    });
    await using client = await open(listen(app));
    client.send("early");
    expect(await client.closeFrame()).toEqual({ code: 1011, reason: "Open timeout" });
    expect(await events.until(2)).toEqual(["error OPEN_TIMEOUT", "close 1011"]);
    never.resolve();
    await new Promise(setImmediate);
    expect(events.all).toHaveLength(2);
  });
});

test("the connection is in connections from before open until before close", async () => {
  const seen: [string, boolean][] = [];
  const done = Promise.withResolvers<void>();
  await using app = quiet();
  app.ws("/", {
    open: (ws) => void seen.push(["open", app.websocket.connections.has(ws)]),
    close(ws) {
      seen.push(["close", app.websocket.connections.has(ws)]);
      done.resolve();
    },
  });
  await using client = await open(listen(app));
  client.write(closeFrame(1000));
  await done.promise;
  expect(seen).toEqual([
    ["open", true],
    ["close", false],
  ]);
  expect(app.websocket.counters).toMatchObject({ opened: 1, closed: 1 });
});

test("connections holds every open socket, whatever handlers its route has, and is read-only", async () => {
  await using app = quiet();
  app.ws("/bare", {});
  app.ws("/full", { open() {}, message() {}, close() {} });
  const port = listen(app);
  await using _a = await open(port, "/bare");
  await using _b = await open(port, "/full");
  const { connections } = app.websocket;
  expect(connections).toBeInstanceOf(Set);
  expect([...connections].map((ws) => new URL(ws.url).pathname).sort()).toEqual(["/bare", "/full"]);
  const [first] = connections;
  const writable = connections as Set<unknown>;
  for (const change of [() => writable.add(first), () => writable.delete(first), () => writable.clear()]) {
    expect(change).toThrow(expect.objectContaining({ code: "READ_ONLY" }));
  }
  expect(connections.size).toBe(2);
});

test("ws keeps what it was: id, url, params, protocol and address are readable after close", async () => {
  const events = new Events<unknown[]>();
  await using app = quiet();
  app.ws("/room/:room", {
    close: (ws) =>
      events.push([
        ws.id === ws.id,
        ws.url,
        ws.params,
        ws.protocol,
        ws.remoteAddress,
        ws.readyState,
        ws.subscriptions,
        ws.bufferedAmount,
      ]),
  });
  await using client = await open(listen(app), "/room/a%20b?x=1", { "Sec-WebSocket-Protocol": "chat" });
  client.write(closeFrame(1000));
  const [seen] = await events.until(1);
  expect(seen).toEqual([
    true,
    "http://localhost/room/a%20b?x=1",
    { room: "a b" },
    "chat",
    "127.0.0.1",
    3,
    [],
    0,
  ]);
});

test("every method of a closed connection is harmless", async () => {
  const result = Promise.withResolvers<unknown[]>();
  await using app = quiet();
  app.ws("/", {
    async close(ws) {
      ws.close();
      ws.terminate();
      ws.pause();
      ws.resume();
      result.resolve([
        ws.send("a"),
        ws.ping() <= 0,
        ws.pong() <= 0,
        ws.subscribe("t"),
        ws.unsubscribe("t"),
        ws.isSubscribed("t"),
        ws.publish("t", "a"),
        ws.cork(() => 7),
        await ws.drained(),
      ]);
    },
  });
  await using client = await open(listen(app));
  client.write(closeFrame(1000));
  expect(await result.promise).toEqual([0, true, true, false, false, false, 0, 7, false]);
  expect(app.websocket.counters).toMatchObject({ dropped: 0, errors: 0, closed: 1 });
});

test("two ids are never the same, and one stays the same", async () => {
  const ids: string[] = [];
  await using app = quiet();
  app.ws("/", { open: (ws) => void ids.push(ws.id, ws.id) });
  const port = listen(app);
  await using _a = await open(port);
  await using _b = await open(port);
  expect(ids[0]).toBe(ids[1]!);
  expect(ids[2]).toBe(ids[3]!);
  expect(ids[0]).not.toBe(ids[2]!);
});

test("a text frame is a string, a binary one a Buffer that may be kept", async () => {
  const kept: (string | Buffer)[] = [];
  const events = new Events<number>();
  await using app = quiet();
  app.ws("/", {
    message(_ws, message) {
      kept.push(message);
      events.push(kept.length);
    },
  });
  await using client = await open(listen(app));
  client.write(
    Buffer.concat([frame(TEXT, "é"), frame(2, Buffer.from([1, 2, 3])), frame(2, ""), frame(TEXT, "")]),
  );
  await events.until(4);
  for (let index = 0; index < 100; index++) client.write(frame(2, Buffer.alloc(1_000, index)));
  await events.until(104);
  expect(kept.slice(0, 4)).toEqual(["é", Buffer.from([1, 2, 3]), Buffer.alloc(0), ""]);
});

test("handlers for successive messages start in order, and an async one does not hold back the next", async () => {
  const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const events = new Events<string>();
  await using app = quiet();
  app.ws("/", {
    async message(_ws, message) {
      events.push(`begin ${message}`);
      await gates[Number(message)]!.promise;
      events.push(`end ${message}`);
    },
  });
  await using client = await open(listen(app));
  client.send("0");
  client.send("1");
  await events.until(2);
  gates[1]!.resolve();
  await events.until(3);
  gates[0]!.resolve();
  expect(await events.until(4)).toEqual(["begin 0", "begin 1", "end 1", "end 0"]);
});

test("pause holds messages back and resume hands them over in order; sending works meanwhile", async () => {
  const events = new Events<string>();
  await using app = quiet();
  app.ws("/", {
    message(ws, message) {
      events.push(String(message));
      if (message === "0") ws.pause();
    },
  });
  await using client = await open(listen(app));
  client.write(Buffer.concat(["0", "1", "2"].map((text) => frame(TEXT, text))));
  await events.until(1);
  const [ws] = app.websocket.connections;
  client.send("3");
  ws!.send("still sending");
  expect(await client.text()).toBe("still sending");
  expect(events.all).toEqual(["0"]);
  ws!.resume();
  ws!.resume();
  expect(await events.until(4)).toEqual(["0", "1", "2", "3"]);
});
