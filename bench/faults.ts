// What subscribers lose, get twice or get out of order while their networks and their server fail: harpia's client, and
// Socket.IO's with connection state recovery, each with its defaults, at the same moments hit by the same faults.

import { connect } from "harpia/client";
import { type FaultProxy, faultProxy } from "harpia/testing";
import { seeded } from "../test/support/random.js";
import { OTHER_CORE, type Server, startServer } from "./processes.js";
import type { Table } from "./report.js";
import { type Target, TARGETS } from "./targets.js";
import { contract } from "./topic.js";

const CLIENTS = 20;
const SEED = 20_261;
/** Between publications. */
const SPACE_MS = 10;
/** Of silence while all are connected, after which nothing more is expected. */
const QUIET_MS = 5_000;
/** Both clients may wait for 20 s before they try again, and one that is away has lost nothing yet. */
const MOST_WAIT_MS = 60_000;

/** What one subscriber saw. */
interface Seen {
  counts: Map<number, number>;
  newest: number;
  reordered: number;
  /** How often it was told that something is missing. */
  told: number;
  isConnected(): boolean;
}

/** One side of the comparison. */
interface Side {
  name: string;
  target: Target;
  /** @returns what ends it. */
  subscribe(port: number, seen: Seen, message: (text: string) => void): () => void;
  post(text: string): string;
}

interface Scenario {
  title: string;
  /** How long publications go on. */
  seconds: number;
  /** Milliseconds between faults of one client, about; each does one of these. */
  every: number;
  fault(proxy: FaultProxy, random: () => number): Promise<void> | void;
  /** Seconds after which the server is killed, and started anew. */
  killAfter?: number;
}

const SCENARIOS: Scenario[] = [
  {
    title: "connections cut, by FIN or RST, every 1.5 s",
    seconds: 12,
    every: 1_500,
    fault: (proxy, random) => proxy.cut({ reset: random() < 0.5 }),
  },
  {
    title: "cut at a random byte of what is sent",
    seconds: 12,
    every: 1_500,
    fault: (proxy, random) => proxy.cutAfter(Math.floor(random() * 2_000), "down"),
  },
  {
    title: "frozen for 1 s, then cut",
    seconds: 12,
    every: 2_500,
    async fault(proxy) {
      proxy.freeze();
      await Bun.sleep(1_000);
      proxy.cut();
      proxy.thaw();
    },
  },
  {
    title: "frozen for 1 s, then whole again",
    seconds: 12,
    every: 2_500,
    async fault(proxy) {
      proxy.freeze();
      await Bun.sleep(1_000);
      proxy.thaw();
    },
  },
  {
    title: "server killed and started anew, everything in memory",
    seconds: 12,
    every: Infinity,
    fault() {},
    killAfter: 6,
  },
];

const { harpia, "socket.io": socketio } = TARGETS.topic as Record<"harpia" | "socket.io", Target>;

/** The part of socket.io-client that is used. */
interface SocketIOClient {
  io(
    url: string,
    options: object,
  ): {
    readonly connected: boolean;
    readonly recovered: boolean;
    on(event: "connect", listener: () => void): void;
    on(event: "message", listener: (message: { text: string }) => void): void;
    disconnect(): void;
  };
}

export async function faults(quick: boolean): Promise<Table> {
  // Here, not above: it is there only once bench/ has been installed, and so are its types.
  const peer: string = "socket.io-client";
  const { io } = (await import(peer)) as SocketIOClient;
  const sides: Side[] = [
    {
      name: "harpia",
      target: harpia,
      subscribe(port, seen, message) {
        const client = connect(contract, { url: `ws://127.0.0.1:${port}` });
        const room = client.subscribe("room");
        room.on("message", ({ data }) => message(data.text));
        seen.isConnected = () => client.state === "open";
        room.on("reset", () => void seen.told++);
        return () => client.close();
      },
      post: (text) => JSON.stringify({ jsonrpc: "2.0", method: "post", params: { from: "someone", text } }),
    },
    {
      name: "socket.io",
      target: socketio,
      subscribe(port, seen, message) {
        const socket = io(`ws://127.0.0.1:${port}`, { transports: ["websocket"], forceNew: true });
        let before = false;
        seen.isConnected = () => socket.connected;
        socket.on("connect", () => {
          if (before && !socket.recovered) seen.told++;
          before = true;
        });
        socket.on("message", ({ text }: { text: string }) => message(text));
        return () => socket.disconnect();
      },
      post: (text) => `42${JSON.stringify(["post", { from: "someone", text }])}`,
    },
  ];
  const rows: string[][] = [];
  for (const scenario of SCENARIOS) {
    const some = quick
      ? { ...scenario, seconds: scenario.seconds / 4, killAfter: scenario.killAfter && 1 }
      : scenario;
    rows.push(...(await Promise.all(sides.map((side) => run(side, some)))));
  }
  return {
    title: "Under faults",
    notes:
      `${CLIENTS} subscribers, each behind a proxy of its own; 100 publications a second. Both sides at once, with the same ` +
      `seed (${SEED}). Of what each subscriber should have got: how many never came, came again, or came after a later one; and how ` +
      "often a subscriber was told that it has not everything (harpia: `reset`; Socket.IO: `recovered` is false). It ends when all have everything, or are connected and hear no more.",
    head: ["", "", "due", "lost", "doubled", "out of order", "told", "away at the end"],
    rows,
  };
}

async function run({ name, target, subscribe, post }: Side, scenario: Scenario): Promise<string[]> {
  let server = await startServer(target, OTHER_CORE);
  const proxies: FaultProxy[] = [];
  const all: Seen[] = [];
  const ends: (() => void)[] = [];
  let lastAt = performance.now();
  for (let client = 0; client < CLIENTS; client++) {
    const proxy = faultProxy({ port: server.port });
    const seen: Seen = { counts: new Map(), newest: 0, reordered: 0, told: 0, isConnected: () => false };
    proxies.push(proxy);
    all.push(seen);
    const end = subscribe(proxy.port, seen, (text) => {
      lastAt = performance.now();
      note(seen, Number(text));
    });
    ends.push(end);
  }
  try {
    let publish = await publisher(target, server, post);
    // Number 0 again and again, until all are there.
    while (!all.every(({ counts }) => counts.has(0))) {
      publish("0");
      await Bun.sleep(50);
    }
    const over = new AbortController();
    const faulty = proxies.map((proxy, client) => disturb(proxy, scenario, client, over.signal));
    const due = (scenario.seconds * 1_000) / SPACE_MS;
    for (let number = 1; number <= due; number++) {
      if (
        scenario.killAfter !== undefined &&
        number === Math.floor((scenario.killAfter * 1_000) / SPACE_MS)
      ) {
        await server.kill();
        server = await startServer(target, OTHER_CORE);
        for (const proxy of proxies) proxy.target = { port: server.port };
        publish = await publisher(target, server, post);
      }
      publish(`${number}`);
      await Bun.sleep(SPACE_MS);
    }
    over.abort();
    await Promise.all(faulty);
    const until = performance.now() + MOST_WAIT_MS;
    lastAt = performance.now();
    while (performance.now() < until && !all.every(({ counts }) => counts.size > due)) {
      if (!all.every((seen) => seen.isConnected())) lastAt = performance.now();
      if (performance.now() - lastAt > QUIET_MS) break;
      await Bun.sleep(50);
    }
    const sum = (of: (seen: Seen) => number): string =>
      all.reduce((total, seen) => total + of(seen), 0).toLocaleString("en");
    return [
      scenario.title,
      name,
      (due * CLIENTS).toLocaleString("en"),
      sum(({ counts }) => due + 1 - counts.size),
      sum(({ counts }) => [...counts.values()].reduce((more, count) => more + count - 1, 0)),
      sum(({ reordered }) => reordered),
      sum(({ told }) => told),
      sum((seen) => (seen.isConnected() ? 0 : 1)),
    ];
  } finally {
    for (const end of ends) end();
    for (const proxy of proxies) await proxy.close();
    await server.kill();
  }
}

function note(seen: Seen, number: number): void {
  const { counts, newest } = seen;
  // Those from before the faults.
  if (number === 0) return void counts.set(0, 1);
  if (number < newest && !counts.has(number)) seen.reordered++;
  counts.set(number, (counts.get(number) ?? 0) + 1);
  seen.newest = Math.max(newest, number);
}

/** The moments and kinds of a client's faults are the same on both sides. */
async function disturb(
  proxy: FaultProxy,
  { every, fault }: Scenario,
  client: number,
  over: AbortSignal,
): Promise<void> {
  if (every === Infinity) return;
  const random = seeded(SEED + client);
  while (!over.aborted) {
    await Bun.sleep(every * (0.5 + random()));
    if (!over.aborted) await fault(proxy, random);
  }
}

/** Its own connection, that nothing happens to. */
async function publisher(
  { wire }: Target,
  { port }: Server,
  post: Side["post"],
): Promise<(text: string) => void> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${wire!.path}`);
  await new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      const text = String(data);
      if (text === "2") socket.send("3");
      if (text.startsWith("0{")) socket.send("40");
      if (text.startsWith("40")) resolve(undefined);
    };
    if (!wire!.socketio) socket.onopen = resolve;
  });
  return (text) => socket.send(post(text));
}
