// Processes that share a Redis keep every promise of one process. Three apps, each with a broker of its own, on one real
// redis-server; what needs processes that die is in processes.test.ts.

import { expect, test } from "bun:test";
import { type BrokerError, type Harpia, harpia, type Live } from "harpia";
import { type Client, connect, type Message } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { redis } from "harpia/redis";
import { z } from "zod";
import { listen, until } from "../support/app.js";
import { testWith } from "../support/programs.js";
import { type RedisServer, startRedis } from "../support/redis.js";

const chat = defineChannel({
  path: "/chat",
  methods: {
    say: {
      params: z.object({ text: z.string() }),
      result: z.object({ epoch: z.string(), offset: z.number() }),
    },
  },
  events: { notice: { params: z.object({ text: z.string() }) } },
  topics: {
    room: {
      message: z.string(),
      history: { size: 10_000, ttl: 3600 },
      presence: z.object({ name: z.string() }),
    },
    plain: { message: z.string() },
  },
});

interface Node {
  app: Harpia;
  live: Live<typeof chat, never>;
  port: number;
  client(name: string): Client<typeof chat>;
}

interface Cluster extends AsyncDisposable {
  server: RedisServer;
  nodes: [Node, Node, Node];
}

async function cluster(): Promise<Cluster> {
  const server = await startRedis();
  const clients: Client<typeof chat>[] = [];
  const nodes = [0, 1, 2].map(() => {
    const app = harpia({ logger: false, broker: redis({ url: server.url, timeout: 1_000 }) });
    app.ws("/plain/:name", {
      open: (ws) => void ws.subscribe("news"),
      message: (ws, message) => void ws.publish("news", message),
    });
    const live = app.channel(chat, { upgrade: (_request, { token }) => ({ name: token ?? "" }) }).implement({
      methods: { say: ({ text }) => live.topic("room").publish(text) },
      topics: {
        room: {
          subscribe: "public",
          presence: {
            key: (_params, { ws }) => ws.data.name,
            info: (_params, { ws }) => ({ name: ws.data.name }),
          },
        },
        plain: { subscribe: "public" },
      },
    });
    const port = listen(app);
    return {
      app,
      live: live as unknown as Node["live"], // its sockets' data is nobody's business here
      port,
      client(name: string) {
        const client = connect(chat, { url: `ws://127.0.0.1:${port}`, token: name });
        clients.push(client);
        return client;
      },
    };
  });
  return {
    server,
    nodes: nodes as [Node, Node, Node],
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.close();
      await Promise.all(nodes.map(({ app }) => app.stop({ timeout: 1_000 })));
      await server[Symbol.asyncDispose]();
    },
  };
}

/** A plain socket, and what it has heard. */
async function plain({ port }: Node, name: string): Promise<{ socket: WebSocket; heard: unknown[] }> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/plain/${name}`);
  socket.binaryType = "arraybuffer";
  const heard: unknown[] = [];
  socket.onmessage = ({ data }) =>
    heard.push(data instanceof ArrayBuffer ? new Uint8Array(data) : (data as unknown));
  await new Promise((resolve) => (socket.onopen = resolve));
  return { socket, heard };
}

/** A subscription that is live, and what it has handed over. */
async function reader(client: Client<typeof chat>, options = {}) {
  const subscription = client.subscribe("room", {}, options);
  const seen: Message<string>[] = [];
  subscription.on("message", (message) => seen.push(message));
  await until(() => subscription.state === "live", "the subscription");
  return { subscription, seen };
}

const withRedis = testWith("redis-server");

withRedis("plain publications reach every process, each once; local ones only their own", async () => {
  await using started = await cluster();
  const [a, b, c] = started.nodes;
  const sockets = await Promise.all([plain(a, "a"), plain(b, "b"), plain(c, "c")]);
  const all = async (text: string): Promise<void> =>
    await until(() => sockets.every(({ heard }) => heard.includes(text)), text);
  // From here on every process hears the others.
  for (const node of started.nodes) {
    const text = `ready ${node.port}`;
    const again = setInterval(() => node.app.publish("news", text), 20);
    await all(text);
    clearInterval(again);
    // What one process publishes comes in order: after this nothing of it is on its way.
    node.app.publish("news", `settled ${node.port}`);
    await all(`settled ${node.port}`);
  }
  for (const { heard } of sockets) heard.length = 0;

  a.app.publish("news", "from a");
  b.app.publish("news", "only b", { local: true });
  c.app.publish("news", new Uint8Array([0, 255, 7]));
  a.app.publish("news", "last");
  await all("last");
  await until(() => sockets.every(({ heard }) => heard.some((each) => each instanceof Uint8Array)), "bytes");
  const told = (index: number): unknown[] =>
    sockets[index]!.heard.map((each) => (each instanceof Uint8Array ? [...each].join() : each)).sort();
  expect([told(0), told(1), told(2)]).toEqual([
    ["0,255,7", "from a", "last"],
    ["0,255,7", "from a", "last", "only b"],
    ["0,255,7", "from a", "last"],
  ]);

  for (const { heard } of sockets) heard.length = 0;
  sockets[1]!.socket.send("from a socket");
  await until(() => sockets[0]!.heard.length === 1 && sockets[2]!.heard.length === 1, "the others");
  expect(sockets[1]!.heard).toEqual([]);
});

withRedis("topics: one order for all, whoever publishes where, and a client goes on elsewhere", async () => {
  await using started = await cluster();
  const [a, b, c] = started.nodes;
  const readers = await Promise.all([a, b, c].map((node, index) => reader(node.client(`r${index}`))));
  const publishers = Array.from({ length: 8 }, (_, index) => started.nodes[index % 3]!.client(`p${index}`));
  const positions = await Promise.all(
    publishers.flatMap((client, who) =>
      Array.from({ length: 25 }, (_, index) => client.call("say", { text: `${who}.${index}` })),
    ),
  );
  expect(new Set(positions.map(({ offset }) => offset)).size).toBe(200);
  expect(new Set(positions.map(({ epoch }) => epoch)).size).toBe(1);
  await until(() => readers.every(({ seen }) => seen.length >= 200), "all publications");
  for (const { seen } of readers) {
    expect(seen.map(({ offset }) => offset)).toEqual(Array.from({ length: 200 }, (_, index) => index + 1));
    expect(seen.map(({ data }) => data)).toEqual(readers[0]!.seen.map(({ data }) => data));
  }
  // A position of one process is one of all.
  const { seen } = await reader(b.client("later"), { after: { epoch: positions[0]!.epoch, offset: 190 } });
  await until(() => seen.length === 10, "what came after");
  expect(seen.map(({ data }) => data)).toEqual(readers[0]!.seen.slice(190).map(({ data }) => data));
});

withRedis(
  "presence: a person on two processes is one member, and leaves with the last connection",
  async () => {
    await using started = await cluster();
    const [a, b, c] = started.nodes;
    const watching = await reader(c.client("watcher"));
    const names = (): string[] => watching.subscription.presence.members.map(({ key }) => key).sort();
    const here = a.client("Ada");
    const there = b.client("Ada");
    await Promise.all([reader(here), reader(there)]);
    await until(() => names().join() === "Ada,watcher", "Ada");
    expect((await a.live.topic("room").members()).length).toBe(2);
    const changes: unknown[] = [];
    watching.subscription.presence.on("change", (members) => changes.push(members.length));
    here.close();
    await reader(b.client("Bob"));
    await until(() => names().join() === "Ada,Bob,watcher", "Bob");
    expect(changes).not.toContain(1);
    there.close();
    await until(() => names().join() === "Bob,watcher", "Ada's going");
  },
);

withRedis("broadcast, kick and disconnect reach every process", async () => {
  await using started = await cluster();
  const [a, b, c] = started.nodes;
  const ada = [a, b, c].map((node) => node.client("Ada"));
  const bob = b.client("Bob");
  const rooms = await Promise.all([...ada, bob].map((client) => reader(client)));
  const heard: string[] = [];
  for (const client of [...ada, bob]) client.on("notice", ({ text }) => heard.push(text));
  await until(() => {
    void a.live.broadcast("notice", { text: "hello" });
    return heard.length >= 4;
  }, "the broadcast");

  await a.live.kick({ key: "Ada" }, "room", {}, "Enough");
  await until(
    () => rooms.slice(0, 3).every(({ subscription }) => subscription.state === "ended"),
    "the kick",
  );
  expect(rooms.slice(0, 3).map(({ subscription }) => subscription.error?.message)).toEqual(
    Array(3).fill("Enough"),
  );
  expect(rooms[3]!.subscription.state).toBe("live");

  const socket = await plain(c, "c");
  const closed = new Promise<number>((resolve) => (socket.socket.onclose = ({ code }) => resolve(code)));
  await a.app.disconnect({ topic: "news" }, { code: 4001, reason: "moved" });
  expect(await closed).toBe(4001);
  await a.app.disconnect({ key: "Bob" });
  await until(() => bob.state === "closed", "Bob's end");
  expect(bob.closeCode).toBe(1008);
  expect(ada.map(({ state }) => state)).toEqual(["open", "open", "open"]);
});

withRedis(
  "Redis away: connections stay, publishing is refused in time, and all heals by itself",
  async () => {
    await using started = await cluster();
    const [a, b] = started.nodes;
    const { subscription, seen } = await reader(b.client("reader"));
    const client = a.client("writer");
    await client.call("say", { text: "before" });
    const socket = await plain(a, "a");
    const resets: unknown[] = [];
    subscription.on("reset", () => resets.push(subscription.position));

    await started.server.kill();
    const error = (await a.live
      .topic("room")
      .publish("during")
      .catch((error: unknown) => error)) as BrokerError;
    expect(error.code).toBe("BROKER_UNAVAILABLE");
    expect(
      await client.call("say", { text: "during" }).catch(({ reason }: { reason: string }) => reason),
    ).toBe("UNAVAILABLE");
    expect(a.app.health()).toMatchObject({ ok: false, broker: { name: "redis", ok: false } });
    expect(a.app.healthz().status).toBe(503);
    a.app.publish("news", "still here");
    await until(() => socket.heard.includes("still here"), "the local publication");
    expect([client.state, subscription.state]).toEqual(["open", "live"]);

    await started.server.start();
    await until(() => a.app.health().ok && b.app.health().ok, "Redis");
    await client.call("say", { text: "after" });
    await until(() => seen.at(-1)?.data === "after" || resets.length > 0, "the end");
    // It came back empty: a new epoch, which the reader is told of.
    expect(resets).toHaveLength(1);
    await client.call("say", { text: "and on" });
    await until(() => seen.at(-1)?.data === "and on", "what comes then");
  },
);

withRedis("an app that stops is not ready, leaves its topics, and the others go on", async () => {
  await using started = await cluster();
  const [a, b] = started.nodes;
  const watching = await reader(b.client("watcher"));
  await reader(a.client("Ada"));
  await until(() => watching.subscription.presence.count === 2, "Ada");
  const stopped = a.app.stop({ restart: true });
  expect(a.app.health()).toMatchObject({ ok: false, draining: true });
  await stopped;
  await until(() => watching.subscription.presence.count === 1, "Ada's going");
});

test("several processes on one port without a shared broker are warned of, once, with the remedy", async () => {
  const warnings: string[] = [];
  const logger = { warn: (message: string) => void warnings.push(message), error() {} };
  await using app = harpia({ logger });
  const implementation = {
    methods: { say: () => ({ epoch: "", offset: 0 }) },
    topics: {
      room: { subscribe: "public", presence: () => ({ name: "" }) },
      plain: { subscribe: "public" },
    },
  } as const;
  app.channel(chat).implement(implementation);
  app.listen({ hostname: "127.0.0.1", port: 0, reusePort: true });
  const other = defineChannel({ ...chat, path: "/other" });
  app.channel(other).implement(implementation);
  expect(warnings).toEqual([expect.stringContaining("redis({ url })")]);
});
