// Anything that a client can send: whatever it is, the server lives, says what it must, forgets the connection, and
// serves the next one.

import { expect, test } from "bun:test";
import { echo, listen, quiet, until } from "../support/app.js";
import { keptLog } from "../support/log.js";
import { seeded } from "../support/random.js";
import {
  BINARY,
  closeFrame,
  dial,
  frame,
  open,
  PING,
  type RawClient,
  request,
  TEXT,
} from "../support/raw.js";

const SEED = Number(process.env.SEED ?? 1);

/** Whole numbers below another. */
function random(seed: number): (below: number) => number {
  const next = seeded(seed);
  return (below) => (next() * 2 ** 32) % below;
}

test(`random bytes as frames, seed ${SEED}: every connection ends with a true code, none is left, others never notice`, async () => {
  const log = keptLog();
  const codes = new Map<number, number>();
  await using app = quiet({ logger: log, ws: { maxPayloadLength: 4_096, perMessageDeflate: true } });
  app.ws("/garbage", {
    concurrency: 2,
    async open() {
      await Promise.resolve();
    },
    async message(ws, message) {
      await Promise.resolve();
      ws.send(message);
    },
    error() {},
    close: (_ws, code) => void codes.set(code, (codes.get(code) ?? 0) + 1),
  });
  app.ws("/", echo);
  const port = listen(app);
  await using other = await open(port);
  const next = random(SEED);
  const bytes = (most: number) => Buffer.from(Array.from({ length: next(most) }, () => next(256)));
  const pieces = [
    () => bytes(200),
    () => frame(TEXT, bytes(100)),
    () => frame(BINARY, bytes(6_000)),
    () =>
      frame(next(16), bytes(140), {
        fin: next(2) === 0,
        masked: next(8) > 0,
        rsv: next(4) === 0 ? next(8) : 0,
      }),
    () => frame(0, bytes(50), { fin: next(2) === 0 }),
    () => frame(PING, bytes(130)),
    () => closeFrame(next(6_000), "x".repeat(next(125))),
    () => frame(TEXT, "fine"),
  ];
  const clients: RawClient[] = [];
  for (let index = 0; index < 500; index++) {
    const client = await open(
      port,
      "/garbage",
      next(2) === 0 ? { "Sec-WebSocket-Extensions": "permessage-deflate" } : {},
    );
    const sent = Buffer.concat(Array.from({ length: 1 + next(8) }, () => pieces[next(pieces.length)]!()));
    // Cut anywhere, so that frames come in pieces.
    const cut = next(sent.length + 1);
    client.write(sent.subarray(0, cut));
    if (next(2) === 0) await new Promise(setImmediate);
    client.write(sent.subarray(cut));
    if (next(3) === 0) client.reset();
    else client.fin();
    clients.push(client);
  }
  await until(() => app.websocket.connections.size === 1, "the end of all but one");
  const { opened, closed } = app.websocket.counters;
  expect([opened, closed]).toEqual([501, 500]);
  await until(() => [...codes.values()].reduce((sum, count) => sum + count, 0) === 500, "500 close handlers");
  expect([1002, 1006, 1007, 1009].filter((code) => !codes.has(code))).toEqual([]);
  expect(log.lines).toEqual([]);
  other.send("alive");
  expect(await other.text()).toBe("alive");
  for (const client of clients) client.socket.destroy();
});

test(`random bytes as handshakes, seed ${SEED}: nothing is opened, and the server lives`, async () => {
  const log = keptLog();
  await using app = quiet({ logger: log });
  app.ws("/", echo);
  const port = listen(app);
  const next = random(SEED);
  const clients: RawClient[] = [];
  for (let index = 0; index < 300; index++) {
    const client = await dial(port);
    const text = Buffer.from(request("/", { Cookie: "x".repeat(next(20_000)) }));
    // A valid request with a few bytes of its head changed, or cut short.
    for (let changes = 1 + next(5); changes > 0; changes--) text[next(60)] = next(256);
    client.write(text.subarray(0, next(3) === 0 ? next(text.length) : text.length));
    client.fin();
    clients.push(client);
  }
  await until(() => clients.every((client) => client.over), "the end of all");
  await using good = await open(port);
  good.send("alive");
  expect(await good.text()).toBe("alive");
  expect(log.lines.filter(({ level }) => level !== "debug")).toEqual([]);
});

test("a flood of small messages at an async handler without limits is answered to the last one", async () => {
  await using app = quiet();
  app.ws("/", {
    async message(ws, message) {
      await Promise.resolve();
      if (ws.send(message) <= 0) await ws.drained();
    },
  });
  await using client = await open(listen(app));
  const COUNT = 20_000;
  client.write(Buffer.concat(Array.from({ length: COUNT }, (_, index) => frame(TEXT, `${index}`))));
  for (let index = 0; index < COUNT; index++) expect(await client.text()).toBe(`${index}`);
});
