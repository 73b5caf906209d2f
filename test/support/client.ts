// The client outside of the test's own process or world: bundled as users bundle it, built as npm gets it, and the
// server that it is tried against as a process that can be killed and frozen.

import type { Subprocess } from "bun";
import { join } from "node:path";
import { createContext, runInContext } from "node:vm";

const ROOT = join(import.meta.dir, "../..");
const CACHE = join(ROOT, ".cache/client");

export type ClientModule = typeof import("../../src/client/index.js");

/** The client in one file, minified. */
export async function bundle(format: "esm" | "cjs" = "esm"): Promise<string> {
  const entrypoints = [join(ROOT, "src/client/index.ts")];
  const built = await Bun.build({ entrypoints, target: "browser", minify: true, format });
  return await built.outputs[0]!.text();
}

/** The client in a world that has what every web runtime has, and what is given: no process, no Buffer, no document. */
export async function inWorld(globals: Record<string, unknown> = {}): Promise<ClientModule> {
  const module = { exports: {} };
  const web = {
    WebSocket,
    URL,
    TextEncoder,
    btoa,
    setTimeout,
    clearTimeout,
    performance,
    queueMicrotask,
    AbortController,
    module,
    exports: module.exports,
  };
  const context = createContext({ ...web, ...globals });
  runInContext(await bundle("cjs"), context);
  return module.exports as ClientModule;
}

/** A world's clock that runs so many times faster; its sockets do not. */
export function clock(times: number): Record<string, unknown> {
  return {
    setTimeout: (act: () => void, ms: number) => setTimeout(act, ms / times),
    performance: { now: () => performance.now() * times },
  };
}

/** Builds what npm gets, and gives the folder. */
export function buildDist(): string {
  const outDir = join(CACHE, "dist");
  const tsc = Bun.spawnSync(
    [process.execPath, "x", "tsc", "-p", join(ROOT, "tsconfig.build.json"), "--outDir", outDir],
    { cwd: ROOT },
  );
  if (tsc.exitCode !== 0) throw new Error(`tsc failed:\n${tsc.stdout.toString()}`);
  return outDir;
}

export interface ServerProcess extends AsyncDisposable {
  port: number;
  url: string;
  child: Subprocess;
  kill(signal: NodeJS.Signals): Promise<void>;
}

/** Starts test/client/fixture/server.ts. */
export async function startServer(port = 0): Promise<ServerProcess> {
  const script = join(CACHE, "client.js");
  await Bun.write(script, await bundle());
  const child = Bun.spawn(
    [process.execPath, join(ROOT, "test/client/fixture/server.ts"), String(port), script],
    { cwd: ROOT, stdout: "pipe", stderr: "inherit" },
  );
  const { value } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  const bound = Number(value);
  return {
    port: bound,
    url: `http://127.0.0.1:${bound}`,
    child,
    async kill(signal) {
      child.kill(signal);
      if (signal !== "SIGSTOP" && signal !== "SIGCONT") await child.exited;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
