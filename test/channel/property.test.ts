// Anything that a client can send to a channel, made up by fast-check: the server answers it, or closes with a code
// that docs/protocol.md has, and another connection works on. A failure prints the seed and the smallest example.

import { expect, test } from "bun:test";
import fc from "fast-check";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet, until } from "../support/app.js";
import { call, received, type Received } from "../support/channel.js";
import { keptLog } from "../support/log.js";
import { BINARY, CLOSE, frame, open, type RawClient, TEXT } from "../support/raw.js";

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env.RUNS ?? 300);

const contract = defineChannel({
  path: "/any",
  methods: {
    echo: { params: z.any(), result: z.any() },
    add: { params: z.object({ a: z.number(), b: z.number() }), result: z.number() },
    later: { params: z.any(), result: z.any() },
    fails: { errors: { NO: z.object({ why: z.string() }) } },
    count: { params: z.object({ to: z.number().max(100) }), stream: z.number() },
    asks: { result: z.boolean() },
  },
  events: { confirm: { params: z.object({}), result: z.boolean() } },
});

const methods = ["echo", "add", "later", "fails", "count", "asks"];
const own = ["$/ping", "$/cancel", "$/pause", "$/resume", "$/refresh", "$/next", "$/nothing"];
const strange = ["toString", "__proto__", "constructor", "", "rpc.x", "hasOwnProperty"];

const id = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom<unknown>(1, 2, "1", "a") },
  { weight: 1, arbitrary: fc.oneof(fc.constant(null), fc.double(), fc.string(), fc.jsonValue()) },
);
const params = fc.oneof(
  fc.record({ a: fc.integer(), b: fc.integer() }),
  fc.record({ to: fc.integer({ min: -1, max: 120 }) }),
  fc.record({ id }),
  fc.record({ token: fc.string() }),
  fc.jsonValue(),
);
const method = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...methods) },
  { weight: 3, arbitrary: fc.constantFrom(...own) },
  { weight: 1, arbitrary: fc.oneof(fc.constantFrom(...strange), fc.string(), fc.jsonValue()) },
);
const version = fc.oneof(
  { weight: 20, arbitrary: fc.constant<unknown>("2.0") },
  { weight: 1, arbitrary: fc.jsonValue() },
);
/** Like a frame: some of its members, some of them wrong. */
const frameLike = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ jsonrpc: version, id, method, params }, { requiredKeys: ["jsonrpc", "method"] }),
  },
  {
    weight: 2,
    arbitrary: fc.record(
      { jsonrpc: version, id, result: fc.jsonValue(), error: fc.jsonValue() },
      { requiredKeys: ["jsonrpc", "id"] },
    ),
  },
  { weight: 1, arbitrary: fc.jsonValue() },
);
const text = fc.oneof(
  { weight: 6, arbitrary: frameLike.map((value) => JSON.stringify(value)) },
  { weight: 3, arbitrary: fc.array(frameLike, { maxLength: 8 }).map((value) => JSON.stringify(value)) },
  { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
);
/** What goes over the wire as one message. */
const message = fc.oneof(
  { weight: 8, arbitrary: text.map((value) => frame(TEXT, value)) },
  {
    weight: 1,
    arbitrary: fc.uint8Array({ maxLength: 100 }).map((bytes) => frame(BINARY, Buffer.from(bytes))),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 100 }).map((bytes) => frame(TEXT, Buffer.from(bytes))) },
);

/** How docs/protocol.md lets a server end a connection for what a client sends: text that is not UTF-8. */
const DOCUMENTED = [1007];

function serve() {
  const log = keptLog();
  const app = quiet({ logger: log });
  const live = app.channel(contract, { concurrency: 2, refresh() {} }).implement({
    methods: {
      echo: (value) => value,
      add: ({ a, b }) => a + b,
      async later(value) {
        await new Promise(setImmediate);
        return value;
      },
      fails(_params, { error }) {
        throw error("NO", { why: "always" });
      },
      async *count({ to }) {
        for (let value = 0; value < to; value++) yield value;
      },
      // Asked in vain, it is answered all the same.
      asks: (_params, { ws }) => live.ask(ws, "confirm", {}, { timeout: 20 }).catch(() => false),
    },
  });
  return { app, log, port: listen(app) };
}

/** Checks each frame of a server by itself, and counts the answers by their ids. */
function checkFrame(value: unknown, answers: Map<unknown, number>): void {
  if (Array.isArray(value)) {
    expect(value.length).toBeGreaterThan(0);
    for (const each of value) checkFrame(each, answers);
    return;
  }
  const one = value as Received & { jsonrpc: string };
  expect(one.jsonrpc).toBe("2.0");
  if (one.method !== undefined) return expect(["$/next", "confirm"]).toContain(one.method);
  expect("result" in one).not.toBe("error" in one);
  if (one.error) {
    expect(one.error).toMatchObject({ code: expect.any(Number), message: expect.any(String) });
    expect(one.error.code).not.toBe(-32_603);
  }
  answers.set(one.id, (answers.get(one.id) ?? 0) + 1);
}

/** Reads until the server has answered the last call or closed. @returns the close code. */
async function readAll(client: RawClient, last: string, answers: Map<unknown, number>): Promise<number> {
  for (;;) {
    const { opcode, payload } = await client.frame();
    if (opcode === CLOSE) return payload.readUInt16BE(0);
    const value: unknown = JSON.parse(payload.toString());
    if ((value as Received).id === last) return 0;
    checkFrame(value, answers);
  }
}

test(`whatever comes is answered or closes with a documented code, and others go on (SEED=${SEED})`, async () => {
  const { app, log, port } = serve();
  await using _app = app;
  await using other = await open(port, "/any");
  let closes = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 12 }), async (messages) => {
      await using client = await open(port, "/any");
      client.write(Buffer.concat([...messages, frame(TEXT, call("the last", "echo"))]));
      const code = await readAll(client, "the last", new Map());
      if (code !== 0) {
        closes++;
        expect(DOCUMENTED).toContain(code);
      }
      other.send(call("other", "add", { a: 1, b: 2 }));
      expect(await received(other)).toMatchObject({ id: "other", result: 3 });
    }),
    { seed: SEED, numRuns: RUNS, endOnFailure: false },
  );
  expect(closes).toBeGreaterThan(0);
  await until(() => app.websocket.connections.size === 1, "the end of all but one");
  // Nothing of it was the server's failure.
  expect(log.lines.filter(({ level }) => level === "error" || level === "warn")).toEqual([]);
}, 30_000);

test(`calls with ids of their own are answered exactly once each, in batches or not (SEED=${SEED})`, async () => {
  const { app, port } = serve();
  await using _app = app;
  await using client = await open(port, "/any");
  let next = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.array(fc.record({ method: fc.constantFrom("echo", "add", "later", "fails", "nothing"), params }), {
          minLength: 1,
          maxLength: 6,
        }),
        { minLength: 1, maxLength: 30 },
      ),
      async (batches) => {
        const wanted = new Set<unknown>();
        for (const batch of batches) {
          const frames = batch.map((one) => {
            const fresh = `id ${next++}`;
            wanted.add(fresh);
            return call(fresh, one.method, one.params);
          });
          client.send(frames.length === 1 ? frames[0]! : `[${frames.join(",")}]`);
        }
        const answers = new Map<unknown, number>();
        while ([...answers.values()].reduce((sum, count) => sum + count, 0) < wanted.size) {
          checkFrame(await received(client), answers);
        }
        expect(new Set(answers.keys())).toEqual(wanted);
      },
    ),
    { seed: SEED, numRuns: RUNS / 3 },
  );
  // And none is answered twice.
  client.send(call("the last", "$/ping"));
  expect(await received(client)).toMatchObject({ id: "the last", result: "pong" });
}, 30_000);
