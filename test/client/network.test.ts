// The client on a network that fails at the worst moment: in the middle of a frame, at every byte of it, in either
// direction. A call is answered or it rejects; it never hangs, never gets another's answer, and never runs by half.

import { expect, test } from "bun:test";
import type { Harpia } from "harpia";
import { RpcError } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { type Direction, testApp, type TestApp } from "harpia/testing";
import { z } from "zod";
import { quiet } from "../support/app.js";

const counter = defineChannel({
  path: "/counter",
  methods: {
    add: { params: z.object({ key: z.string() }), result: z.string() },
    get: { params: z.object({ key: z.string() }), result: z.string(), idempotent: true },
    hello: { result: z.string(), idempotent: true },
    count: { params: z.object({ to: z.number() }), stream: z.number() },
  },
});

/** How often each key was added. */
type Runs = Map<string, number>;

function makeApp(runs: Runs): Harpia {
  const app = quiet();
  app.channel(counter).implement({
    methods: {
      add({ key }) {
        runs.set(key, (runs.get(key) ?? 0) + 1);
        return `added ${key}`;
      },
      get: ({ key }) => `got ${key}`,
      hello: () => "hello",
      async *count({ to }) {
        for (let value = 0; value < to; value++) yield value;
      },
    },
  });
  return app;
}

/** The bytes of one call's frame, up, and of its answer, down. */
async function sizes(t: TestApp, method: "add" | "get", key: string): Promise<Record<Direction, number>> {
  using client = t.connect(counter);
  await client.call("hello");
  const { passed } = t.network(client);
  const before = { ...passed };
  expect(await client.call(method, { key })).toEndWith(key);
  return { up: passed.up - before.up, down: passed.down - before.down };
}

const reasonOf = (error: unknown): string => (error instanceof RpcError && error.reason) || String(error);

test.each(["up", "down"] as const)(
  "%s: a call that is cut at any byte is answered, or rejects with CONNECTION_LOST; it never runs twice",
  async (direction) => {
    const runs: Runs = new Map();
    await using t = await testApp(makeApp(runs));
    const size = (await sizes(t, "add", "abc"))[direction];
    expect(size).toBeGreaterThan(40);
    const outcomes = await Promise.all(
      Array.from({ length: size + 1 }, async (_, bytes) => {
        const key = String(bytes).padStart(3, "0");
        const client = t.connect(counter);
        await client.call("hello");
        t.network(client).cutAfter(bytes, direction);
        const outcome = await client.call("add", { key }).catch(reasonOf);
        // Whatever became of that one: the next is answered, and by its own answer.
        expect(await client.call("hello")).toBe("hello");
        return { bytes, outcome, runs: runs.get(key) ?? 0 };
      }),
    );
    for (const { bytes, outcome, runs: ran } of outcomes) {
      const key = String(bytes).padStart(3, "0");
      const whole = bytes === size;
      if (direction === "down") {
        expect([bytes, outcome]).toEqual([bytes, whole ? `added ${key}` : "CONNECTION_LOST"]);
        // Cut at once, the call may have left before the cut was noticed, or not.
        if (bytes > 0) expect([bytes, ran]).toEqual([bytes, 1]);
      } else {
        expect([bytes, outcome]).toEqual([bytes, "CONNECTION_LOST"]);
        expect([bytes, ran]).toEqual([bytes, whole ? 1 : 0]);
      }
    }
  },
  30_000,
);

test.each(["up", "down"] as const)(
  "%s: an idempotent call that is cut at any byte is answered all the same",
  async (direction) => {
    await using t = await testApp(makeApp(new Map()));
    const size = (await sizes(t, "get", "abc"))[direction];
    await Promise.all(
      Array.from({ length: size + 1 }, async (_, bytes) => {
        const key = String(bytes).padStart(3, "0");
        const client = t.connect(counter);
        await client.call("hello");
        t.network(client).cutAfter(bytes, direction);
        expect(await client.call("get", { key })).toBe(`got ${key}`);
      }),
    );
  },
  30_000,
);

test("a handshake that is cut at any byte is tried again", async () => {
  await using t = await testApp(makeApp(new Map()));
  const probe = await t.socket("/counter", { protocols: ["harpia.v1"] });
  const { down } = t.network(probe).passed;
  expect(down).toBeGreaterThan(100);
  await Promise.all(
    Array.from({ length: Math.ceil(down / 3) + 1 }, async (_, index) => {
      const client = t.connect(counter);
      t.network(client).cutAfter(index * 3);
      expect(await client.call("hello")).toBe("hello");
    }),
  );
}, 30_000);

test("a stream that is cut anywhere hands over a beginning of it, in order, and says that it broke", async () => {
  await using t = await testApp(makeApp(new Map()));
  await Promise.all(
    Array.from({ length: 50 }, async (_, index) => {
      const client = t.connect(counter);
      await client.call("hello");
      t.network(client).cutAfter(index * 37);
      const values: number[] = [];
      const end = await (async () => {
        for await (const value of client.stream("count", { to: 1_000 })) values.push(value);
        return "ended";
      })().catch(reasonOf);
      expect([index, end]).toEqual([index, "CONNECTION_LOST"]);
      expect(values).toEqual(values.map((_value, at) => at));
      expect(values.length).toBeLessThan(1_000);
    }),
  );
}, 30_000);
