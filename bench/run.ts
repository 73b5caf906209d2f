// `npm run bench`: measures harpia and its peers against raw Bun.serve, in interleaved rounds, server on one core and
// load generator on another. What is compared is work per second of the server's CPU. See bench/README.md.
//
//   npm run bench                        everything, 11 rounds
//   npm run bench -- --quick             3 short rounds, to see that it works; no number to quote
//   npm run bench -- --only echo-64-16   one workload (or several, with commas)
//   npm run bench -- --targets harpia    raw and harpia only (or others, with commas)
//   npm run bench -- --record            also writes results.json and RESULTS.md

import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { interval, median, type Measured, type Results, type Workload, writeResults } from "./report.js";

const HERE = import.meta.dir;
const SERVER_CORE = "0";
const LOAD_CORE = "1";

const { values: flags } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    only: { type: "string" },
    targets: { type: "string" },
    record: { type: "boolean", default: false },
    rounds: { type: "string" },
  },
});
const rounds = Number(flags.rounds ?? (flags.quick ? 3 : 11));
const seconds = flags.quick ? 0.3 : 1;

const SERVERS: Record<string, { command: string[]; from: "bun" | "node" }> = {
  raw: { command: [process.execPath, "servers/raw.ts"], from: "bun" },
  harpia: { command: [process.execPath, "servers/harpia.ts"], from: "bun" },
  crossws: { command: [process.execPath, "servers/crossws.mjs"], from: "bun" },
  elysia: { command: [process.execPath, "servers/elysia.mjs"], from: "bun" },
  hono: { command: [process.execPath, "servers/hono.mjs"], from: "bun" },
  ws: { command: ["node", "--expose-gc", "servers/ws.mjs"], from: "node" },
  "socket.io": { command: ["node", "--expose-gc", "servers/socketio.mjs"], from: "node" },
};

const WORKLOADS: Workload[] = [
  {
    name: "echo-64-1",
    title: "echo, 64 B, 100 connections, 1 in flight",
    mode: "echo",
    connections: 100,
    args: ["64", "1"],
    bar: 0.97,
  },
  {
    name: "echo-64-16",
    title: "echo, 64 B, 100 connections, 16 in flight",
    mode: "echo",
    connections: 100,
    args: ["64", "16"],
    bar: 0.97,
  },
  {
    name: "echo-16k",
    title: "echo, 16 KiB, 100 connections, 1 in flight",
    mode: "echo",
    connections: 100,
    args: ["16384", "1"],
  },
  {
    name: "broadcast",
    title: "broadcast, 64 B, to 1,000 connections (deliveries)",
    mode: "broadcast",
    connections: 1_000,
    args: ["64"],
    bar: 0.98,
  },
  {
    name: "handshake-1",
    title: "handshakes, 1 route",
    mode: "handshake",
    connections: 64,
    args: ["1"],
    bar: 0.9,
  },
  {
    name: "handshake-1000",
    title: "handshakes, 1,000 routes",
    mode: "handshake",
    connections: 64,
    args: ["1000"],
    targets: ["raw", "harpia"],
    bar: 0.9,
  },
  {
    name: "idle",
    title: "an idle connection, of 10,000 (bytes, lower is better)",
    mode: "idle",
    connections: 10_000,
    args: [],
  },
];

interface Server {
  port: number;
  pid: number;
  kill(): Promise<void>;
}

const workloads = WORKLOADS.filter(({ name }) => flags.only?.split(",").includes(name) ?? true);
const targets = [
  "raw",
  ...(flags.targets?.split(",") ?? Object.keys(SERVERS)).filter((name) => name !== "raw"),
];
prepare();

const results: Results = {
  command: `npm run bench${process.argv.slice(2).length > 0 ? ` -- ${process.argv.slice(2).join(" ")}` : ""}`,
  date: new Date().toISOString().slice(0, 10),
  cpu: cpus()[0]!.model,
  versions: versions(),
  rounds,
  seconds,
  workloads: [],
};
for (const workload of workloads) {
  const names = targets.filter((name) => workload.targets?.includes(name) ?? true);
  console.log(`\n${workload.title}`);
  const measured = workload.mode === "idle" ? await idle(workload, names) : await busy(workload, names);
  results.workloads.push({ workload, measured });
  for (const [name, { values, ratios, serverBusy, loadBusy }] of Object.entries(measured)) {
    const [low, high] = interval(ratios);
    const busyness =
      workload.mode === "idle" ? "" : `   server ${percent(serverBusy)} busy, load ${percent(loadBusy)}`;
    const middle = Math.round(median(values)).toLocaleString("en");
    console.log(
      `  ${name.padEnd(10)} ${middle.padStart(10)}   ${median(ratios).toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]${busyness}`,
    );
  }
}
if (!writeResults(results, flags.record)) process.exitCode = 1;

/** Work per second of the server's CPU. All servers stay up, and take turns. */
async function busy(workload: Workload, names: string[]): Promise<Record<string, Measured>> {
  const routes = workload.mode === "handshake" ? workload.args[0]! : "1";
  const servers = new Map<string, Server>();
  const measured: Record<string, Measured> = {};
  for (const name of names) {
    servers.set(name, await start(name, { MODE: workload.mode, ROUTES: routes }));
    measured[name] = { values: [], ratios: [], serverBusy: 0, loadBusy: 0 };
  }
  // Round −1 warms up the compilers.
  for (let round = -1; round < rounds; round++) {
    // Each round begins with another one, so that no server always follows the same neighbour.
    const order = names.map((_, index) => names[(index + round + names.length) % names.length]!);
    const now: Record<string, number> = {};
    for (const name of order) {
      const { port, pid } = servers.get(name)!;
      const load = spawnLoad(name, workload, port);
      await load.line();
      const before = cpuOf(pid);
      load.go();
      const {
        count,
        seconds: took,
        cpu,
      } = JSON.parse(await load.line()) as { count: number; seconds: number; cpu: number };
      const used = cpuOf(pid) - before;
      await load.ended();
      now[name] = count / used;
      if (round < 0) continue;
      measured[name]!.serverBusy += used / took / rounds;
      measured[name]!.loadBusy += cpu / took / rounds;
    }
    if (round < 0) continue;
    for (const name of names) {
      measured[name]!.values.push(now[name]!);
      measured[name]!.ratios.push(now[name]! / now.raw!);
    }
  }
  for (const server of servers.values()) await server.kill();
  return measured;
}

/**
 * Resident bytes that a connection adds: a fresh server each time, collected before and after. Without optimising
 * compilers, whose code is the server's and no connection's.
 */
async function idle(workload: Workload, names: string[]): Promise<Record<string, Measured>> {
  const measured: Record<string, Measured> = {};
  for (const name of names) measured[name] = { values: [], ratios: [], serverBusy: 0, loadBusy: 0 };
  for (let round = 0; round < rounds; round++) {
    const now: Record<string, number> = {};
    for (const name of names) {
      const server = await start(name, { MODE: "idle", BUN_JSC_useDFGJIT: "0" });
      await collect(server);
      const before = residentOf(server.pid);
      const load = spawnLoad(name, workload, server.port);
      await load.line();
      await collect(server);
      now[name] = (residentOf(server.pid) - before) / workload.connections;
      load.go();
      await load.ended();
      await server.kill();
    }
    for (const name of names) {
      measured[name]!.values.push(now[name]!);
      measured[name]!.ratios.push(now[name]! / now.raw!);
    }
  }
  return measured;
}

async function start(name: string, env: Record<string, string>): Promise<Server> {
  const { command, from } = SERVERS[name]!;
  const [program, ...args] = command;
  const flags = from === "node" && env.MODE === "idle" ? ["--no-opt"] : [];
  const child = Bun.spawn(["taskset", "-c", SERVER_CORE, program!, ...flags, ...args], {
    cwd: HERE,
    env: { ...process.env, NODE_ENV: "production", ...env },
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  const port = Number(value?.trim());
  if (!port) throw new Error(`the server ${name} did not start`);
  return {
    port,
    pid: child.pid,
    async kill() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

function spawnLoad(name: string, { mode, connections, args }: Workload, port: number) {
  const socketio = name === "socket.io";
  const path = socketio
    ? "/socket.io/?EIO=4&transport=websocket&r="
    : mode === "handshake"
      ? "/r"
      : `/${mode}`;
  const child = Bun.spawn(
    [
      "taskset",
      "-c",
      LOAD_CORE,
      "bin/load",
      ...(socketio ? ["socketio"] : []),
      mode,
      `${port}`,
      path,
      `${connections}`,
      `${seconds}`,
      ...args,
    ],
    { cwd: HERE, stdin: "pipe", stdout: "pipe", stderr: "inherit" },
  );
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  return {
    async line(): Promise<string> {
      const { value } = await reader.read();
      if (value === undefined) throw new Error(`the load on ${name} failed`);
      return value;
    },
    go(): void {
      child.stdin.write("\n");
      void child.stdin.flush();
    },
    async ended(): Promise<void> {
      await child.exited;
    },
  };
}

/** Seconds that all threads of a process have run, to the nanosecond. */
function cpuOf(pid: number): number {
  let total = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    total += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
  }
  return total / 1e9;
}

function residentOf(pid: number): number {
  return Number(/^Rss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))![1]) * 1024;
}

async function collect({ port }: Server): Promise<void> {
  for (let time = 0; time < 3; time++) {
    await (await fetch(`http://127.0.0.1:${port}/gc`)).text();
    // Allocators give pages back after a while, not at once.
    await Bun.sleep(400);
  }
}

function prepare(): void {
  if (
    targets.some((name) => !["raw", "harpia"].includes(name)) &&
    readdirSync(HERE).includes("node_modules") === false
  ) {
    run(["npm", "ci", "--no-audit", "--no-fund"]);
  }
  run(["mkdir", "-p", "bin"]);
  run(["cc", "-O2", "-o", "bin/load", "load.c"]);
}

function run(command: string[]): void {
  const { exitCode } = Bun.spawnSync(command, { cwd: HERE, stdout: "inherit", stderr: "inherit" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")} failed`);
}

function versions(): Record<string, string> {
  const found: Record<string, string> = { bun: Bun.version };
  found.node = Bun.spawnSync(["node", "--version"]).stdout.toString().trim().slice(1);
  for (const name of targets) {
    if (name === "raw" || name === "harpia") continue;
    found[name] = (
      JSON.parse(readFileSync(join(HERE, "node_modules", name, "package.json"), "utf8")) as {
        version: string;
      }
    ).version;
  }
  found.kernel = Bun.spawnSync(["uname", "-r"]).stdout.toString().split(/[-+]/)[0]!.trim();
  return found;
}

function percent(part: number): string {
  return `${Math.round(part * 100)} %`;
}
