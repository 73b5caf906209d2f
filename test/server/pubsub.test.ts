// Topics on one server: who gets what, in what order, and what the calls return.

import { describe, expect, test } from "bun:test";
import type { HarpiaError, ServerWebSocket } from "harpia";
import { echo, listen, quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";
import { BINARY, frame, open, TEXT } from "../support/raw.js";

test("ws.publish reaches all subscribers but itself, app.publish all", async () => {
  await using app = quiet();
  app.ws("/", {
    open: (ws) => void ws.subscribe("room"),
    message(ws, message) {
      ws.publish("room", `others: ${message}`);
      app.publish("room", `all: ${message}`);
    },
  });
  app.ws("/outside", {});
  const port = listen(app);
  await using a = await open(port);
  await using b = await open(port);
  await using outside = await open(port, "/outside");
  a.send("hi");
  expect(await a.text()).toBe("all: hi");
  expect([await b.text(), await b.text()]).toEqual(["others: hi", "all: hi"]);
  app.websocket.connections.forEach((ws) => ws.send("last"));
  expect(await outside.text()).toBe("last");
});

test("subscribe, isSubscribed, subscriptions, unsubscribe", async () => {
  const seen = new Events<unknown[]>();
  await using app = quiet();
  app.ws("/", {
    open(ws) {
      seen.push([
        ws.subscribe("a"),
        ws.subscribe("b"),
        ws.subscribe("a"),
        ws.subscriptions.sort(),
        ws.isSubscribed("a"),
      ]);
      seen.push([ws.unsubscribe("a"), ws.isSubscribed("a"), ws.subscriptions]);
    },
  });
  await using _client = await open(listen(app));
  const [first, second] = await seen.until(2);
  expect(first).toEqual([true, true, true, ["a", "b"], true]);
  expect(second).toEqual([true, false, ["b"]]);
});

test("order between send and publish is kept", async () => {
  await using app = quiet();
  app.ws("/", {
    open(ws) {
      ws.subscribe("room");
      for (let index = 0; index < 10; index++) {
        ws.send(`send ${index}`);
        app.publish("room", `publish ${index}`);
      }
    },
  });
  await using client = await open(listen(app));
  for (let index = 0; index < 10; index++) {
    expect([await client.text(), await client.text()]).toEqual([`send ${index}`, `publish ${index}`]);
  }
});

test("publish returns bytes, and 0 where nobody is; that is no drop", async () => {
  await using app = quiet();
  const results = new Events<number[]>();
  app.ws("/", {
    open: (ws) => void ws.subscribe("room"),
    message: (ws) => results.push([ws.publish("room", "a"), ws.publish("empty", "a")]),
  });
  expect(app.publish("room", "before listen")).toBe(0);
  const port = listen(app);
  expect(app.publish("room", "nobody")).toBe(0);
  await using client = await open(port);
  expect(app.publish("room", "hello")).toBe(5);
  client.send("now");
  expect(await results.until(1)).toEqual([[0, 0]]);
  expect(app.websocket.counters.dropped).toBe(0);
});

test("a closed connection is no subscriber any more", async () => {
  await using app = quiet();
  app.ws("/", { open: (ws) => void ws.subscribe("room") });
  const client = await open(listen(app));
  await until(() => app.server!.subscriberCount("room") === 1);
  await client[Symbol.asyncDispose]();
  await until(() => app.server!.subscriberCount("room") === 0, "the end of the subscription");
});

test("bytes of every kind are sent as binary frames", async () => {
  const bytes = new Uint8Array([1, 2, 3]);
  await using app = quiet();
  app.ws("/", {
    open(ws) {
      ws.subscribe("room");
      for (const data of [bytes, bytes.buffer, Buffer.from(bytes), new DataView(bytes.buffer)]) ws.send(data);
      app.publish("room", bytes);
    },
  });
  await using client = await open(listen(app));
  for (let index = 0; index < 5; index++) {
    expect(await client.frame()).toMatchObject({ opcode: BINARY, payload: Buffer.from(bytes) });
  }
});

describe("wrong use throws, and nothing is sent:", () => {
  const uses: Record<string, (ws: ServerWebSocket) => unknown> = {
    "send(5)": (ws) => ws.send(5 as unknown as string),
    "send({})": (ws) => ws.send({} as string),
    "send(undefined)": (ws) => ws.send(undefined as unknown as string),
    "publish of an object": (ws) => ws.publish("a", {} as string),
    "publish to no topic": (ws) => ws.publish("", "a"),
    "subscribe to no string": (ws) => ws.subscribe(5 as unknown as string),
    'subscribe("")': (ws) => ws.subscribe(""),
    "unsubscribe(undefined)": (ws) => ws.unsubscribe(undefined as unknown as string),
    "isSubscribed({})": (ws) => ws.isSubscribed({} as string),
  };
  for (const [name, use] of Object.entries(uses)) {
    test(name, async () => {
      const errors = new Events<string>();
      await using app = quiet();
      app.ws("/", {
        message(ws) {
          use(ws);
        },
        error(ws, error) {
          errors.push((error as HarpiaError).code);
          ws.send("last");
        },
      });
      await using client = await open(listen(app));
      client.send("now");
      expect(await client.text()).toBe("last");
      expect(errors.all).toEqual([expect.stringMatching(/^INVALID_(MESSAGE|TOPIC)$/)]);
    });
  }
});

describe("compression", () => {
  const deflate = { "Sec-WebSocket-Extensions": "permessage-deflate" };
  const long = "compress me ".repeat(100);

  for (const on of [true, false]) {
    test(`${on ? "on" : "off"}: send, ws.publish and app.publish alike`, async () => {
      await using app = quiet({ ws: { perMessageDeflate: on } });
      app.ws("/", {
        message(ws) {
          ws.subscribe("room");
          app.publish("room", long);
          for (const other of app.websocket.connections) if (other !== ws) other.publish("room", long);
          ws.send(long);
        },
      });
      const port = listen(app);
      await using _other = await open(port, "/", deflate);
      await using client = await open(port, "/", deflate);
      client.send("now");
      for (let index = 0; index < 3; index++) {
        expect((await client.frame()).compressed).toBe(on);
      }
    });
  }

  test("a compressed message beyond maxPayloadLength is 1009", async () => {
    await using app = quiet({ ws: { perMessageDeflate: true, maxPayloadLength: 1_000 } });
    app.ws("/", echo);
    await using client = await open(listen(app), "/", deflate);
    client.write(frame(TEXT, Buffer.from(Bun.deflateSync(Buffer.alloc(1_000_000))), { rsv: 4 }));
    expect((await client.closeFrame()).code).toBe(1009);
  });
});

test("pings of the client are answered, and ws.ping and ws.pong reach it", async () => {
  await using app = quiet();
  app.ws("/", {
    message(ws) {
      ws.ping("p");
      ws.pong("q");
    },
  });
  await using client = await open(listen(app));
  client.write(frame(9, "are you there"));
  expect(await client.frame()).toMatchObject({ opcode: 10, payload: Buffer.from("are you there") });
  client.send("now");
  expect(await client.frame()).toMatchObject({ opcode: 9, payload: Buffer.from("p") });
  expect(await client.frame()).toMatchObject({ opcode: 10, payload: Buffer.from("q") });
});
