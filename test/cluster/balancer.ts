// haproxy in front of a cluster under test, as examples/cluster has it.

import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { haproxyConfig } from "../../examples/cluster/start.js";
import { pathOf } from "../support/programs.js";

export interface Balancer extends AsyncDisposable {
  readonly port: number;
}

/** Resolves when it passes requests on to one of these ports. */
export async function startBalancer(ports: readonly number[]): Promise<Balancer> {
  const [port] = await steadyPorts(1);
  const folder = mkdtempSync(join(tmpdir(), "harpia-balancer-"));
  const config = join(folder, "haproxy.cfg");
  await Bun.write(config, haproxyConfig(port!, ports));
  const child = Bun.spawn([pathOf("haproxy"), "-db", "-f", config], { stdout: "ignore", stderr: "pipe" });
  const orphaned = (): void => child.kill("SIGKILL");
  process.once("exit", orphaned);
  const end = async (): Promise<void> => {
    process.off("exit", orphaned);
    child.kill("SIGKILL");
    await child.exited;
    rmSync(folder, { recursive: true, force: true });
  };
  for (let tries = 0; !(await isReady(port!)); tries++) {
    if (tries > 300 || child.exitCode !== null) {
      await end();
      const said = await new Response(child.stderr).text();
      throw new Error(`haproxy did not start, or found nobody to pass requests on to: ${said}`);
    }
    await Bun.sleep(100);
  }
  return { port: port!, [Symbol.asyncDispose]: end };
}

/** Whether `/healthz` answers 200. */
export async function isReady(port: number): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${port}/healthz`).catch(() => undefined);
  await response?.arrayBuffer();
  return response?.ok ?? false;
}

/**
 * Ports that a process can be given again when it is started again: below those that the kernel takes for outgoing
 * connections, of which there are thousands meanwhile.
 */
export async function steadyPorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = 12_000 + Math.floor(Math.random() * 18_000);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (isFree) ports.add(port);
  }
  return [...ports];
}
