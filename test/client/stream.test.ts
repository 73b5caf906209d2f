// Streams from the reader's side: one that is slow or absent holds the generator back, and whatever ends a stream ends
// it on both sides.

import { describe, expect, test } from "bun:test";
import { getEventListeners } from "node:events";
import { connect, type RpcError } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";

const contract = defineChannel({
  path: "/streams",
  methods: {
    numbers: { params: z.object({ to: z.number() }), stream: z.number() },
    fails: { stream: z.number(), errors: { DRY: z.object({ after: z.number() }) } },
    ping: {},
  },
});

function serve() {
  const app = quiet();
  const seen = { made: 0, ended: new Events<boolean>() };
  app.channel(contract).implement({
    methods: {
      async *numbers({ to }, { signal }) {
        try {
          for (seen.made = 0; seen.made < to; seen.made++) yield seen.made;
        } finally {
          seen.ended.push(signal.aborted);
        }
      },
      async *fails(_params, { error }) {
        yield 1;
        throw error("DRY", { after: 1 });
      },
      ping() {},
    },
  });
  const url = `ws://127.0.0.1:${listen(app)}`;
  return { app, seen, url, [Symbol.asyncDispose]: () => app.stop({ timeout: 100 }) };
}

type Seen = ReturnType<typeof serve>["seen"];

/** Waits until the generator stands still: calls come and go, and it has made nothing meanwhile. */
async function untilHeld(client: { call(method: "ping"): Promise<void> }, seen: Seen): Promise<number> {
  for (let calls = 0, before = -1; calls < 5; calls++) {
    await client.call("ping");
    if (seen.made !== before) calls = 0;
    before = seen.made;
  }
  return seen.made;
}

async function rejection(promise: Promise<unknown>): Promise<RpcError> {
  try {
    await promise;
  } catch (error) {
    return error as RpcError;
  }
  throw new Error("it did not reject");
}

describe("a reader that stops reading", () => {
  test("holds the generator back; reading on, it gets every value in order", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const stream = client.stream("numbers", { to: 20_000 });
    expect((await stream.next()).value).toBe(0);
    const held = await untilHeld(client, server.seen);
    expect(held).toBeLessThan(5_000); // 64, and what was on its way
    let expected = 1;
    for await (const value of stream) if (value !== expected++) throw new Error(`${value} came`);
    expect(expected).toBe(20_000);
    expect(server.seen.ended.all).toEqual([false]);
  });

  test("and starts again and again never has more than that waiting", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const stream = client.stream("numbers", { to: 1e9 });
    for (let read = 0; read < 1_000;) {
      for (let count = 0; count < 200; count++) expect((await stream.next()).value).toBe(read++);
      expect((await untilHeld(client, server.seen)) - read).toBeLessThan(5_000);
    }
    await stream.return!();
  });

  test("holds back that stream, and no other", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const absent = client.stream("numbers", { to: 1e9 });
    await absent.next();
    await untilHeld(client, server.seen);
    const values: number[] = [];
    for await (const value of client.stream("numbers", { to: 300 })) values.push(value);
    expect(values).toHaveLength(300);
    await absent.return!();
  });

  for (const [how, end] of [
    ["break", async (stream: AsyncIterableIterator<number>) => void (await stream.return!())],
    ["close()", async (_stream: unknown, client: { close(): void }) => client.close()],
  ] as const) {
    test(`ends the generator by ${how}`, async () => {
      await using server = serve();
      using client = connect(contract, { url: server.url });
      const stream = client.stream("numbers", { to: 1e9 });
      await stream.next();
      await untilHeld(client, server.seen);
      await end(stream, client);
      expect(await server.seen.ended.until(1)).toEqual([true]);
    });
  }

  test("finds what came before the connection broke, and then that it broke", async () => {
    await using server = serve();
    using client = connect(contract, { url: server.url });
    const stream = client.stream("numbers", { to: 1e9 });
    await stream.next();
    await untilHeld(client, server.seen);
    for (const ws of server.app.websocket.connections) ws.terminate();
    await until(() => client.state === "reconnecting", "the break");
    for (let value = 1; value <= 64; value++) expect((await stream.next()).value).toBe(value);
    const rest = (async () => {
      for await (const _value of stream);
    })();
    expect((await rejection(rest)).reason).toBe("CONNECTION_LOST");
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });
});

test("a stream that fails gives its values first, then the contract's error, then its end", async () => {
  await using server = serve();
  using client = connect(contract, { url: server.url });
  const stream = client.stream("fails");
  expect((await stream.next()).value).toBe(1);
  const error = await rejection(stream.next());
  expect([error.error, error.data]).toEqual(["DRY", { after: 1 }]);
  expect(await stream.next()).toEqual({ done: true, value: undefined });
});

test("several may wait for the next value: each gets one, in the order in which they asked", async () => {
  await using server = serve();
  using client = connect(contract, { url: server.url });
  const stream = client.stream("numbers", { to: 2 });
  const steps = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()]);
  expect(steps.map(({ value }) => value)).toEqual([0, 1, undefined, undefined]);
});

test("a stream that nobody reads is never begun, also when it is given back", async () => {
  await using server = serve();
  using client = connect(contract, { url: server.url });
  const stream = client.stream("numbers", { to: 5 });
  await stream.return!();
  expect(await stream.next()).toEqual({ done: true, value: undefined });
  await client.call("ping");
  expect([server.seen.made, server.seen.ended.all]).toEqual([0, []]);
});

test("a signal that lives on keeps nothing of a call or a stream that is over, however it ended", async () => {
  await using server = serve();
  using client = connect(contract, { url: server.url });
  const { signal } = new AbortController();
  await client.call("ping", undefined, { signal });
  for await (const _value of client.stream("numbers", { to: 3 }, { signal }));
  for await (const _value of client.stream("numbers", { to: 1e9 }, { signal })) break;
  const failing = client.stream("fails", undefined, { signal });
  await failing.next();
  await rejection(failing.next());
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
});
