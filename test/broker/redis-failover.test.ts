// A cluster whose primary dies, or hands over to its replica, under two processes with readers, writers and members:
// what they are told, and that all is well again by itself.

import { expect } from "bun:test";
import { defineChannel } from "harpia/contract";
import { connect } from "harpia/client";
import { redis } from "harpia/redis";
import { z } from "zod";
import { Topics } from "../../src/channel/topics.js";
import { slotOf } from "../../src/broker/redis-topology.js";
import { listen, quiet } from "../support/app.js";
import { testWith } from "../support/programs.js";
import { follows, type RedisCluster, type RedisServer, startCluster, until } from "../support/redis.js";

const it = testWith("redis-server");
const TIMEOUT = 2_000;
const EVERY_MS = 10;

const rooms = defineChannel({
  path: "/f",
  topics: {
    "room/:room": {
      message: z.object({ id: z.number() }),
      history: { size: 100_000, ttl: 3_600 },
      presence: z.object({ name: z.string() }),
    },
  },
});

interface Place {
  epoch: string;
  offset: number;
}

/** A room of which all is in the first third of the slots, or nothing is. */
function roomIn(first: boolean): string {
  for (let i = 0; ; i++)
    if ("tp".split("").every((kind) => slotOf(keyOf(kind, `${i}`)) < 5461 === first)) return `${i}`;
}

function keyOf(kind: string, room: string): string {
  return `harpia:{${kind} /f room/${room}}`;
}

const SHAKEN = roomIn(true);
const CALM = roomIn(false);

/** One process with one client, who is a member of both rooms. */
function processAt(cluster: RedisCluster, name: string) {
  const app = quiet({ broker: redis({ cluster: cluster.urls, timeout: TIMEOUT }) });
  const live = app.channel(rooms, { upgrade: (_request, { token }) => ({ name: token! }) }).implement({
    topics: {
      "room/:room": {
        subscribe: "public",
        presence: { info: (_, { ws }) => ws.data, key: (_, { ws }) => ws.data.name },
      },
    },
  });
  const client = connect(rooms, { url: `ws://127.0.0.1:${listen(app)}`, token: name });
  const readers = [SHAKEN, CALM].map((room) => {
    const subscription = client.subscribe("room/:room", { room });
    const reader = {
      room,
      subscription,
      /** Of each epoch, what was handed over. */
      heard: new Map<string, Map<number, number>>(),
      resets: 0,
      wrong: [] as string[],
      fewest: 0,
    };
    let last: Place | undefined;
    subscription.on("message", ({ data: { id }, offset }) => {
      const place = { epoch: subscription.position!.epoch, offset: offset! };
      if (last && (last.epoch !== place.epoch || last.offset + 1 !== place.offset))
        reader.wrong.push(`${place.epoch} ${place.offset} came after ${last.epoch} ${last.offset}`);
      last = place;
      const epoch = reader.heard.get(place.epoch) ?? new Map<number, number>();
      reader.heard.set(place.epoch, epoch.set(place.offset, id));
    });
    subscription.on("reset", () => {
      reader.resets++;
      last = subscription.position;
    });
    let most = 0;
    subscription.presence.on("change", (members) => {
      if (members.length < most) reader.wrong.push(`${name} was told that only ${members.length} are there`);
      most = members.length;
    });
    return reader;
  });
  return { name, app, live, client, readers };
}

/** Two processes that publish to both rooms, on and on. */
async function start(cluster: RedisCluster) {
  const polled = Topics.pollMs;
  Topics.pollMs = 1_000;
  for (const server of [...cluster.servers, ...cluster.replicas])
    await server.command("CONFIG", "SET", "cluster-require-full-coverage", "no");
  const all = [processAt(cluster, "ada"), processAt(cluster, "bob")];
  const readers = all.flatMap((each) => each.readers);
  const live = () => readers.every(({ subscription }) => subscription.presence.members.length === 2);
  await until(() => live() && all.every(({ app }) => app.health().ok));

  const resolved: { room: string; id: number; place: Place }[] = [];
  const rejected: { room: string; error: unknown }[] = [];
  const waiting = new Set<Promise<void>>();
  let lastId = 0;
  const publish = (room: string): void => {
    const id = ++lastId;
    const topic = all[id & 1]!.live.topic("room/:room", { room });
    const published: Promise<void> = topic
      .publish({ id })
      .then(
        (place) => void resolved.push({ room, id, place }),
        (error: unknown) => void rejected.push({ room, error }),
      )
      .finally(() => waiting.delete(published));
    waiting.add(published);
  };
  const timer = setInterval(() => {
    for (const room of [SHAKEN, SHAKEN, CALM, CALM]) publish(room);
  }, EVERY_MS);
  const count = (room: string) => resolved.filter((each) => each.room === room).length;
  return {
    all,
    readers,
    resolved,
    rejected,
    /** Waits until so many more were published to both rooms. */
    async flow(more = 20) {
      const rooms = [SHAKEN, CALM].map((room) => [room, count(room) + more] as const);
      await until(() => rooms.every(([room, enough]) => count(room) >= enough));
    },
    /** Publishes no more; all is settled, and everybody stands where the topic does. */
    async rest() {
      clearInterval(timer);
      await Promise.all(waiting);
      await until(() => all.every(({ app }) => app.health().ok));
      for (const { room, subscription } of readers) {
        const topic = all[0]!.live.topic("room/:room", { room });
        await until(async () => {
          const { epoch, offset } = await topic.history({ last: 1 });
          return subscription.position?.epoch === epoch && subscription.position.offset === offset;
        });
      }
    },
    /** What must be so after all that can happen. */
    check() {
      expect(rejected.filter(({ room }) => room === CALM)).toEqual([]);
      for (const { error } of rejected) expect(error).toMatchObject({ code: "BROKER_UNAVAILABLE" });
      for (const { room, heard, resets, wrong } of readers) {
        expect(wrong).toEqual([]);
        if (room === CALM) expect(resets).toBe(0);
        for (const { id, place } of resolved.filter((each) => each.room === room)) {
          const epoch = heard.get(place.epoch) ?? new Map<number, number>();
          const [first = Infinity] = epoch.keys();
          // The end of an epoch that was lost, and what was published to the next one before the reset, was told as lost.
          const told = place.offset >= first && place.offset <= [...epoch.keys()].at(-1)!;
          if (told) expect([place, epoch.get(place.offset)]).toEqual([place, id]);
          else expect(resets).toBeGreaterThan(0);
        }
      }
      expect(readers.map(({ subscription }) => subscription.presence.members.length)).toEqual([2, 2, 2, 2]);
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      Topics.pollMs = polled;
      for (const { client } of all) client.close();
      await Promise.allSettled(waiting);
      await Promise.all(all.map(({ app }) => app.stop({ timeout: 1_000 })));
    },
  };
}

/** Both processes hear, and hold their leases, there. */
async function isHome(server: RedisServer): Promise<void> {
  const channels = ["t", "p"].map((kind) => keyOf(kind, SHAKEN));
  await until(async () => {
    const counts = (await server.command("PUBSUB", "SHARDNUMSUB", ...channels)) as [
      string,
      number,
      string,
      number,
    ];
    return counts[1] === 2 && counts[3] === 2;
  });
  await until(async () => (await server.command("HLEN", `${keyOf("p", SHAKEN)}p`)) === 2);
}

const isPrimary = async (server: RedisServer) =>
  String(await server.command("INFO", "replication")).includes("role:master");

it("a primary is killed: its replica's topics go on there under a new epoch, the others as if nothing were; and it comes back as a replica", async () => {
  await using cluster = await startCluster({ replicas: 1 });
  const [old, next] = [cluster.servers[0]!, cluster.replicas[0]!];
  await using under = await start(cluster);
  await under.flow();
  await isHome(old);
  await old.kill();
  await until(() => under.all.every(({ app }) => !app.health().ok));
  await until(() => isPrimary(next));
  await under.flow();
  await isHome(next);
  await until(() => under.all.every(({ app }) => app.health().ok));
  expect(under.rejected.length).toBeGreaterThan(0);

  const refused = under.rejected.length;
  await old.start();
  await until(() => follows(old, [next, ...cluster.servers]));
  await under.flow();
  expect(under.rejected.length).toBe(refused);
  await under.rest();
  under.check();
  expect(under.readers.map(({ resets }) => resets)).toEqual([1, 0, 1, 0]);
}, 60_000);

it("a primary falls silent, and a replica that lacks the last publications takes over: they are told as lost, and no offset means two things, also when the old one wakes up", async () => {
  await using cluster = await startCluster({ replicas: 1 });
  const [old, next] = [cluster.servers[0]!, cluster.replicas[0]!];
  await using under = await start(cluster);
  await under.flow();
  await next.kill("SIGSTOP");
  // What it was sent already, it would read.
  await old.command("CLIENT", "KILL", "TYPE", "replica");
  await under.flow();
  await old.kill("SIGSTOP");
  await next.kill("SIGCONT");
  await next.command("CLUSTER", "FAILOVER", "TAKEOVER");
  await under.flow();
  await isHome(next);
  await old.kill("SIGCONT");
  await until(() => follows(old, [next, ...cluster.servers]));
  await under.flow();
  await under.rest();
  under.check();
  const topic = under.all[0]!.live.topic("room/:room", { room: SHAKEN });
  const { epoch } = await topic.history({ last: 1 });
  const shaken = under.resolved.filter(({ room }) => room === SHAKEN);
  const before = shaken.filter(({ place }) => place.epoch !== epoch).map(({ place }) => place.offset);
  const after = shaken.filter(({ place }) => place.epoch === epoch).map(({ place }) => place.offset);
  expect(Math.min(...after)).toBeLessThanOrEqual(Math.max(...before));
}, 60_000);

it("a primary that hands over, and back, loses nothing", async () => {
  await using cluster = await startCluster({ replicas: 1 });
  const [old, next] = [cluster.servers[0]!, cluster.replicas[0]!];
  await using under = await start(cluster);
  await under.flow();
  for (const [from, to] of [
    [old, next],
    [next, old],
  ] as const) {
    await to.command("CLUSTER", "FAILOVER");
    await until(() => isPrimary(to));
    await until(() => follows(from, [next, ...cluster.servers]));
    await under.flow();
    await isHome(to);
    await until(() => under.all.every(({ app }) => app.health().ok));
  }
  await under.rest();
  under.check();
  expect(under.rejected).toEqual([]);
  const topic = under.all[0]!.live.topic("room/:room", { room: SHAKEN });
  const { messages } = await topic.history({ last: 100_000 });
  const kept = new Set(messages.map(({ data }) => data.id));
  expect(under.resolved.filter(({ room, id }) => room === SHAKEN && !kept.has(id))).toEqual([]);
}, 60_000);
