// A cluster under test: a real redis-server, and processes that reach it over a network of their own each, which can
// fail. Whatever it starts, it ends.

import { join } from "node:path";
import { type FaultProxy, faultProxy } from "harpia/testing";
import { type RedisServer, startRedis } from "../support/redis.js";
import type { NodeSettings, Order, Tally, Word } from "./node.js";

export interface ClusterOptions {
  nodes?: number;
  /** Where the processes listen, for a balancer to find them again. Default: each time anywhere. */
  ports?: readonly number[];
  /** Milliseconds, of the broker. */
  timeout?: number;
  durable?: boolean;
  pollMs?: number;
  /** As on the command line of redis-server. */
  redis?: string[];
}

/** For redis-server: what was started as a replica has been promoted since, and is none when it starts again. */
export const PRIMARY = ["--replicaof", "no one"];

/** One process. */
export class Node {
  /** Its way to Redis. */
  readonly network: FaultProxy;
  readonly #settings: NodeSettings;
  #child: Bun.Subprocess | undefined;
  /** `undefined` while it is not there. */
  port: number | undefined;
  /** Of its processes, in turn: each tells one when it is asked, and when it has stopped. */
  readonly tallies: Tally[] = [];
  #told = Promise.withResolvers<void>();

  constructor(redis: number, settings: Omit<NodeSettings, "redis">) {
    this.network = faultProxy({ port: redis });
    this.#settings = { ...settings, redis: `redis://127.0.0.1:${this.network.port}` };
  }

  async start(): Promise<void> {
    const listening = Promise.withResolvers<number>();
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "node.ts")], {
      env: { ...process.env, NODE_ENV: "production", NODE_SETTINGS: JSON.stringify(this.#settings) },
      stdout: "inherit",
      stderr: "inherit",
      ipc: (word: Word) => {
        if ("port" in word) return listening.resolve(word.port);
        this.tallies.push(word.tally);
        this.#told.resolve();
      },
    });
    this.#child = child;
    void child.exited.then((code) => {
      if (this.#child === child) this.#child = this.port = undefined;
      listening.reject(new Error(`a process ended with ${code} before it listened`));
    });
    this.port = await listening.promise;
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = this.port = undefined;
    child?.kill("SIGKILL");
    await child?.exited;
  }

  /**
   * SIGTERM, on which it calls `app.stop({ restart: true })`. New clients go elsewhere at once, as behind a load
   * balancer that asks `healthz`.
   */
  async stop(): Promise<void> {
    const child = this.#child;
    this.port = undefined;
    child?.kill("SIGTERM");
    await child?.exited;
  }

  order(order: Order): void {
    this.#child?.send(order);
  }

  /** It publishes no more by itself, and `tallies` has what it says of it. */
  async tell(): Promise<void> {
    this.#told = Promise.withResolvers();
    this.order({ tell: true });
    await this.#told.promise;
  }
}

export class Cluster implements AsyncDisposable {
  redis: RedisServer;
  readonly nodes: readonly Node[];
  readonly timeout: number;
  readonly #all = new Set<AsyncDisposable>();

  private constructor(redis: RedisServer, options: Required<Omit<ClusterOptions, "redis">>) {
    this.redis = this.keep(redis);
    const { timeout, durable, pollMs, ports } = options;
    this.timeout = timeout;
    this.nodes = Array.from(
      { length: options.nodes },
      (_, index) => new Node(redis.port, { port: ports[index] ?? 0, timeout, durable, pollMs }),
    );
  }

  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const { nodes = 3, timeout = 600, durable = false, pollMs = 500, ports = [] } = options;
    const redis = await startRedis("--enable-debug-command", "local", ...(options.redis ?? []));
    const cluster = new Cluster(redis, { nodes, timeout, durable, pollMs, ports });
    await Promise.all(cluster.nodes.map((node) => node.start()));
    return cluster;
  }

  /** Where the processes are that take connections. */
  get ports(): number[] {
    return this.nodes.flatMap(({ port }) => port ?? []);
  }

  /** Ends with the cluster. */
  keep<T extends AsyncDisposable>(what: T): T {
    this.#all.add(what);
    return what;
  }

  /** From now on nodes find another Redis where the old one was. */
  moveTo(redis: RedisServer, nodes: readonly Node[] = this.nodes): void {
    this.redis = redis;
    for (const { network } of nodes) {
      network.target = { port: redis.port };
      network.cut();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await Promise.all(this.nodes.map(({ network }) => network.close()));
    for (const each of this.#all) await each[Symbol.asyncDispose]();
  }
}
