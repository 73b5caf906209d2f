// docs/protocol.md is true: each of its examples is played against a server, by a bare WebSocket.

import { describe, expect, test } from "bun:test";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { blocks, pages } from "../docs/markdown.js";
import { listen, quiet } from "../support/app.js";
import { Events } from "../support/log.js";
import { open } from "../support/raw.js";

const page = pages.find(({ path }) => path === "docs/protocol.md")!;

/** The page's own contract, so that the two cannot drift apart. */
const source = blocks(page, "ts")[0]!
  .replace(/^import .*$/gm, "")
  .replace("export const demo =", "return");
// The documentation's own text, in this repository.
// oxlint-disable-next-line no-implied-eval
const demo = new Function("defineChannel", "z", source)(defineChannel, z) as ReturnType<
  typeof contractOfThePage
>;

function contractOfThePage() {
  return defineChannel({
    path: "/demo",
    methods: {
      add: { params: z.object({ a: z.number(), b: z.number() }), result: z.number() },
      typing: { params: z.object({ on: z.boolean() }) },
      count: { params: z.object({ to: z.number() }), stream: z.number() },
      ticks: { stream: z.number() },
      tick: {},
      say: { params: z.object({ text: z.string() }), errors: { MUTED: z.object({ until: z.number() }) } },
      fail: {},
      wait: {},
      trigger: { params: z.object({ what: z.enum(["notice", "confirm"]) }) },
    },
    events: {
      notice: { params: z.object({ text: z.string() }) },
      confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
    },
  });
}

function serve() {
  const app = quiet();
  const ticked = new Events<void>();
  const live = app
    .channel(demo, {
      upgrade: (_request, { token }) => ({ token: token ?? "none" }),
      refresh(token) {
        if (token === "wrong") throw new Error("no");
      },
    })
    .implement({
      methods: {
        add: ({ a, b }) => a + b,
        typing() {},
        async *count({ to }) {
          for (let value = 0; value < to; value++) yield value;
        },
        async *ticks() {
          for (let value = 0; ; value++) {
            await ticked.until(value + 1);
            yield value;
          }
        },
        tick: () => ticked.push(),
        say(_params, { error }) {
          throw error("MUTED", { until: 7 });
        },
        fail() {
          throw new Error("boom");
        },
        wait: () => new Promise<void>(() => {}),
        async trigger({ what }, { ws }) {
          if (what === "notice") await live.emit(ws, "notice", { text: "hello" });
          else await live.ask(ws, "confirm", { what: "delete" });
        },
      },
    });
  return app;
}

const examples = blocks(page, "frames");

describe("docs/protocol.md:", () => {
  for (const example of examples) {
    const lines = example.trim().split("\n");
    test(lines[0]!.slice(2, 100), async () => {
      await using app = serve();
      await using client = await open(listen(app), "/demo", { "Sec-WebSocket-Protocol": "harpia.v1" });
      for (const line of lines) {
        const frame = line.slice(2);
        if (line.startsWith("→")) client.send(frame);
        else expect(JSON.parse(await client.text())).toEqual(pattern(JSON.parse(frame)));
      }
      void app.stop({ timeout: 10 });
    });
  }

  test("has an example of everything", () => {
    const all = examples.join("\n");
    for (const name of [
      "$/next",
      "$/cancel",
      "$/ping",
      "$/pause",
      "$/resume",
      "$/refresh",
      "notice",
      "confirm",
      '"method":"say"',
      "[{",
    ]) {
      expect(all).toContain(name);
    }
    expect(examples.length).toBeGreaterThan(9);
  });
});

/** The example's value, in which "…" is any text. */
function pattern(value: unknown): unknown {
  if (value === "…") return expect.any(String);
  if (Array.isArray(value)) return value.map(pattern);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, pattern(inner)]));
}

const never = () => new Promise<never>(() => {});
const none = {
  add: never,
  typing: never,
  say: never,
  fail: never,
  wait: never,
  trigger: never,
  async *count() {},
  async *ticks() {},
  tick: never,
};

describe("a refused handshake closes with its status for a client that offered harpia.v1:", () => {
  const rows: [string, number, (() => Response | false | undefined) | (() => never)][] = [
    ["a Response of 401", 4401, () => new Response("no", { status: 401 })],
    ["a Response of 429", 4429, () => new Response("no", { status: 429 })],
    ["a Response of 503", 1013, () => new Response("no", { status: 503 })],
    ["false", 4403, () => false],
    [
      "a throw",
      4500,
      () => {
        throw new Error("boom");
      },
    ],
  ];
  for (const [name, code, upgrade] of rows) {
    test(name, async () => {
      await using app = quiet();
      app.channel(demo, { upgrade } as object).implement({ methods: none });
      const port = listen(app);
      await using client = await open(port, "/demo", { "Sec-WebSocket-Protocol": "harpia.v1" });
      expect(await client.closeFrame()).toEqual({ code, reason: "Refused" });
      expect(app.websocket.counters).toMatchObject({ opened: 0, closed: 0, refused: 1 });
      // Anyone else gets the HTTP response.
      await expect(open(port, "/demo")).rejects.toThrow("refused with");
    });
  }

  test("a foreign origin, and a full server", async () => {
    await using app = quiet({ maxConnections: 1 });
    app.ws("/other", {});
    app.channel(demo).implement({ methods: none });
    const port = listen(app);
    const offer = { "Sec-WebSocket-Protocol": "harpia.v1" };
    await using stranger = await open(port, "/demo", { ...offer, Origin: "https://evil.example" });
    expect((await stranger.closeFrame()).code).toBe(4403);
    await using _other = await open(port, "/other");
    await using late = await open(port, "/demo", offer);
    expect((await late.closeFrame()).code).toBe(1013);
  });
});
