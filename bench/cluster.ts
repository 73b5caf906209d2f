// What it costs that several processes share their topics through Redis: how long a publication takes to a client of
// another node, and what each one costs the nodes and Redis. Everything shares two cores, so processes compete.

import { cpuOf, MEASURED_CORE, OTHER_CORE, type Server, spawn, startServer } from "./processes.js";
import { startRedis } from "./redis-server.js";
import type { Table } from "./report.js";
import { type Target, TARGETS } from "./targets.js";

const SUBSCRIBERS = 200;
const CORES = `${MEASURED_CORE},${OTHER_CORE}`;

interface Setup {
  name: string;
  nodes: number;
  target: Target;
  /** Commands that nodes send to Redis with each publication. Those inside a script are no round trip. */
  commands: string[];
}

const { harpia, "socket.io": socketio } = TARGETS.topic as Record<"harpia" | "socket.io", Target>;
const EVALUATIONS = ["eval", "evalsha"];
const SETUPS: Setup[] = [
  { name: "harpia", nodes: 1, target: harpia, commands: EVALUATIONS },
  { name: "harpia", nodes: 2, target: harpia, commands: EVALUATIONS },
  { name: "harpia", nodes: 4, target: harpia, commands: EVALUATIONS },
  {
    name: "socket.io, redis-adapter (nothing kept)",
    nodes: 2,
    target: { ...socketio, env: { ADAPTER: "pubsub" } },
    commands: ["publish"],
  },
  {
    name: "socket.io, redis-streams-adapter",
    nodes: 2,
    target: { ...socketio, env: { ADAPTER: "streams" } },
    commands: ["xadd", "xread"],
  },
];

export async function cluster(quick: boolean): Promise<Table> {
  const rows: string[][] = [];
  for (const setup of SETUPS)
    rows.push([setup.name, `${setup.nodes}`, ...(await measure(setup, quick ? 0.5 : 5))]);
  return {
    title: `Several nodes over Redis, ${SUBSCRIBERS} subscribers`,
    notes:
      "Nodes, Redis and the load share two cores. The latency is from the publishing client of one node to the subscribers " +
      "of the others, 200 publications a second; the rest with 16 publications under way. Each subscriber is held to the order.",
    head: [
      "",
      "nodes",
      "latency p50, ms",
      "p99, ms",
      "publications/s",
      "CPU of nodes, µs a delivery",
      "CPU of Redis, µs a publication",
      "Redis commands a publication",
    ],
    rows,
  };
}

async function measure({ nodes, target, commands }: Setup, seconds: number): Promise<string[]> {
  const redis = await startRedis(CORES);
  const servers: Server[] = [];
  try {
    for (let node = 0; node < nodes; node++)
      servers.push(await startServer(target, CORES, { REDIS_URL: redis.url }));
    const load = spawn("loads/fanout.ts", CORES, [process.execPath, "loads/fanout.ts"], {
      PORTS: servers.map(({ port }) => port).join(","),
      PROTOCOL: target.wire?.socketio ? "socketio" : "harpia",
      SECONDS: `${seconds}`,
      SUBSCRIBERS: `${SUBSCRIBERS}`,
    });
    await load.line();
    load.go();
    const { p50, p99 } = JSON.parse(await load.line()) as { p50: number; p99: number };
    const used = (): number => servers.reduce((sum, server) => sum + cpuOf(server), 0);
    const before = [used(), cpuOf(redis), await redis.calls(...commands)];
    load.go();
    const { count, seconds: took } = JSON.parse(await load.line()) as { count: number; seconds: number };
    const [ofNodes, ofRedis, calls] = [used(), cpuOf(redis), await redis.calls(...commands)].map(
      (now, index) => now - before[index]!,
    );
    await load.ended();
    return [
      p50.toFixed(2),
      p99.toFixed(2),
      Math.round(count / took).toLocaleString("en"),
      ((ofNodes! * 1e6) / count / SUBSCRIBERS).toFixed(2),
      ((ofRedis! * 1e6) / count).toFixed(0),
      (calls! / count).toFixed(2),
    ];
  } finally {
    for (const server of servers) await server.kill();
    await redis.kill();
  }
}
