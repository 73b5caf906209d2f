// What topics cost in memory, and at rest in CPU. The clients are another process, so that what is counted is the
// server's: its resident memory, after a full collection, as a difference.

import { heapStats } from "bun:jsc";
import { harpia } from "harpia";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import type { Table } from "./report.js";

const CONNECTIONS = 100;
const TOPICS_EACH = 1_000;
const SUBSCRIPTIONS = CONNECTIONS * TOPICS_EACH;
const MESSAGES = 100_000;
const TTL_S = 10;
/** More than the broker's sweep takes to come around. */
const SWEPT_MS = 22_000;
const REST_MS = 20_000;

const contract = defineChannel({
  path: "/topics",
  topics: {
    "room/:room": { message: z.string(), history: { size: 1_000_000, ttl: TTL_S } },
    "lobby/:room": {
      message: z.string(),
      history: { size: 100, ttl: TTL_S },
      presence: z.object({ name: z.string() }),
    },
    "plain/:room": { message: z.string() },
  },
});

/** What is measured: each in a server of its own, for memory that one has given back another would use again. */
const SCENARIOS: Record<string, (server: Server) => Promise<string>> = {
  "a topic with history and one subscriber": ({ order }) => perItem(SUBSCRIPTIONS, () => order("own room")),
  "a topic without history, with one subscriber": ({ order }) =>
    perItem(SUBSCRIPTIONS, () => order("own plain")),
  "a topic with history and presence, and one subscriber, its member": ({ order }) =>
    perItem(SUBSCRIPTIONS, () => order("own lobby")),
  "a subscription to a topic that is there": async ({ order }) => {
    await order("same room 0");
    return await perItem(SUBSCRIPTIONS - TOPICS_EACH, () => order("same room 1"));
  },
  "100,000 topics with one subscriber each, nothing published: CPU": async ({ order }) => {
    await order("own room");
    await resident();
    const before = process.cpuUsage();
    await Bun.sleep(REST_MS);
    const { user, system } = process.cpuUsage(before);
    return `${((user + system) / REST_MS / 10).toFixed(2)} % of a core`;
  },
  "a stored message of 100 bytes": async ({ live }) => perItem(MESSAGES, () => fill(live)),
  "of a log of 100,000 messages, freed after its ttl": async ({ live }) => {
    const empty = await resident();
    await fill(live);
    const full = await resident();
    await Bun.sleep(SWEPT_MS);
    const { messages } = await live.topic("room/:room", { room: "log" }).history({ last: 10 });
    const freed = full.heap - (await resident()).heap;
    return `${Math.round((freed / (full.heap - empty.heap)) * 100)} % of the heap it took (${messages.length} left)`;
  },
};

export function memory(): Table {
  const rows = Object.keys(SCENARIOS).map((name) => {
    const run = Bun.spawnSync([process.execPath, import.meta.path, "server", name], { stderr: "inherit" });
    if (run.exitCode !== 0) throw new Error(`${name}: the server failed`);
    return [name, run.stdout.toString().trim()];
  });
  return {
    title: "Topics at rest, broker in memory",
    notes: "What a server grows by, each row in one of its own, after full collections.",
    head: ["", "each"],
    rows,
  };
}

if (import.meta.main) {
  const [, , role, argument = ""] = process.argv;
  if (role === "clients") await clients(argument);
  else console.log(await serve(SCENARIOS[argument]!));
}

type Live = Awaited<ReturnType<typeof start>>["live"];

interface Server {
  live: Live;
  /** Has the clients do something, and waits until they have. */
  order(what: string): Promise<void>;
}

async function start() {
  const app = harpia({ logger: false });
  const live = app.channel(contract).implement({
    topics: {
      "room/:room": { subscribe: "public" },
      "lobby/:room": { subscribe: "public", presence: () => ({ name: "Ada" }) },
      "plain/:room": { subscribe: "public" },
    },
  });
  const { url } = app.listen({ port: 0, hostname: "127.0.0.1" });
  return { app, live, url };
}

async function serve(scenario: (server: Server) => Promise<string>): Promise<string> {
  const { app, live, url } = await start();
  const child = Bun.spawn([process.execPath, import.meta.path, "clients", url.href], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const order = async (what: string): Promise<void> => {
    child.stdin.write(`${what}\n`);
    await child.stdin.flush();
    await lines.read();
  };
  await order("connect");
  // Compilers and allocators are warm when it counts.
  await order("same plain warm");
  for (let n = 0; n < 20_000; n++) await live.topic("lobby/:room", { room: "warm" }).publish("x".repeat(98));
  const told = await scenario({ live, order });
  child.kill();
  await app.stop({ timeout: 1_000 });
  return told;
}

async function fill(live: Live): Promise<void> {
  const topic = live.topic("room/:room", { room: "log" });
  for (let n = 0; n < MESSAGES; n++) await topic.publish(`${n}`.padEnd(98, "x")); // 100 bytes of JSON
}

async function perItem(count: number, act: () => Promise<unknown>): Promise<string> {
  const before = await resident();
  await act();
  const after = await resident();
  const each = (what: "heap" | "rss"): number => Math.round((after[what] - before[what]) / count);
  return `${each("rss")} bytes resident, ${each("heap")} of them in the heap`;
}

/** Bytes of this process, when the collector has done what it can. */
async function resident(): Promise<{ rss: number; heap: number }> {
  for (let round = 0; round < 5; round++) {
    Bun.gc(true);
    await Bun.sleep(100);
  }
  const { heapSize, extraMemorySize } = heapStats();
  return { rss: process.memoryUsage.rss(), heap: heapSize + extraMemorySize };
}

async function clients(url: string): Promise<void> {
  const sockets: WebSocket[] = [];
  const decoder = new TextDecoder();
  for await (const chunk of Bun.stdin.stream()) {
    const [what, kind, from = "0"] = decoder.decode(chunk).trim().split(" ");
    if (what === "connect") {
      while (sockets.length < CONNECTIONS) sockets.push(await connect(url));
    } else {
      // "own": other topics for each connection; "same": the same ones for all, by the first or by all but the first.
      const some = what === "own" ? sockets : from === "1" ? sockets.slice(1) : sockets.slice(0, 1);
      await Promise.all(
        some.map(async (socket, index) => {
          const prefix = what === "own" ? `${index}-` : "";
          const names = Array.from({ length: TOPICS_EACH }, (_, n) => `${kind}/${prefix}${n}`);
          await ask(socket, "$/subscribe", names);
          if (from === "warm") await ask(socket, "$/unsubscribe", names);
        }),
      );
    }
    process.stdout.write("done\n");
  }
}

function connect(url: string): Promise<WebSocket> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.replace("http", "ws")}topics`, "harpia.v1");
    socket.onopen = () => resolve(socket);
    socket.onerror = reject;
  });
}

/** Asks about each topic, a few at a time, and waits for all answers. */
async function ask(socket: WebSocket, method: string, topics: string[]): Promise<void> {
  for (let start = 0; start < topics.length; start += 100) {
    const some = topics.slice(start, start + 100);
    let left = some.length;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(String(data)) as { id?: number; error?: unknown };
      if (frame.error) reject(new Error(String(data)));
      if (frame.id !== undefined && --left === 0) resolve();
    };
    for (const [id, topic] of some.entries())
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params: { topic } }));
    await promise;
  }
}
