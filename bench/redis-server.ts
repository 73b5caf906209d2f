// The real redis-server of one measurement, on a free port, pinned to a core; and what it says of itself.

import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "redis";

export interface RedisServer {
  readonly pid: number;
  readonly url: string;
  /** How often clients have sent one of these commands since it began. Those of scripts count as well. */
  calls(...commands: string[]): Promise<number>;
  kill(): Promise<void>;
}

/** Nothing is persisted. @param cores as taskset takes them. */
export async function startRedis(cores: string): Promise<RedisServer> {
  const folder = mkdtempSync(join(tmpdir(), "harpia-bench-redis-"));
  const port = await freePort();
  const options = ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", folder, "--save", ""];
  const child = Bun.spawn(["taskset", "-c", cores, "redis-server", ...options], {
    stdout: Bun.file(join(folder, "log")),
    stderr: "inherit",
  });
  const url = `redis://127.0.0.1:${port}`;
  const client = await connected(url, child);
  return {
    pid: child.pid,
    url,
    async calls(...commands) {
      const info = String(await client.sendCommand(["INFO", "commandstats"]));
      return commands.reduce(
        (sum, command) => sum + Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(info)?.[1] ?? 0),
        0,
      );
    },
    async kill() {
      client.destroy();
      child.kill("SIGKILL");
      await child.exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function connected(url: string, child: Bun.Subprocess) {
  for (let tries = 0; ; tries++) {
    const client = createClient({ url, socket: { reconnectStrategy: false } });
    client.on("error", () => {});
    try {
      await client.connect();
      return client;
    } catch (error) {
      if (child.exitCode !== null || tries > 200)
        throw new Error("redis-server did not start", { cause: error });
      await Bun.sleep(25);
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
