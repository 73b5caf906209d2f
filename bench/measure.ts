// One workload, measured: everybody takes turns, in interleaved rounds.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  cpuOf,
  MEASURED_CORE,
  OTHER_CORE,
  residentOf,
  type Running,
  type Server,
  startClient,
  startLoad,
  startPublisher,
  startScript,
  startServer,
} from "./processes.js";
import { startRedis } from "./redis-server.js";
import type { Measured } from "./report.js";
import { TARGETS, type Target } from "./targets.js";
import type { Workload } from "./workloads.js";

/**
 * Then all processes are started anew. Two of one program may differ by some percent for as long as they live, by where
 * their memory lies and what their compilers have made of the first calls: an interval has to have that in it.
 */
const ROUNDS_A_LIFE = 4;

interface Plan {
  workload: Workload;
  /** Of the workload's family; the others are compared to the first. */
  names: string[];
  rounds: number;
  seconds: number;
}

/** One who takes turns, ready to. */
interface Contestant {
  turn(): Promise<Turn>;
  kill(): Promise<void>;
}

interface Turn {
  /** Units of work. */
  count: number;
  /** By the clock. */
  seconds: number;
  /** CPU seconds of whom the numbers are about, and of its counterpart. */
  used: number;
  otherUsed: number;
}

export async function measure(plan: Plan): Promise<Record<string, Measured>> {
  return plan.workload.mode === "idle" ? await idle(plan) : await busy(plan);
}

/** Work per second of CPU. All processes are up at once, and take turns. */
async function busy({ workload, names, rounds, seconds }: Plan): Promise<Record<string, Measured>> {
  const measured = blank(names);
  const contestants = new Map<string, Contestant>();
  const killAll = async (): Promise<void> => {
    for (const contestant of contestants.values()) await contestant.kill();
    contestants.clear();
  };
  try {
    for (let round = 0; round < rounds; round++) {
      // Each round begins with another one, so that nobody always follows the same neighbour.
      const order = names.map((_, index) => names[(index + round) % names.length]!);
      if (round % ROUNDS_A_LIFE === 0) {
        await killAll();
        for (const name of order) {
          const target = TARGETS[workload.family][name]!;
          contestants.set(name, await preparations(workload)(workload, target, seconds));
        }
        // The first turn warms up the compilers.
        for (const contestant of contestants.values()) await contestant.turn();
      }
      const now: Record<string, number> = {};
      for (const name of order) {
        const turn = await contestants.get(name)!.turn();
        now[name] = turn.count / turn.used;
        measured[name]!.busy += turn.used / turn.seconds / rounds;
        measured[name]!.otherBusy += turn.otherUsed / turn.seconds / rounds;
      }
      note(measured, now);
    }
  } finally {
    await killAll();
  }
  return measured;
}

function preparations({ mode }: Workload): typeof serverContestant {
  switch (mode) {
    case "client":
      return clientContestant;
    case "publisher":
      return publisherContestant;
    case "subscribe":
    case "resume":
      return scriptContestant;
    default:
      return serverContestant;
  }
}

/** A server that is measured; each turn has a load generator and connections of its own. */
async function serverContestant(workload: Workload, target: Target, seconds: number): Promise<Contestant> {
  const { mode, args } = workload;
  const routes = mode === "handshake" ? args[0]! : "1";
  const server = await startServer(target, MEASURED_CORE, { MODE: mode, ROUTES: routes });
  return {
    async turn() {
      const load = startLoad(workload, target, server, seconds);
      await load.line();
      const before = cpuOf(server);
      load.go();
      const counted = JSON.parse(await load.line()) as { count: number; seconds: number; cpu: number };
      const used = cpuOf(server) - before;
      await load.ended();
      return { count: counted.count, seconds: counted.seconds, used, otherUsed: counted.cpu };
    },
    kill: () => server.kill(),
  };
}

/** A client that is measured, with a server of its own. */
async function clientContestant(workload: Workload, target: Target, seconds: number): Promise<Contestant> {
  const server = await startServer(TARGETS.channel.raw!, OTHER_CORE);
  const client = startClient(target, server, seconds, workload.args[0]!);
  return await inTurns(client, client, server);
}

/** A server that is measured, with one load for all turns. */
async function scriptContestant(workload: Workload, target: Target, seconds: number): Promise<Contestant> {
  const { mode, connections } = workload;
  const server = await startServer(target, MEASURED_CORE, { MODE: mode });
  const protocol = target.wire?.socketio ? "socketio" : "harpia";
  const load = startScript(`loads/${mode}.ts`, server, seconds, connections, { PROTOCOL: protocol });
  return await inTurns(load, server, load);
}

/** A process that publishes, and is measured. */
async function publisherContestant(
  { family, args: [inFlight, synchronous] }: Workload,
  target: Target,
  seconds: number,
): Promise<Contestant> {
  const folder = mkdtempSync(join(tmpdir(), "harpia-bench-"));
  const redis = family === "redis" ? await startRedis(OTHER_CORE) : undefined;
  const publisher = startPublisher(target, seconds, {
    IN_FLIGHT: inFlight!,
    FOLDER: folder,
    OTHER_CORE,
    ...(synchronous && { SYNCHRONOUS: synchronous }),
    ...(redis && { REDIS_URL: redis.url }),
  });
  const { turn } = await inTurns(publisher, publisher, redis);
  return {
    turn,
    async kill() {
      await publisher.kill();
      await redis?.kill();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Who drives prints what it counted; who is measured may be the same process. */
async function inTurns(
  driver: Running,
  measured: Running,
  other?: Pick<Running, "pid" | "kill">,
): Promise<Contestant> {
  await driver.line();
  const all = other ? [measured, other] : [measured];
  return {
    async turn() {
      const before = all.map(cpuOf);
      driver.go();
      const counted = JSON.parse(await driver.line()) as { count: number; seconds: number };
      const [used, otherUsed = 0] = all.map((one, index) => cpuOf(one) - before[index]!);
      return { count: counted.count, seconds: counted.seconds, used: used!, otherUsed };
    },
    async kill() {
      for (const one of new Set([...all, driver])) await one.kill();
    },
  };
}

/** Resident bytes that a connection adds: a fresh server each time, collected before and after. */
async function idle({ workload, names, rounds, seconds }: Plan): Promise<Record<string, Measured>> {
  const measured = blank(names);
  for (let round = 0; round < rounds; round++) {
    const now: Record<string, number> = {};
    for (const name of names) {
      const target = TARGETS[workload.family][name]!;
      const server = await startServer(target, MEASURED_CORE, { MODE: "idle" });
      await collect(server);
      const before = residentOf(server);
      const load = startLoad(workload, target, server, seconds);
      await load.line();
      await collect(server);
      now[name] = (residentOf(server) - before) / workload.connections;
      load.go();
      await load.ended();
      await server.kill();
    }
    note(measured, now);
  }
  return measured;
}

function blank(names: string[]): Record<string, Measured> {
  return Object.fromEntries(names.map((name) => [name, { values: [], ratios: [], busy: 0, otherBusy: 0 }]));
}

function note(measured: Record<string, Measured>, now: Record<string, number>): void {
  for (const [name, value] of Object.entries(now)) {
    measured[name]!.values.push(value);
    measured[name]!.ratios.push(value / now[Object.keys(measured)[0]!]!);
  }
}

async function collect({ port }: Server): Promise<void> {
  for (let time = 0; time < 3; time++) {
    await (await fetch(`http://127.0.0.1:${port}/gc`)).text();
    // Allocators give pages back after a while, not at once.
    await Bun.sleep(400);
  }
}
