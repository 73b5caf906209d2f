// What topics keep in memory: the resident bytes that a server of harpia's grows by, for each idle subscription, each
// topic and each stored message.

import { MEASURED_CORE, residentOf, type Server, startServer } from "./processes.js";
import type { Table } from "./report.js";
import { TARGETS } from "./targets.js";
import { contract, MESSAGE } from "./topic.js";

const SUBSCRIBERS = 5_000;
const CONNECTIONS = 100;
const TOPICS = 100_000;
const MESSAGES = 100_000;
const IN_FLIGHT = 100;

export async function memory(): Promise<Table> {
  const payload = Buffer.byteLength(JSON.stringify(MESSAGE));
  const rows = [
    [
      `an idle subscription, of ${format(SUBSCRIBERS)} connections to one topic`,
      format(await oneTopic()),
      format(SUBSCRIBERS),
    ],
    ["a topic with history and one idle subscription", format(await manyTopics()), format(TOPICS)],
    [`a stored message of ${payload} B, in topics of 1,000`, format(await messages()), format(MESSAGES)],
  ];
  return {
    title: "Memory of topics, broker in memory",
    notes:
      "Resident bytes that a fresh server grows by, collected before and after, without optimising compilers.",
    head: ["", "bytes each", "of"],
    rows,
  };
}

/** Many connections, all subscribed to one topic. The connections themselves are there before. */
async function oneTopic(): Promise<number> {
  return await growth(async (server, measure) => {
    const sockets = await open(server, SUBSCRIBERS);
    const before = await measure();
    await each(sockets, (socket) => subscribe(socket, "room"));
    return [(await measure()) - before, SUBSCRIBERS];
  });
}

/** As many subscriptions as a connection may have, each to a topic of its own. */
async function manyTopics(): Promise<number> {
  return await growth(async (server, measure) => {
    const sockets = await open(server, CONNECTIONS);
    const before = await measure();
    await Promise.all(
      sockets.map(async (socket, index) => {
        for (let topic = 0; topic < TOPICS / CONNECTIONS; topic++)
          await subscribe(socket, `own/${index}-${topic}`);
      }),
    );
    return [(await measure()) - before, TOPICS];
  });
}

async function messages(): Promise<number> {
  return await growth(async ({ port }, measure) => {
    // Each topic's first message makes the topic.
    await fetch(`http://127.0.0.1:${port}/spread/1/${MESSAGES / 1_000}`);
    const before = await measure();
    await fetch(`http://127.0.0.1:${port}/spread/999/${MESSAGES / 1_000}`);
    return [(await measure()) - before, MESSAGES * 0.999];
  });
}

type Steps = (server: Server, measure: () => Promise<number>) => Promise<[bytes: number, count: number]>;

/** Bytes for each, on a server of its own. */
async function growth(steps: Steps): Promise<number> {
  const server = await startServer(TARGETS.topic.harpia!, MEASURED_CORE, { MODE: "idle" });
  try {
    const [bytes, count] = await steps(server, async () => {
      for (let time = 0; time < 3; time++) {
        await fetch(`http://127.0.0.1:${server.port}/gc`);
        // Allocators give pages back after a while, not at once.
        await Bun.sleep(400);
      }
      return residentOf(server);
    });
    return Math.round(bytes / count);
  } finally {
    await server.kill();
  }
}

async function open({ port }: Server, count: number): Promise<WebSocket[]> {
  const sockets: WebSocket[] = [];
  for (let start = 0; start < count; start += IN_FLIGHT) {
    const some = Array.from(
      { length: Math.min(IN_FLIGHT, count - start) },
      () => new WebSocket(`ws://127.0.0.1:${port}${contract.path}`),
    );
    await Promise.all(some.map((socket) => new Promise((resolve) => (socket.onopen = resolve))));
    sockets.push(...some);
  }
  return sockets;
}

async function each(sockets: WebSocket[], act: (socket: WebSocket) => Promise<void>): Promise<void> {
  for (let start = 0; start < sockets.length; start += IN_FLIGHT)
    await Promise.all(sockets.slice(start, start + IN_FLIGHT).map(act));
}

function subscribe(socket: WebSocket, topic: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) =>
      String(data).includes('"result"') ? resolve() : reject(new Error(`not subscribed: ${data}`));
    socket.send(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "$/subscribe", params: { topic } }));
  });
}

function format(value: number): string {
  return value.toLocaleString("en");
}
