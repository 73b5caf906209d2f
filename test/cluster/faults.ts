// What goes wrong in a cluster, one by one: each a scenario of its own, during which everybody goes on writing.

import { startRedis } from "../support/redis.js";
import { faultProxy } from "harpia/testing";
import type { Crowd } from "./crowd.js";
import { type Cluster, PRIMARY } from "./machines.js";

export interface Scenario {
  /** `never`: nothing is lost, so nobody is told so. `epoch`: only where the epoch changed. */
  resets: "never" | "epoch" | "any";
  /** Clients lose their connections. Redis' faults alone never do that. */
  drops: boolean;
  run(cluster: Cluster, crowd: Crowd): Promise<void>;
}

/** Publications that are resolved before a fault, and after it. */
const SOME = 30;
const FULL = ["CONFIG", "SET", "maxmemory"];

/** Kills Redis, and starts it again when that was noticed. */
async function restartRedis({ redis }: Cluster, crowd: Crowd, ...options: string[]): Promise<void> {
  await crowd.resolved(SOME);
  await redis.kill();
  await crowd.rejected(5);
  await redis.start(...PRIMARY, ...options);
}

/** Deletes keys of the rooms, of those that end like this. */
async function forget({ redis }: Cluster, ends: string[]): Promise<void> {
  const keys = (await redis.command("KEYS", "harpia:{*}*")) as string[];
  for (const key of keys) if (ends.some((end) => key.endsWith(`}${end}`))) await redis.command("DEL", key);
}

export const scenarios = {
  "a process is killed with -9, and another one takes its place": {
    resets: "never",
    drops: true,
    async run({ nodes: [node] }, crowd) {
      await crowd.resolved(SOME);
      await node!.kill();
      await crowd.resolved(SOME);
      await node!.start();
      await crowd.spread();
    },
  },
  "Redis is killed with -9, and comes back with nothing": {
    resets: "epoch",
    drops: false,
    run: (cluster, crowd) =>
      restartRedis(cluster, crowd, "--dbfilename", "nothing.rdb", "--appendonly", "no"),
  },
  "Redis is killed with -9, and comes back with an old snapshot": {
    resets: "epoch",
    drops: false,
    async run(cluster, crowd) {
      await crowd.resolved(SOME);
      await cluster.redis.command("SAVE");
      await restartRedis(cluster, crowd, "--dbfilename", "nothing.rdb", "--appendonly", "no");
    },
  },
  "Redis is killed with -9, and comes back with its append-only file": {
    resets: "epoch",
    drops: false,
    async run(cluster, crowd) {
      await cluster.redis.command("CONFIG", "SET", "appendonly", "yes");
      while (String(await cluster.redis.command("INFO", "persistence")).includes("aof_rewrite_in_progress:1"))
        await Bun.sleep(20);
      await restartRedis(cluster, crowd, "--appendonly", "yes");
      await crowd.resolved(SOME);
      await cluster.redis.command("CONFIG", "SET", "appendonly", "no");
    },
  },
  "the connections of pub/sub are killed": {
    resets: "never",
    drops: false,
    async run({ redis }, crowd) {
      for (let round = 0; round < 3; round++) {
        await crowd.resolved(SOME);
        await redis.command("CLIENT", "KILL", "TYPE", "pubsub");
      }
    },
  },
  "all connections to Redis are killed": {
    resets: "never",
    drops: false,
    async run({ redis }, crowd) {
      await crowd.resolved(SOME);
      await redis.command("CLIENT", "KILL", "TYPE", "normal");
      await redis.command("CLIENT", "KILL", "TYPE", "pubsub");
    },
  },
  "Redis pauses its clients for longer than the timeout": {
    resets: "never",
    drops: false,
    async run({ redis, timeout }, crowd) {
      await crowd.resolved(SOME);
      await redis.command("CLIENT", "PAUSE", String(timeout * 2), "ALL");
      await crowd.rejected(1);
    },
  },
  "Redis sleeps for longer than the timeout": {
    resets: "never",
    drops: false,
    async run({ redis, timeout }, crowd) {
      await crowd.resolved(SOME);
      const sleeping = redis.command("DEBUG", "SLEEP", String((timeout * 2) / 1_000));
      await crowd.rejected(1);
      await sleeping;
    },
  },
  "a replica that lacks the last publications is promoted, and the processes find it one after the other": {
    resets: "epoch",
    drops: false,
    async run(cluster, crowd) {
      const old = cluster.redis;
      const wire = cluster.keep(faultProxy({ port: old.port }));
      const replica = cluster.keep(
        await startRedis("--enable-debug-command", "local", "--replicaof", `127.0.0.1 ${wire.port}`),
      );
      while (!String(await replica.command("INFO", "replication")).includes("master_link_status:up"))
        await Bun.sleep(20);
      await crowd.resolved(SOME);
      wire.freeze();
      await crowd.resolved(SOME);
      await replica.command("REPLICAOF", "NO", "ONE");
      const [first, ...others] = cluster.nodes;
      cluster.moveTo(replica, [first!]);
      await crowd.resolved(SOME);
      cluster.moveTo(replica, others);
      await old.kill();
      await wire.close();
    },
  },
  "one process cannot reach Redis: nothing passes": {
    resets: "never",
    drops: false,
    async run({ nodes: [, node], timeout }, crowd) {
      await crowd.resolved(SOME);
      node!.network.freeze();
      await crowd.rejected(5);
      await Bun.sleep(timeout);
      node!.network.thaw();
    },
  },
  "one process cannot hear Redis: what it publishes arrives": {
    resets: "never",
    drops: false,
    async run({ nodes: [, , node], timeout }, crowd) {
      await crowd.resolved(SOME);
      node!.network.freeze("down");
      await crowd.rejected(5);
      await Bun.sleep(timeout);
      node!.network.thaw();
    },
  },
  "one process cannot reach Redis: it is refused": {
    resets: "never",
    drops: false,
    async run({ nodes: [node], redis }, crowd) {
      await crowd.resolved(SOME);
      node!.network.target = undefined;
      node!.network.cut({ reset: true });
      await crowd.rejected(5);
      node!.network.target = { port: redis.port };
    },
  },
  "Redis forgets the scripts": {
    resets: "never",
    drops: false,
    async run({ redis }, crowd) {
      for (let round = 0; round < 3; round++) {
        await crowd.resolved(SOME);
        await redis.command("SCRIPT", "FLUSH");
      }
    },
  },
  "Redis is full, and evicts nothing": {
    resets: "never",
    drops: false,
    async run({ redis }, crowd) {
      await crowd.resolved(SOME);
      await redis.command(...FULL, "1mb");
      await crowd.rejected(SOME);
      await redis.command(...FULL, "0");
    },
  },
  "Redis evicts keys of a topic: its numbering, its log, both, who is present": {
    resets: "any",
    drops: false,
    async run(cluster, crowd) {
      for (const ends of [["m"], ["l"], ["m", "l"], ["l", "m"], ["p"]]) {
        await crowd.resolved(SOME);
        await forget(cluster, ends);
      }
    },
  },
} satisfies Record<string, Scenario>;

/** Runs one, and looks at what has come of it. @returns what is wrong. */
export async function check(
  name: string,
  { resets, drops, run }: Scenario,
  cluster: Cluster,
  crowd: Crowd,
): Promise<string[]> {
  crowd.turnPage();
  const before = { ...crowd.counts };
  crowd.write();
  await run(cluster, crowd);
  await crowd.resolved(SOME);
  await crowd.rest();
  await crowd.converge();
  const wrong = crowd.wrong.splice(0);
  const told = crowd.counts.resets - before.resets;
  if (resets === "never" && told > 0) wrong.push(`${told} resets, though nothing was lost`);
  wrong.push(...crowd.needlessResets(resets === "any"));
  const lost = crowd.counts.drops - before.drops;
  if (!drops && lost > 0) wrong.push(`${lost} times a client lost its connection`);
  // A loaded machine is late, but not for long.
  if (crowd.slowest > 2 * cluster.timeout + 3_000)
    wrong.push(`a publish took ${Math.round(crowd.slowest)} ms; the timeout is ${cluster.timeout} ms`);
  return wrong.map((what) => `${name}: ${what}`);
}
