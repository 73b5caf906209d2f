// How connections end: for each way, `close` runs exactly once, with the code that is true.

import { describe, expect, test } from "bun:test";
import type { Harpia, ServerWebSocket, WebSocketHandlers } from "harpia";
import { ProtocolError } from "harpia";
import { listen, quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";
import { BINARY, closeFrame, frame, open, type RawClient, TEXT } from "../support/raw.js";

interface Way {
  name: string;
  end: (client: RawClient, app: Harpia) => void;
  code: number;
  reason?: string;
  /** What the `error` handler is given before. */
  error?: { code: number | string };
  handlers?: WebSocketHandlers;
  ws?: { idleTimeout?: number; maxPayloadLength?: number };
}

const serverSide = (act: (ws: ServerWebSocket) => void): WebSocketHandlers => ({ message: (ws) => act(ws) });
const ask = (client: RawClient) => client.send("now");

const WAYS: Way[] = [
  {
    name: "the client's close frame",
    end: (client) => client.write(closeFrame(1000, "bye")),
    code: 1000,
    reason: "bye",
  },
  {
    name: "the client's close frame with a code of its own",
    end: (client) => client.write(closeFrame(4001, "ü")),
    code: 4001,
    reason: "ü",
  },
  { name: "a close frame without a code", end: (client) => client.write(closeFrame()), code: 1005 },
  { name: "a TCP reset", end: (client) => client.reset(), code: 1006 },
  { name: "a FIN without a close frame", end: (client) => client.fin(), code: 1006 },
  {
    name: "text that is not UTF-8",
    end: (client) => client.write(frame(TEXT, Buffer.from([0xc3, 0x28]))),
    code: 1007,
    error: { code: 1007 },
  },
  {
    name: "a message above maxPayloadLength",
    end: (client) => client.write(frame(BINARY, Buffer.alloc(2_000))),
    code: 1009,
    error: { code: 1009 },
    ws: { maxPayloadLength: 1_000 },
  },
  {
    name: "a message above maxPayloadLength in fragments",
    end: (client) =>
      client.write(
        Buffer.concat([frame(BINARY, Buffer.alloc(800), { fin: false }), frame(0, Buffer.alloc(800))]),
      ),
    code: 1009,
    error: { code: 1009 },
    ws: { maxPayloadLength: 1_000 },
  },
  {
    name: "a frame that is not masked",
    end: (client) => client.write(frame(TEXT, "a", { masked: false })),
    code: 1002,
    error: { code: 1002 },
  },
  {
    name: "a frame with a reserved bit",
    end: (client) => client.write(frame(TEXT, "a", { rsv: 2 })),
    code: 1002,
    error: { code: 1002 },
  },
  {
    name: "a frame with a reserved opcode",
    end: (client) => client.write(frame(3, "a")),
    code: 1002,
    error: { code: 1002 },
  },
  {
    name: "a fragmented ping",
    end: (client) => client.write(frame(9, "a", { fin: false })),
    code: 1002,
    error: { code: 1002 },
  },
  {
    name: "a ping above 125 bytes",
    end: (client) => client.write(frame(9, "a".repeat(126))),
    code: 1002,
    error: { code: 1002 },
  },
  {
    name: "silence for idleTimeout",
    end: () => {},
    code: 1006,
    error: { code: "IDLE_TIMEOUT" },
    ws: { idleTimeout: 0.08 },
  },
  { name: "app.stop()", end: (_client, app) => void app.stop(), code: 1001, reason: "Going away" },
  {
    name: "app.stop({ restart: true })",
    end: (_client, app) => void app.stop({ restart: true }),
    code: 1012,
    reason: "Service restart",
  },
  { name: "ws.close()", end: ask, code: 1000, handlers: serverSide((ws) => ws.close()) },
  {
    name: "ws.close(4000, reason)",
    end: ask,
    code: 4000,
    reason: "kicked",
    handlers: serverSide((ws) => ws.close(4000, "kicked")),
  },
  { name: "ws.terminate()", end: ask, code: 1006, handlers: serverSide((ws) => ws.terminate()) },
  {
    name: "ws.close() twice, and terminate",
    end: ask,
    code: 4000,
    reason: "",
    handlers: serverSide((ws) => {
      ws.close(4000);
      ws.close(4001);
      ws.terminate();
    }),
  },
  { name: "ws.close() in open", end: () => {}, code: 4002, handlers: { open: (ws) => ws.close(4002) } },
  { name: "ws.terminate() in open", end: () => {}, code: 1006, handlers: { open: (ws) => ws.terminate() } },
];

describe("close runs exactly once, with the true code, after", () => {
  for (const { name, end, code, reason = "", error, handlers, ws: limits } of WAYS) {
    test(name, async () => {
      const events = new Events<unknown[]>();
      await using app = quiet();
      app.ws("/", {
        ...handlers,
        error: (_ws, { code }: Error & { code?: unknown }) => events.push(["error", code]),
        close: (_ws, code, reason) => events.push(["close", code, reason]),
      });
      await using client = await open(listen(app, { ws: limits }));
      end(client, app);
      await until(
        () => app.websocket.connections.size === 0 && events.all.some(([what]) => what === "close"),
        "the end",
      );
      const ended = error === undefined ? ["close", code, reason] : ["close", code, expect.any(String)];
      expect(events.all).toEqual(error === undefined ? [ended] : [["error", error.code], ended]);
      await client[Symbol.asyncDispose]();
      await new Promise(setImmediate);
      expect(events.all.filter(([what]) => what === "close")).toHaveLength(1);
      expect(app.websocket.counters).toMatchObject({
        opened: 1,
        closed: 1,
        errors: error === undefined ? 0 : 1,
      });
    });
  }

  for (const [name, handlers] of [
    [
      "a throw in open, without an error handler",
      {
        open() {
          throw new Error("no");
        },
      },
    ],
    [
      "a rejection of open, without an error handler",
      {
        async open() {
          throw new Error("no");
        },
      },
    ],
  ] as [string, WebSocketHandlers][]) {
    test(name, async () => {
      const events = new Events<unknown[]>();
      await using app = quiet();
      app.ws("/", { ...handlers, close: (_ws, code, reason) => events.push([code, reason]) });
      await using client = await open(listen(app));
      expect(await client.closeFrame()).toEqual({ code: 1011, reason: "Internal error" });
      expect(await events.until(1)).toEqual([[1011, "Internal error"]]);
    });
  }
});

test("the peer is told the code of its violation too", async () => {
  await using app = quiet();
  app.ws("/", {});
  const port = listen(app, { ws: { maxPayloadLength: 100 } });
  for (const [bytes, code] of [
    [frame(TEXT, Buffer.from([0xff])), 1007],
    [frame(TEXT, "a".repeat(101)), 1009],
    [frame(3, "a"), 1002],
  ] as const) {
    await using client = await open(port);
    client.write(bytes);
    expect((await client.closeFrame()).code).toBe(code);
  }
});

test("a protocol violation is a ProtocolError", async () => {
  const events = new Events<Error>();
  await using app = quiet();
  app.ws("/", { error: (_ws, error) => events.push(error) });
  await using client = await open(listen(app));
  client.write(frame(TEXT, Buffer.from([0xff])));
  const [error] = await events.until(1);
  expect(error).toBeInstanceOf(ProtocolError);
});

describe("ws.close", () => {
  async function inHandler<T>(
    act: (ws: ServerWebSocket) => T,
  ): Promise<{ result: T | Error; frame: { code: number; reason: string } }> {
    const result = Promise.withResolvers<T | Error>();
    await using app = quiet();
    app.ws("/", {
      message(ws) {
        try {
          result.resolve(act(ws));
        } catch (error) {
          result.resolve(error as Error);
        }
        ws.close(4999, "last");
      },
    });
    await using client = await open(listen(app));
    client.send("now");
    return { frame: await client.closeFrame(), result: await result.promise };
  }

  for (const code of [
    0,
    999,
    1004,
    1005,
    1006,
    1015,
    1016,
    2999,
    5000,
    -1,
    1000.5,
    Number.NaN,
    "1000",
    null,
  ] as number[]) {
    test(`throws a RangeError for ${JSON.stringify(code)}, which may not be sent, and the connection stays`, async () => {
      const { result, frame } = await inHandler((ws) => ws.close(code));
      expect(result).toBeInstanceOf(RangeError);
      expect(frame).toEqual({ code: 4999, reason: "last" });
    });
  }

  for (const code of [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999]) {
    test(`sends ${code}`, async () => {
      expect((await inHandler((ws) => ws.close(code, "why"))).frame).toEqual({ code, reason: "why" });
    });
  }

  test("cuts a reason at 123 bytes, on a character's edge", async () => {
    const { frame } = await inHandler((ws) => ws.close(4000, "é".repeat(100)));
    expect(frame).toEqual({ code: 4000, reason: "é".repeat(61) });
    const wide = await inHandler((ws) => ws.close(4000, `a${"🦅".repeat(40)}`));
    expect(wide.frame.reason).toBe(`a${"🦅".repeat(30)}`);
  });

  test("throws a TypeError for a reason that is no string", async () => {
    expect((await inHandler((ws) => ws.close(4000, 5 as unknown as string))).result).toBeInstanceOf(
      TypeError,
    );
  });
});

test("what waits in the queue is let go when the app closes the connection", async () => {
  const events = new Events<string>();
  await using app = quiet();
  app.ws("/", {
    message(ws, message) {
      events.push(String(message));
      ws.close(4000);
    },
    close: (_ws, code) => events.push(`close ${code}`),
  });
  await using client = await open(listen(app));
  client.write(Buffer.concat([frame(TEXT, "a"), frame(TEXT, "b"), frame(TEXT, "c")]));
  await client.closeFrame();
  expect(await events.until(2)).toEqual(["a", "close 4000"]);
});
