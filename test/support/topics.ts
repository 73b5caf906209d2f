// A channel with topics of every kind, and a bare client of it: frames in the order in which they came, answers by id.

import type { ChannelSocket, Harpia, HarpiaOptions, ListenOptions } from "harpia";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet } from "./app.js";
import { call, Gates, type Received } from "./channel.js";
import { Events, keptLog } from "./log.js";
import { open, type RawClient } from "./raw.js";

const Text = z.object({ text: z.string() });
const Member = z.object({ name: z.string().min(1) });

export const topics = defineChannel({
  path: "/topics",
  methods: {
    say: {
      params: z.object({ room: z.string(), text: z.string() }),
      result: z.object({ offset: z.number() }),
    },
    /** Stops sooner or later than what was asked before it: shows that others go on. */
    nothing: {},
  },
  topics: {
    "room/:room": { message: Text, history: { size: 1_000, ttl: 3600 } },
    "short/:room": { message: Text, history: { size: 3, ttl: 3600 } },
    "plain/:name": { message: Text },
    latest: { message: z.number(), history: { size: 1, ttl: 3600 }, coalesce: true },
    "club/:name": {
      message: Text,
      history: { size: 10, ttl: 3600 },
      errors: { FULL: z.object({ most: z.number() }) },
    },
    "lobby/:room": { message: Text, history: { size: 10, ttl: 3600 }, presence: Member },
    "stage/:room": { message: Text, presence: Member },
  },
});

export type Ws = ChannelSocket<typeof topics, { name: string }>;

export interface TopicApp {
  app: Harpia;
  live: ReturnType<typeof implement>;
  gates: Gates;
  sockets: Events<Ws>;
  log: ReturnType<typeof keptLog>;
}

export interface TopicServer extends TopicApp, AsyncDisposable {
  port: number;
  connect(name?: string): Promise<Speaker>;
}

/** `club/<name>`: what its name says. `slow-…` waits for the gate of that name. */
function implement(app: Harpia, gates: Gates, sockets: Events<Ws>) {
  const live = app
    .channel(topics, {
      upgrade: (_request, { token }) => ({ name: token ?? "nobody" }),
      open: (ws) => sockets.push(ws),
    })
    .implement({
      methods: {
        say: ({ room, text }) => live.topic("room/:room", { room }).publish({ text }),
        nothing() {},
      },
      topics: {
        "room/:room": { subscribe: "public" },
        "short/:room": { subscribe: "public" },
        "plain/:name": { subscribe: "public" },
        latest: { subscribe: "public" },
        "club/:name": {
          async subscribe({ name }, { ws, error }) {
            if (name === "full") throw error("FULL", { most: 7 });
            if (name === "unknown-error")
              throw (error as (name: string, data: object) => Error)("FULLER", { most: 7 });
            if (name === "broken") throw new Error("the password is hunter2");
            if (name === "never") return await new Promise<boolean>(() => {});
            if (name.startsWith("slow")) await gates.wait(name);
            if (name === "undefined") return undefined as never;
            if (name === "truthy") return "yes" as never;
            return ws.data.name === "ada";
          },
        },
        "lobby/:room": {
          subscribe: "public",
          presence: {
            info: async (_params, { ws }) => {
              if (ws.data.name.startsWith("slow")) await gates.wait(ws.data.name);
              if (ws.data.name === "broken") throw new Error("the password is hunter2");
              if (ws.data.name === "invalid") return { name: "" };
              return ws.data.name === "ghost" ? undefined : { name: ws.data.name };
            },
            key: (_params, { ws }) => (ws.data.name === "keyless" ? "" : ws.data.name),
            max: 3,
          },
        },
        "stage/:room": { subscribe: "public", presence: (_params, { ws }) => ({ name: ws.data.name }) },
      },
    });
  return live;
}

/** An app with the topics, which does not listen yet. */
export function topicApp(options: HarpiaOptions = {}): TopicApp {
  const log = keptLog();
  const app = quiet({ logger: log, ...options });
  const gates = new Gates();
  const sockets = new Events<Ws>();
  return { app, live: implement(app, gates, sockets), gates, sockets, log };
}

export function serveTopics(
  options: HarpiaOptions = {},
  listenOptions: Partial<ListenOptions> = {},
): TopicServer {
  const made = topicApp(options);
  const { app } = made;
  const port = listen(app, listenOptions as ListenOptions);
  const speakers: Speaker[] = [];
  return {
    ...made,
    port,
    async connect(name = "nobody") {
      const speaker = new Speaker(await open(port, `/topics?token=${name}`));
      speakers.push(speaker);
      return speaker;
    },
    async [Symbol.asyncDispose]() {
      for (const speaker of speakers) await speaker[Symbol.asyncDispose]();
      await app.stop({ timeout: 1_000 });
    },
  };
}

/** A bare client that reads all that comes. */
export class Speaker implements AsyncDisposable {
  readonly raw: RawClient;
  /** All frames, in the order in which they came. */
  readonly frames = new Events<Received>();
  readonly #notifications = new Events<Received>();
  readonly #reading: Promise<void>;
  #taken = 0;
  #lastId = 0;

  constructor(raw: RawClient) {
    this.raw = raw;
    this.#reading = this.#read();
  }

  /** Asks, and gives the whole answer. */
  async ask(method: string, params?: unknown): Promise<Received> {
    const id = ++this.#lastId;
    this.raw.send(call(id, method, params));
    for (let seen = 0; ; seen++) {
      const frame = (await this.frames.until(seen + 1))[seen]!;
      if (frame.id === id && frame.method === undefined) return frame;
    }
  }

  /** Asks, and gives the result; throws for an error. */
  async result<T = Page>(method: string, params?: unknown): Promise<T> {
    const { result, error } = await this.ask(method, params);
    if (error) throw new Error(`${method}: ${error.code} ${error.message}`);
    return result as T;
  }

  /** The next notification; of one method, if it says so. */
  async told(method?: string): Promise<Received> {
    for (;;) {
      const all = await this.#notifications.until(++this.#taken);
      const next = all[this.#taken - 1]!;
      if (method === undefined || next.method === method) return next;
    }
  }

  /** Notifications that nobody has taken. */
  get untaken(): Received[] {
    return this.#notifications.all.slice(this.#taken);
  }

  /** Leaves as a client does that is no more. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.raw[Symbol.asyncDispose]();
    await this.#reading;
  }

  async #read(): Promise<void> {
    try {
      for (;;) {
        const frame = JSON.parse(await this.raw.text()) as Received;
        this.frames.push(frame);
        if (frame.method !== undefined) this.#notifications.push(frame);
      }
    } catch {
      // The connection is over.
    }
  }
}

/** What `$/subscribe` and `$/history` answer. */
export interface Page {
  epoch?: string;
  offset?: number;
  recovered: boolean;
  messages: { offset: number; data: unknown }[];
  complete: boolean;
  members?: { key: string; info: unknown }[];
  count?: number;
}
