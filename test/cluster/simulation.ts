// A cluster and what goes wrong in it, in an order that a seed gives, several at a time. Now and then all faults end:
// then everybody must have everything.

import { seeded } from "../support/random.js";
import { startRedis } from "../support/redis.js";
import { Cluster, PRIMARY } from "./machines.js";
import { Crowd } from "./crowd.js";

/** What is left of Redis' data when it is killed. `durable`: all, and the broker is told so. */
export type Setting = "nothing" | "snapshots" | "append-only" | "durable";

export interface Report {
  /** Empty if topics kept what they promise. */
  wrong: string[];
  /** How often what happened; what was tried and could not be done (Redis was away already, say) is not among it. */
  events: Record<string, number>;
  counts: Crowd["counts"];
  slowest: number;
}

const FAULTS_A_ROUND = 12;
const OPTIONS: Record<Setting, string[]> = {
  nothing: [],
  snapshots: ["--dbfilename", "some.rdb"],
  "append-only": ["--appendonly", "yes"],
  durable: ["--appendonly", "yes", "--appendfsync", "always"],
};

export async function simulate(seed: number, setting: Setting, faults: number): Promise<Report> {
  const random = seeded(seed);
  const timeout = 400;
  const debug = ["--enable-debug-command", "local"];
  await using cluster = await Cluster.start({
    timeout,
    durable: setting === "durable",
    redis: OPTIONS[setting],
  });
  await using crowd = new Crowd(cluster, { random });
  await crowd.converge();
  const events: Record<string, number> = {};
  const pending = new Set<Promise<void>>();
  let slowest = 0;
  let evicted = false;
  /** What happens to Redis itself happens one after the other. */
  let redis = Promise.resolve();

  const chance = (of: number): boolean => random() < of;
  const oneOf = <T>(all: readonly T[]): T => all[Math.floor(random() * all.length)]!; // never of none
  const wait = (most: number): Promise<void> => Bun.sleep(random() * most);
  /** @returns whether it worked: Redis may be away, or full. */
  const command = (...words: string[]): Promise<boolean> =>
    cluster.redis.command(...words).then(
      () => true,
      () => false,
    );
  /** Until it has worked: other faults end the connections of commands, and that of this one too. */
  const surely = async (...words: string[]): Promise<void> => {
    while (!(await command(...words))) await Bun.sleep(20);
  };
  const toRedis = (act: () => Promise<void>): Promise<void> => (redis = redis.then(act));

  /** They resolve to `false` if there was nothing to do. */
  const faultsOf: [name: string, weight: number, act: () => Promise<boolean | void>][] = [
    [
      "a process killed",
      2,
      async () => {
        const node = oneOf(cluster.nodes);
        if (node.port === undefined) return false;
        await node.kill();
        await wait(800);
        await node.start();
      },
    ],
    [
      "a process restarted",
      1,
      async () => {
        const node = oneOf(cluster.nodes);
        if (node.port === undefined) return false;
        await node.stop();
        await node.start();
      },
    ],
    [
      "Redis killed",
      2,
      () =>
        toRedis(async () => {
          await cluster.redis.kill();
          await wait(500);
          await cluster.redis.start(...PRIMARY);
        }),
    ],
    ["connections of pub/sub killed", 2, () => command("CLIENT", "KILL", "TYPE", "pubsub")],
    ["connections of commands killed", 2, () => command("CLIENT", "KILL", "TYPE", "normal")],
    ["Redis paused", 2, () => command("CLIENT", "PAUSE", String(Math.floor(random() * 3 * timeout)), "ALL")],
    ["Redis asleep", 1, () => command("DEBUG", "SLEEP", String((random() * 2 * timeout) / 1_000))],
    ["scripts forgotten", 1, () => command("SCRIPT", "FLUSH")],
    [
      "Redis full",
      1,
      () =>
        toRedis(async () => {
          await command("CONFIG", "SET", "maxmemory", "1mb");
          await wait(500);
          await surely("CONFIG", "SET", "maxmemory", "0");
        }),
    ],
    [
      "a process cut off from Redis",
      4,
      async () => {
        const { network } = oneOf(cluster.nodes);
        const direction = oneOf(["up", "down", undefined] as const);
        network.freeze(direction);
        await wait(timeout * 3);
        network.thaw(direction);
      },
    ],
    [
      "a process' connections to Redis reset",
      3,
      async () => oneOf(cluster.nodes).network.cut({ reset: chance(0.5) }),
    ],
    [
      "a process' answers from Redis cut off in the middle",
      3,
      async () => oneOf(cluster.nodes).network.cutAfter(Math.floor(random() * 4_000), oneOf(["up", "down"])),
    ],
    ["a client cut off", 4, async () => oneOf(crowd.people).network.cut({ reset: chance(0.5) })],
    [
      "a client cut off within a frame",
      4,
      async () => oneOf(crowd.people).network.cutAfter(Math.floor(random() * 3_000)),
    ],
    [
      "a client's network frozen",
      3,
      async () => {
        const { network } = oneOf(crowd.people);
        network.freeze();
        await wait(600);
        network.thaw();
      },
    ],
  ];
  if (setting === "snapshots") faultsOf.push(["a snapshot", 3, () => command("SAVE")]);
  if (setting !== "durable") {
    faultsOf.push(
      [
        "a replica promoted that lacks the last",
        1,
        () =>
          toRedis(async () => {
            const old = cluster.redis;
            const replica = await startRedis(
              ...debug,
              ...OPTIONS[setting],
              "--replicaof",
              `127.0.0.1 ${old.port}`,
            );
            cluster.keep(replica);
            await wait(400);
            // What is on the way to it is lost.
            await replica.command("REPLICAOF", "NO", "ONE");
            await wait(200);
            cluster.moveTo(replica, [oneOf(cluster.nodes)]);
            await wait(200);
            cluster.moveTo(replica);
            await old.kill();
          }),
      ],
      [
        "keys evicted",
        2,
        async () => {
          evicted = true;
          const room = oneOf(crowd.rooms);
          for (const end of oneOf([["m"], ["l"], ["m", "l"], ["l", "m"]]))
            await command("DEL", `harpia:{t /rooms room/${room}}${end}`);
          await command("DEL", `harpia:{p /rooms room/${room}}p`);
        },
      ],
    );
  }

  const round = async (many: number): Promise<void> => {
    evicted = false;
    crowd.turnPage();
    const resets = crowd.counts.resets;
    crowd.write();
    for (let count = 0; count < many; count++) {
      let at = random() * faultsOf.reduce((sum, [, weight]) => sum + weight, 0);
      const [name, , act] = faultsOf.find(([, weight]) => (at -= weight) < 0)!; // `at` is less than all weights
      const fault = act().then((done) => {
        if (done !== false) events[name] = (events[name] ?? 0) + 1;
        pending.delete(fault);
      });
      pending.add(fault);
      await wait(200);
    }
    await Promise.all(pending);
    await crowd.resolved(20);
    await crowd.rest();
    await crowd.converge();
    for (const what of crowd.needlessResets(evicted)) crowd.fail(what);
    if (setting === "durable" && crowd.counts.resets > resets)
      crowd.fail("a reset, though nothing is ever lost");
    // A loaded machine is late, but not for long.
    if (crowd.slowest > 2 * timeout + 3_000)
      crowd.fail(`a publish took ${Math.round(crowd.slowest)} ms; the timeout is ${timeout} ms`);
    slowest = Math.max(slowest, crowd.slowest);
  };
  for (let done = 0; done < faults && crowd.wrong.length === 0; done += FAULTS_A_ROUND)
    await round(Math.min(FAULTS_A_ROUND, faults - done));
  await redis;
  return { wrong: crowd.wrong, events, counts: crowd.counts, slowest };
}
