// The processes of one measurement: a server, the load generator or a client, each pinned to its core, and what the
// kernel says that they used.

import { readdirSync, readFileSync } from "node:fs";
import { commandOf, type Target } from "./targets.js";
import { loadArguments, type Workload } from "./workloads.js";

const HERE = import.meta.dir;
/** What is measured has a core for itself; its counterpart has the other. */
export const MEASURED_CORE = "0";
export const OTHER_CORE = "1";

export interface Running {
  pid: number;
  /** The next line that it prints. */
  line(): Promise<string>;
  /** Gives it the line for which it waits. */
  go(): void;
  ended(): Promise<void>;
  kill(): Promise<void>;
}

export interface Server extends Running {
  port: number;
}

export async function startServer(
  target: Target,
  core: string,
  env: Record<string, string> = {},
): Promise<Server> {
  const idle = env.MODE === "idle";
  // Without optimising compilers, whose code is the server's and no connection's.
  if (idle) env = { ...env, BUN_JSC_useDFGJIT: "0" };
  const server = spawn(target.script, core, commandOf(target, idle), { ...env, ...target.env });
  const port = Number(await server.line());
  if (!port) throw new Error(`the server ${target.script} did not start`);
  return { ...server, port };
}

export function startClient(target: Target, { port }: Server, seconds: number, inFlight: string): Running {
  const env = { URL: `ws://127.0.0.1:${port}`, SECONDS: `${seconds}`, IN_FLIGHT: inFlight };
  return spawn(target.script, MEASURED_CORE, commandOf(target, false), env);
}

/** A process that publishes by itself, as often as it can. */
export function startPublisher(target: Target, seconds: number, env: Record<string, string>): Running {
  const all = { SECONDS: `${seconds}`, ...env, ...target.env };
  return spawn(target.script, MEASURED_CORE, commandOf(target, false), all);
}

/** A load that has to understand what it is told: a script, that takes turns like a client. */
export function startScript(
  script: string,
  { port }: Server,
  seconds: number,
  inFlight: number,
  env: Record<string, string>,
): Running {
  const all = { PORT: `${port}`, SECONDS: `${seconds}`, IN_FLIGHT: `${inFlight}`, ...env };
  return spawn(script, OTHER_CORE, [process.execPath, script], all);
}

export function startLoad(workload: Workload, target: Target, { port }: Server, seconds: number): Running {
  const { mode, connections } = workload;
  const { protocol, path, frames } = loadArguments(workload, target);
  const args = [...protocol, mode, `${port}`, path, `${connections}`, `${seconds}`, ...frames];
  return spawn(`the load on ${target.script}`, OTHER_CORE, ["bin/load", ...args], {});
}

/** Seconds that all threads of a process have run, to the nanosecond. */
export function cpuOf({ pid }: Pick<Running, "pid">): number {
  const tasks = `/proc/${pid}/task`;
  const times = readdirSync(tasks).map((task) => nanoseconds(`${tasks}/${task}/schedstat`));
  return times.reduce((sum, time) => sum + time, 0) / 1e9;
}

function nanoseconds(schedstat: string): number {
  try {
    return Number(readFileSync(schedstat, "utf8").split(" ")[0]);
  } catch (error) {
    // The thread has ended since it was listed, as those of compilers do. They have not run long.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}

export function residentOf({ pid }: Running): number {
  return Number(/^Rss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))![1]) * 1024;
}

export function spawn(what: string, core: string, command: string[], env: Record<string, string>): Running {
  const child = Bun.spawn(["taskset", "-c", core, ...command], {
    cwd: HERE,
    env: { ...process.env, NODE_ENV: "production", ...env },
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  return {
    pid: child.pid,
    async line(): Promise<string> {
      const { value } = await reader.read();
      if (value === undefined) throw new Error(`${what} failed`);
      return value.trim();
    },
    go(): void {
      child.stdin.write("\n");
      void child.stdin.flush();
    },
    async ended(): Promise<void> {
      await child.exited;
    },
    async kill(): Promise<void> {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
