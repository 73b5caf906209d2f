// app.stop() and a channel: what runs may finish and is answered, what waits for its reader goes out first, and at the
// deadline the signals fire.

import { expect, test } from "bun:test";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { call, Gates, received, result } from "../support/channel.js";
import { CLOSE, open } from "../support/raw.js";

const contract = defineChannel({
  path: "/stop",
  methods: {
    hold: { params: z.object({ key: z.string() }), result: z.string() },
    count: { stream: z.number() },
    asks: { result: z.boolean() },
    blob: { result: z.string() },
  },
  events: { confirm: { params: z.object({}), result: z.boolean() } },
});

const KIB = 1024;

function serve() {
  const app = quiet({ ws: { backpressureLimit: 64 * KIB } });
  const gates = new Gates();
  const closed: number[] = [];
  const live = app.channel(contract, { close: (_ws, code) => void closed.push(code) }).implement({
    methods: {
      hold: ({ key }, { signal }) => gates.wait(key, signal),
      async *count(_params, { signal }) {
        yield 1;
        await gates.wait("count", signal);
        yield 2;
      },
      asks: (_params, { ws }) => live.ask(ws, "confirm", {}),
      blob: () => "x".repeat(64 * KIB),
    },
  });
  return { app, live, gates, closed, port: listen(app) };
}

test("running calls, streams and asks finish and are answered, then comes 1001", async () => {
  const { app, gates, closed, port } = serve();
  await using client = await open(port, "/stop");
  client.send(call(1, "hold", { key: "a" }));
  client.send(call(2, "count"));
  client.send(call(3, "asks"));
  const first = [await received(client), await received(client)];
  const ask = first.find(({ method }) => method === "confirm")!;
  const stopped = app.stop();
  await expect(open(port, "/stop")).rejects.toThrow("503");
  client.send(result(ask.id, true));
  expect(await received(client)).toMatchObject({ id: 3, result: true });
  gates.openAll();
  expect(await received(client)).toMatchObject({ id: 1, result: "a" });
  expect(await received(client)).toMatchObject({ method: "$/next", params: { id: 2, value: 2 } });
  expect(await received(client)).toMatchObject({ id: 2, result: null });
  expect((await client.closeFrame()).code).toBe(1001);
  await stopped;
  expect(closed).toEqual([1001]);
  expect(gates.aborted.all).toEqual([]);
});

test("at the deadline the signals of what still runs fire, and asks reject", async () => {
  const { app, live, gates, closed, port } = serve();
  await using client = await open(port, "/stop");
  client.send(call(1, "hold", { key: "a" }));
  client.send(call(2, "count"));
  await gates.begun.until(2);
  const [ws] = live.connections;
  const asked = live.ask(ws!, "confirm", {}).catch((error: unknown) => error);
  await app.stop({ timeout: 50, restart: true });
  expect(await asked).toMatchObject({ reason: "CONNECTION_LOST" });
  expect(gates.aborted.all.toSorted()).toEqual(["a", "count"]);
  expect(closed).toEqual([1012]);
  gates.openAll();
});

test("answers that wait for a slow reader are sent before the connection closes", async () => {
  const { app, live, port } = serve();
  await using client = await open(port, "/stop");
  client.socket.pause();
  // More than kernel and Bun's buffer take, less than the outbox, so all have run.
  const COUNT = 70;
  for (let id = 0; id < COUNT; id++) client.send(call(id, "blob"));
  const [ws] = live.connections;
  await until(() => ws!.bufferedAmount >= 64 * KIB, "a full buffer");
  const stopped = app.stop({ timeout: 30_000 });
  client.socket.resume();
  let answers = 0;
  for (;;) {
    const { opcode, payload } = await client.frame();
    if (opcode === CLOSE) {
      expect(payload.readUInt16BE(0)).toBe(1001);
      break;
    }
    expect(JSON.parse(payload.toString())).toMatchObject({ id: answers++ });
  }
  expect(answers).toBe(COUNT);
  await stopped;
}, 40_000);
