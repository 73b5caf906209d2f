// Real Redis servers for tests: one, a cluster of three primaries (with replicas), a sentinel with a primary and a replica, TLS with
// an ACL user. Each on a free port of 127.0.0.1, in a folder of its own; only its own processes are stopped.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "redis";
import { pathOf } from "./programs.js";

export interface RedisServer extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
  /** One command, over a connection of its own. */
  command(...command: string[]): Promise<unknown>;
  /** `SIGKILL`, unless told otherwise. Resolves when the process is gone; at once if it is stopped or continued. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Starts again, on the same port and folder; with other options added. */
  start(...more: string[]): Promise<void>;
}

/** Options as on the command line of redis-server. Nothing is persisted unless told. */
export async function startRedis(...options: string[]): Promise<RedisServer> {
  return startServer({ options });
}

interface ServerOptions {
  options?: readonly string[];
  port?: number;
  /** For the test's own commands. */
  url?: string;
  socket?: object;
  sentinel?: boolean;
}

async function startServer(given: ServerOptions): Promise<RedisServer> {
  const { options = [], port = await freePort(), socket = {}, sentinel = false } = given;
  const url = given.url?.replace("PORT", String(port)) ?? `redis://127.0.0.1:${port}`;
  const folder = mkdtempSync(join(tmpdir(), "harpia-redis-"));
  let child: Bun.Subprocess;
  // However this process ends, short of being killed itself.
  const orphaned = (): void => child.kill("SIGKILL");
  process.once("exit", orphaned);
  const connect = async () => {
    const client = createClient({ url, socket: { ...socket, reconnectStrategy: false } });
    client.on("error", () => {});
    await client.connect();
    return client;
  };
  const command = async (...words: string[]): Promise<unknown> => {
    const client = await connect();
    try {
      return await client.sendCommand(words);
    } finally {
      client.destroy();
    }
  };
  const start = async (...more: string[]): Promise<void> => {
    mkdirSync(folder, { recursive: true });
    const config = join(folder, "redis.conf");
    const lines = sentinel && (await Bun.file(config).exists()) ? await Bun.file(config).text() : "";
    await Bun.write(config, lines);
    const fixed = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder];
    const quiet = sentinel ? ["--sentinel"] : ["--save", "", "--repl-diskless-sync-delay", "0"];
    child = Bun.spawn([pathOf("redis-server"), config, ...fixed, ...quiet, ...options, ...more], {
      stdout: Bun.file(join(folder, "log")),
      stderr: Bun.file(join(folder, "log")),
    });
    for (let tries = 0; ; tries++) {
      try {
        const persistence = String(await command("INFO", "persistence"));
        if (!persistence.includes("\nloading:1")) return;
      } catch (error) {
        if (child.exitCode !== null || tries > 600)
          throw new Error(`redis-server did not start: ${await Bun.file(join(folder, "log")).text()}`, {
            cause: error,
          });
      }
      await Bun.sleep(25);
    }
  };
  const kill = async (signal: NodeJS.Signals = "SIGKILL"): Promise<void> => {
    child.kill(signal);
    if (signal !== "SIGSTOP" && signal !== "SIGCONT") await child.exited;
  };
  await start();
  return {
    port,
    url,
    command,
    kill,
    start,
    [Symbol.asyncDispose]: async () => {
      await kill();
      process.off("exit", orphaned);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface RedisCluster extends AsyncDisposable {
  /** The primaries. */
  readonly servers: readonly RedisServer[];
  /** Of the first primary, the second, … */
  readonly replicas: readonly RedisServer[];
  /** Of the primaries. */
  readonly urls: string[];
}

/** Three primaries, a third of the slots each; the first `replicas` of them have a replica each, in sync. */
export async function startCluster({ replicas: count = 0 } = {}): Promise<RedisCluster> {
  const nodeTimeout = count > 0 ? "1000" : "2000";
  const options = ["--cluster-enabled", "yes", "--cluster-node-timeout", nodeTimeout, "--cluster-port"];
  const all = await Promise.all(
    Array.from({ length: 3 + count }, async () =>
      startServer({ options: [...options, String(await freePort())] }),
    ),
  );
  const [servers, replicas] = [all.slice(0, 3), all.slice(3)];
  const [first] = servers;
  const bounds = [0, 5461, 10923, 16384];
  for (const [index, server] of servers.entries()) {
    await server.command("CLUSTER", "SET-CONFIG-EPOCH", String(index + 1));
    await server.command("CLUSTER", "ADDSLOTSRANGE", String(bounds[index]!), String(bounds[index + 1]! - 1));
  }
  for (const server of all) {
    if (server === first) continue;
    const bus = /cport=(\d+)|@(\d+)/.exec(String(await server.command("CLUSTER", "NODES")));
    await first!.command("CLUSTER", "MEET", "127.0.0.1", String(server.port), bus![1] ?? bus![2]!);
  }
  await until(async () => {
    const infos = await Promise.all(all.map((server) => server.command("CLUSTER", "INFO")));
    const known = `known_nodes:${all.length}`;
    return infos.every((info) => String(info).includes("cluster_state:ok") && String(info).includes(known));
  });
  for (const [index, replica] of replicas.entries()) {
    await replica.command("CLUSTER", "REPLICATE", String(await servers[index]!.command("CLUSTER", "MYID")));
    await until(() => follows(replica, all));
  }
  return {
    servers,
    replicas,
    urls: servers.map(({ url }) => url),
    [Symbol.asyncDispose]: async () => {
      for (const server of all) await server[Symbol.asyncDispose]();
    },
  };
}

/** Whether it is a replica, in sync, and `known` have heard of that: a primary ignores a handover to any other. */
export async function follows(replica: RedisServer, known: readonly RedisServer[] = []): Promise<boolean> {
  const isReplica = /role:slave[^]*master_link_status:up/;
  if (!isReplica.test(String(await replica.command("INFO", "replication")))) return false;
  const nodes = await Promise.all(known.map((server) => server.command("CLUSTER", "NODES")));
  const line = new RegExp(`:${replica.port}@\\S+ (myself,)?slave `);
  return nodes.every((each) => line.test(String(each)));
}

export interface RedisSentinels extends AsyncDisposable {
  readonly primary: RedisServer;
  readonly replica: RedisServer;
  readonly sentinel: RedisServer;
}

/** A primary and its replica, and one sentinel that knows them as `main`. */
export async function startSentinel(): Promise<RedisSentinels> {
  const primary = await startRedis();
  const replica = await startRedis("--replicaof", `127.0.0.1 ${primary.port}`);
  await until(() => follows(replica));
  const sentinel = await startServer({ sentinel: true });
  await sentinel.command("SENTINEL", "MONITOR", "main", "127.0.0.1", String(primary.port), "1");
  await sentinel.command("SENTINEL", "SET", "main", "down-after-milliseconds", "1000");
  await sentinel.command("SENTINEL", "SET", "main", "failover-timeout", "3000");
  await until(async () => ((await sentinel.command("SENTINEL", "REPLICAS", "main")) as unknown[]).length > 0);
  return {
    primary,
    replica,
    sentinel,
    [Symbol.asyncDispose]: async () => {
      for (const server of [sentinel, replica, primary]) await server[Symbol.asyncDispose]();
    },
  };
}

/** TLS alone, with `test/support/tls`; the user `harpia`, password `s3cret`, may do what `rules` say. */
export async function startTls(rules: readonly string[]): Promise<RedisServer & { ca: string }> {
  const tls = join(import.meta.dir, "tls");
  const port = await freePort();
  const certificate = ["--tls-cert-file", join(tls, "cert.pem"), "--tls-key-file", join(tls, "key.pem")];
  const ca = await Bun.file(join(tls, "cert.pem")).text();
  const server = await startServer({
    port,
    url: "rediss://admin:adm1n@localhost:PORT",
    socket: { ca },
    options: [
      "--tls-port",
      String(port),
      "--port",
      "0",
      ...certificate,
      "--tls-auth-clients",
      "no",
      ..."--user admin on >adm1n ~* &* +@all --user default off --user harpia on >s3cret".split(" "),
      ...rules,
    ],
  });
  return { ...server, ca };
}

/** Asks until it is so; the test's own timeout ends it otherwise. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await Bun.sleep(25);
}

const taken = new Set<number>();

/** One that nobody listens to, and that no other call here was given. */
async function freePort(): Promise<number> {
  for (;;) {
    const server = createServer();
    const port = await new Promise<number>((resolve) =>
      server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port)),
    );
    await new Promise((resolve) => server.close(resolve));
    if (taken.has(port)) continue;
    taken.add(port);
    return port;
  }
}
