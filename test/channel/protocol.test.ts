// docs/protocol.md is true: each of its examples is played against a server, by a bare WebSocket.

import { describe, expect, test } from "bun:test";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { blocks, pages } from "../docs/markdown.js";
import { listen, quiet } from "../support/app.js";
import { call } from "../support/channel.js";
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
      trigger: { params: z.object({ what: z.enum(["notice", "confirm", "come", "go", "kick"]) }) },
      publish: {
        params: z.object({ room: z.string(), text: z.string(), exceptMe: z.boolean().optional() }),
      },
    },
    events: {
      notice: { params: z.object({ text: z.string() }) },
      confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
    },
    topics: {
      "room/:room": { message: z.object({ text: z.string() }), history: { size: 3, ttl: 3600 } },
      typing: { message: z.boolean() },
      members: { message: z.string(), presence: z.object({ name: z.string() }) },
      staff: { message: z.string() },
      club: { message: z.string(), errors: { FULL: z.object({ most: z.number() }) } },
    },
  });
}

function serve() {
  const app = quiet();
  const ticked = new Events<void>();
  let bob: Promise<WebSocket> | undefined;
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
        async typing({ on }) {
          await live.topic("typing").publish(on);
        },
        async publish({ room, text, exceptMe }, { ws }) {
          await live.topic("room/:room", { room }).publish({ text }, exceptMe ? { except: ws } : {});
        },
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
          else if (what === "confirm") await live.ask(ws, "confirm", { what: "delete" });
          else if (what === "kick") await live.kick(ws, "typing", {});
          // Not awaited: what others are told of it comes after the answer.
          else if (what === "go") void bob?.then((visitor) => visitor.close());
          else bob = visit(new URL("/demo?token=Bob", app.server!.url).href);
        },
      },
      topics: {
        ...others,
        members: {
          subscribe: "public",
          presence: {
            info: (_params, { ws }) => ({ name: ws.data.token }),
            key: (_params, { ws }) => ws.data.token.toLowerCase(),
          },
        },
      },
    });
  return app;
}

/** Somebody else who subscribes to `members`. */
async function visit(url: string): Promise<WebSocket> {
  const socket = new WebSocket(url.replace("http", "ws"));
  await new Promise((resolve) => (socket.onopen = resolve));
  socket.send(call(1, "$/subscribe", { topic: "members" }));
  return socket;
}

/** The epoch of the page, which stands for that of the server. */
const EPOCH = "Xy12abCD";

const examples = blocks(page, "frames");

describe("docs/protocol.md:", () => {
  for (const example of examples) {
    const lines = example.trim().split("\n");
    test(lines[0]!.slice(2, 100), async () => {
      await using app = serve();
      await using client = await open(listen(app), "/demo?token=Ada", {
        "Sec-WebSocket-Protocol": "harpia.v1",
      });
      let epoch = EPOCH;
      for (const line of lines) {
        const frame = line.slice(2);
        if (line.startsWith("→")) {
          client.send(frame.replaceAll(EPOCH, epoch));
          continue;
        }
        const text = await client.text();
        epoch = (JSON.parse(text) as { result?: { epoch?: string } }).result?.epoch ?? epoch;
        expect(JSON.parse(text.replaceAll(epoch, EPOCH))).toEqual(pattern(JSON.parse(frame)));
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
      "$/subscribe",
      "$/unsubscribe",
      "$/unsubscribed",
      "$/history",
      "$/message",
      "$/presence",
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

const others = {
  "room/:room": { subscribe: "public" },
  typing: { subscribe: "public" },
  staff: { subscribe: () => false },
  club: {
    subscribe: (_params: object, { error }: { error(name: "FULL", data: { most: number }): Error }) => {
      throw error("FULL", { most: 7 });
    },
  },
} as const;

const never = () => new Promise<never>(() => {});
const none = {
  add: never,
  typing: never,
  say: never,
  fail: never,
  wait: never,
  trigger: never,
  publish: never,
  async *count() {},
  async *ticks() {},
  tick: never,
};

const topics = { ...others, members: { subscribe: "public", presence: () => undefined } } as const;

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
      app.channel(demo, { upgrade } as object).implement({ methods: none, topics });
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
    app.channel(demo).implement({ methods: none, topics });
    const port = listen(app);
    const offer = { "Sec-WebSocket-Protocol": "harpia.v1" };
    await using stranger = await open(port, "/demo", { ...offer, Origin: "https://evil.example" });
    expect((await stranger.closeFrame()).code).toBe(4403);
    await using _other = await open(port, "/other");
    await using late = await open(port, "/demo", offer);
    expect((await late.closeFrame()).code).toBe(1013);
  });
});
