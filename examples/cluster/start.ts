// A cluster on one machine: redis-server, three harpia processes, and haproxy in front. Kill any of them and watch the
// chat go on; what was killed is started again. Needs `redis-server` and `haproxy` on the PATH.
//
//   npm run start:cluster          http://localhost:3000 (PORT changes that)

import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const NODES = 3;

export interface Cluster extends AsyncDisposable {
  readonly url: string;
  readonly redisPort: number;
  /** The process ids of the harpia processes, now. */
  pids(): number[];
}

/** Starts all of it, and starts again what ends. Throws if a program is missing. */
export async function startCluster({
  port,
  quiet = false,
}: {
  port: number;
  quiet?: boolean;
}): Promise<Cluster> {
  const redisServer = find("redis-server");
  const haproxy = find("haproxy");
  const folder = await mkdtemp(join(tmpdir(), "harpia-cluster-"));
  const [redisPort, ...ports] = (await freePorts(NODES + 1)) as [number, ...number[]];
  const say = (line: string): void => {
    if (!quiet) console.log(line);
  };

  let ended = false;
  const running = new Map<string, Bun.Subprocess>();
  function keep(name: string, command: string[], env: Record<string, string> = {}): void {
    const child = Bun.spawn(command, {
      env: { ...process.env, ...env },
      stdout: "ignore",
      stderr: quiet ? "ignore" : "inherit",
      onExit: () => {
        running.delete(name);
        if (ended) return;
        say(`${name} ended; starting it again`);
        setTimeout(() => !ended && keep(name, command, env), 500);
      },
    });
    running.set(name, child);
    say(`${name}: pid ${child.pid}`);
  }

  keep("redis", [
    redisServer,
    "--port",
    `${redisPort}`,
    "--bind",
    "127.0.0.1",
    "--dir",
    folder,
    "--save",
    "",
  ]);
  for (const [index, nodePort] of ports.entries()) {
    keep(`harpia ${index + 1}`, [process.execPath, join(import.meta.dir, "node.ts")], {
      PORT: `${nodePort}`,
      REDIS_URL: `redis://127.0.0.1:${redisPort}`,
    });
  }
  const config = join(folder, "haproxy.cfg");
  await Bun.write(config, haproxyConfig(port, ports));
  keep("haproxy", [haproxy, "-db", "-f", config]);
  const url = `http://localhost:${port}`;
  await untilReady(`${url}/healthz`);
  say(url);
  return {
    url,
    redisPort,
    pids: () => [...running].filter(([name]) => name.startsWith("harpia")).map(([, child]) => child.pid),
    async [Symbol.asyncDispose]() {
      ended = true;
      const children = [...running.values()];
      for (const child of children) child.kill("SIGTERM");
      const late = setTimeout(() => {
        for (const child of children) child.kill("SIGKILL");
      }, 4_000);
      await Promise.all(children.map(({ exited }) => exited));
      clearTimeout(late);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** No stickiness: any process can take any client. A process that is not ready gets no new ones. */
export function haproxyConfig(port: number, ports: readonly number[]): string {
  const servers = ports.map((node, index) => `  server harpia${index + 1} 127.0.0.1:${node} check inter 500`);
  return `defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  retries 3
  option redispatch

frontend chat
  bind 127.0.0.1:${port}
  default_backend nodes

backend nodes
  balance roundrobin
  option httpchk GET /healthz
${servers.join("\n")}
`;
}

function find(program: string): string {
  const path = Bun.which(program, { PATH: `${process.env.PATH}:/usr/sbin` });
  if (path) return path;
  throw new Error(`${program} is not on the PATH. On Debian: apt-get install redis-server haproxy`);
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

async function untilReady(url: string): Promise<void> {
  for (let tries = 0; tries < 150; tries++) {
    const response = await fetch(url).catch(() => undefined);
    if (response?.ok) return;
    await Bun.sleep(100);
  }
  throw new Error(`${url} did not become ready`);
}

if (import.meta.main) {
  try {
    const cluster = await startCluster({ port: Number(process.env.PORT ?? 3000) });
    for (const signal of ["SIGINT", "SIGTERM"])
      process.once(signal, () => void cluster[Symbol.asyncDispose]().then(() => process.exit(0)));
  } catch (error) {
    console.error((error as Error).message);
    process.exit(1);
  }
}
