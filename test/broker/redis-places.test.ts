// Where Redis can be: behind sentinels, in a cluster whose slots move, behind TLS and an ACL, or at the end of a client
// of the user's own; and what is refused before anything connects.

import { afterEach, describe, expect, test } from "bun:test";
import { createClient, createCluster } from "redis";
import type { Broker, HistoryOptions } from "../../src/broker/broker.js";
import { redis, type RedisOptions } from "../../src/broker/redis.js";
import { slotOf } from "../../src/broker/redis-topology.js";
import { faultProxy } from "../../src/testing/fault-proxy.js";
import { pages } from "../docs/markdown.js";
import { testWith } from "../support/programs.js";
import {
  type RedisServer,
  startCluster,
  startRedis,
  startSentinel,
  startTls,
  until,
} from "../support/redis.js";
import { listen, readAll } from "./conformance.js";

const it = testWith("redis-server");
const HOUR: HistoryOptions = { size: 1_000, ttl: 3600 };
const TIMEOUT = 1_000;

const brokers = new Set<Broker>();
afterEach(async () => {
  await Promise.all([...brokers].map((broker) => broker.close()));
  brokers.clear();
});

async function connected(options: RedisOptions): Promise<Broker> {
  const broker = redis({ timeout: TIMEOUT, ...options });
  brokers.add(broker);
  await until(() => broker.health().ok);
  return broker;
}

/** Publishes until it is taken, and heard. */
async function untilHeard(broker: Broker, topic: string, heard: { payloads: string[] }, payload: string) {
  await until(async () => {
    await broker.publish(topic, payload, { history: HOUR }).catch(() => {});
    return heard.payloads.includes(payload);
  });
}

/** What docs/brokers.md says that harpia needs. */
const RULES = pages
  .find(({ path }) => path === "docs/brokers.md")!
  .text.match(/^~harpia:\*[^`]*/m)![0]
  .trim()
  .split(/\s+/);

it("works over TLS, as a user who may do no more than it needs", async () => {
  await using server = await startTls(RULES);
  const tls = { connection: { socket: { tls: true as const, ca: server.ca } } };
  const broker = await connected({ url: `rediss://harpia:s3cret@localhost:${server.port}`, ...tls });
  const heard = await listen(broker, "tls");
  await broker.publish("tls", "a", { history: HOUR, idempotencyKey: "k" });
  await broker.publish("tls", "b", {});
  await heard.until(2);
  expect(heard.payloads).toEqual(["a", "b"]);
  expect(await readAll(broker, "tls")).toEqual(["a"]);
  await broker.presence.put("tls", "k", "o", "{}", 60_000);
  expect((await broker.presence.list("tls")).members).toEqual([{ key: "k", info: "{}" }]);
  expect(await broker.presence.remove("tls", "k", "o")).toEqual({ vanished: true });
  await heard.stop();
  expect(String(await server.command("ACL", "LOG"))).toBe("");
}, 60_000);

it("never shows a password, and says what to do about a wrong one, or a missing rule", async () => {
  await using server = await startTls(RULES.filter((rule) => rule !== "+rpush"));
  const tls = { connection: { socket: { tls: true as const, ca: server.ca } } };
  const wrong = redis({ url: `rediss://harpia:wr0ng@localhost:${server.port}`, timeout: TIMEOUT, ...tls });
  brokers.add(wrong);
  const refused = await messageOf(wrong.publish("t", "x", { history: HOUR }));
  expect(refused).toContain("WRONGPASS");
  expect(refused).toContain("docs/brokers.md");
  await until(() => wrong.health().reason?.includes("WRONGPASS") === true);
  for (const text of [refused, wrong.health().reason!]) expect(text).not.toMatch(/wr0ng|harpia:/);

  const poor = await connected({ url: `rediss://harpia:s3cret@localhost:${server.port}`, ...tls });
  const missing = await messageOf(poor.publish("t", "x", { history: HOUR }));
  expect(missing).toMatch(/ACL|NOPERM/);
  expect(missing).not.toContain("s3cret");
}, 60_000);

it("follows the sentinels that answer to a promoted replica, with new epochs", async () => {
  await using all = await startSentinel();
  await using silent = faultProxy({ port: all.sentinel.port });
  silent.freeze();
  const nodes = [`redis://127.0.0.1:${silent.port}`, all.sentinel.url];
  const broker = await connected({ sentinel: { name: "main", nodes } });
  const heard = await listen(broker, "failover");
  await broker.publish("failover", "1", { history: HOUR });
  const [first] = await broker.positions(["failover"]);
  await until(async () => (await all.replica.command("LLEN", "harpia:{failover}l")) === 1);
  await all.primary.kill();
  await untilHeard(broker, "failover", heard, "2");
  const [second] = await broker.positions(["failover"]);
  expect(second!.epoch).not.toBe(first!.epoch);
  expect((await readAll(broker, "failover"))[0]).toBe("1");
}, 60_000);

it("begins a new epoch where a primary was a replica in between, though its process never ended", async () => {
  await using one = await startRedis();
  await using two = await startRedis();
  const broker = await connected({ url: one.url });
  await broker.publish("t", "1", { history: HOUR });
  const before = await broker.publish("t", "2", { history: HOUR });
  const link = /master_link_status:up/;
  await two.command("REPLICAOF", "127.0.0.1", String(one.port));
  await until(async () => link.test(String(await two.command("INFO", "replication"))));
  await two.command("REPLICAOF", "NO", "ONE");
  // Only the first server has it; then it becomes the other's replica, and forgets it.
  await broker.publish("t", "lost", { history: HOUR });
  await one.command("REPLICAOF", "127.0.0.1", String(two.port));
  await until(async () => link.test(String(await one.command("INFO", "replication"))));
  await one.command("REPLICAOF", "NO", "ONE");
  await until(() => broker.health().ok);
  const after = await broker.publish("t", "3", { history: HOUR });
  expect(after!.epoch).not.toBe(before!.epoch);
  expect(after!.offset).toBe(3);
  expect(await readAll(broker, "t")).toEqual(["1", "2", "3"]);
}, 60_000);

describe("a cluster", () => {
  it("goes on, subscriptions too, when a slot moves to another server", async () => {
    await using cluster = await startCluster();
    const broker = await connected({ cluster: cluster.urls });
    const heard = await listen(broker, "moving");
    await broker.publish("moving", "1", { history: HOUR });
    const channel = "harpia:{moving}";
    const slot = String(slotOf(channel));
    const [first] = cluster.servers;
    const from = await ownerOf(cluster.servers, channel);
    const to = cluster.servers.find((server) => server !== from)!;
    expect(String(await first!.command("CLUSTER", "KEYSLOT", channel))).toBe(slot);

    const idOf = async (server: RedisServer) => String(await server.command("CLUSTER", "MYID"));
    await to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", await idOf(from));
    await from.command("CLUSTER", "SETSLOT", slot, "MIGRATING", await idOf(to));
    const keys = (await from.command("CLUSTER", "GETKEYSINSLOT", slot, "100")) as string[];
    expect(keys.toSorted()).toEqual(["harpia:{moving}l", "harpia:{moving}m"]);
    // Half of a topic has moved: neither server can do it.
    const half = broker.publish("moving", "2", { history: HOUR }).catch((error: Error) => error);
    await from.command("MIGRATE", "127.0.0.1", String(to.port), "", "0", "5000", "KEYS", ...keys);
    expect(await half).not.toBeInstanceOf(TypeError);
    // All of it has moved, and the slot has not: ASK.
    expect((await broker.publish("moving", "3", { history: HOUR }))!.offset).toBeGreaterThan(1);
    for (const server of [to, from]) await server.command("CLUSTER", "SETSLOT", slot, "NODE", await idOf(to));
    await untilHeard(broker, "moving", heard, "4");
    expect((await readAll(broker, "moving")).filter((payload) => payload !== "2").slice(0, 3)).toEqual([
      "1",
      "3",
      "4",
    ]);
    await until(() => broker.health().ok);
  }, 120_000);

  it("loses a server without losing the others' topics, and has it back", async () => {
    await using cluster = await startCluster();
    for (const server of cluster.servers)
      await server.command("CONFIG", "SET", "cluster-require-full-coverage", "no");
    await using silent = faultProxy({ port: cluster.servers[0]!.port });
    silent.freeze();
    const broker = await connected({ cluster: [`redis://127.0.0.1:${silent.port}`, ...cluster.urls] });
    const topics = Array.from({ length: 12 }, (_, i) => `topic ${i}`);
    const heard = await Promise.all(topics.map((topic) => listen(broker, topic)));
    const lost = cluster.servers[1]!;
    const owners = await Promise.all(topics.map((topic) => ownerOf(cluster.servers, `harpia:{${topic}}`)));
    expect(new Set(owners).size).toBe(3);
    await lost.kill();
    await until(() => !broker.health().ok);
    for (const [index, topic] of topics.entries()) {
      const published = broker.publish(topic, "without", { history: HOUR });
      if (owners[index] === lost)
        await expect(published).rejects.toMatchObject({ code: "BROKER_UNAVAILABLE" });
      else {
        await published;
        await until(() => heard[index]!.payloads.includes("without"));
      }
    }
    const positions = await broker.positions(topics);
    expect(positions.map((position) => position === undefined)).toEqual(
      owners.map((owner) => owner === lost),
    );
    const gone = topics.filter((_, index) => owners[index] === lost);
    await expect(broker.positions(gone)).rejects.toMatchObject({ code: "BROKER_UNAVAILABLE" });
    await lost.start();
    for (const [index, topic] of topics.entries()) await untilHeard(broker, topic, heard[index]!, "with");
    await until(() => broker.health().ok);
  }, 120_000);

  it("given as one `url` says what to give instead", async () => {
    await using cluster = await startCluster();
    const broker = await connected({ url: cluster.urls[0]! });
    const messages = await Promise.all(
      Array.from({ length: 12 }, (_, i) => messageOf(broker.publish(`topic ${i}`, "x", { history: HOUR }))),
    );
    expect(messages.some((message) => message.includes("give `cluster` instead of `url`"))).toBe(true);
  }, 120_000);
});

it("works over a client of the user's own, which stays open", async () => {
  await using server = await startRedis();
  const client = createClient({ url: server.url });
  client.on("error", () => {});
  const broker = redis({ client, timeout: TIMEOUT });
  brokers.add(broker);
  expect(await messageOf(broker.publish("own", "x", { history: HOUR }))).toContain("call its connect()");
  await client.connect();
  expect(broker.health()).toEqual({ ok: true });
  const heard = await listen(broker, "own");
  await broker.publish("own", "a", { history: HOUR });
  await heard.until(1);
  await server.command("CLIENT", "KILL", "TYPE", "normal");
  await server.command("CLIENT", "KILL", "TYPE", "pubsub");
  await untilHeard(broker, "own", heard, "b");
  await broker.close();
  expect(await client.ping()).toBe("PONG");
  client.destroy();
}, 60_000);

it("keeps two prefixes apart, and puts nothing outside its own", async () => {
  await using server = await startRedis();
  const [one, two] = [
    await connected({ url: server.url, prefix: "one:" }),
    await connected({ url: server.url, prefix: "two:" }),
  ];
  const heard = await listen(one, "t");
  await two.publish("t", "two", { history: HOUR, idempotencyKey: "k" });
  await two.presence.put("t", "k", "o", "{}", 60_000);
  await one.publish("t", "one", { history: HOUR });
  await heard.until(1);
  expect(heard.payloads).toEqual(["one"]);
  const names = (await server.command("KEYS", "*")) as string[];
  expect(names.toSorted()).toEqual([
    "one:{t}l",
    "one:{t}m",
    "two:{t}k:k",
    "two:{t}l",
    "two:{t}m",
    "two:{t}p",
  ]);
  for (const name of names) expect(Number(await server.command("PTTL", name))).toBeGreaterThan(0);
}, 60_000);

test("options that cannot work are refused before anything connects, without showing a password", () => {
  const refused = (options: unknown): string => {
    try {
      redis(options as RedisOptions);
    } catch (error) {
      expect((error as { code?: string }).code).toBe("BROKER_INVALID_OPTION");
      return (error as Error).message;
    }
    throw new Error(`not refused: ${JSON.stringify(options)}`);
  };
  expect(refused({ host: "x" })).toContain('"host"');
  expect(refused({ url: "redis://a", cluster: ["redis://a"] })).toContain("url and cluster");
  expect(refused({ url: "http://user:s3cret@host" })).not.toContain("s3cret");
  expect(refused({ url: 6379 })).toContain('"url"');
  expect(refused({ cluster: [] })).toContain('"cluster"');
  expect(refused({ sentinel: { nodes: ["redis://a"] } })).toContain('"sentinel.name"');
  expect(refused({ sentinel: { name: "main", nodes: [] } })).toContain('"sentinel.nodes"');
  expect(refused({ client: {} })).toContain('"client"');
  expect(refused({ client: createCluster({ rootNodes: [{ url: "redis://a" }] }) })).toContain('"cluster"');
  expect(refused({ client: createClient(), connection: {} })).toContain('"connection"');
  expect(refused({ prefix: "a{b}" })).toContain('"prefix"');
  for (const timeout of [0, -1, NaN, "5", 1e9]) expect(refused({ timeout })).toContain('"timeout"');
  expect(refused({ durable: 1 })).toContain('"durable"');
  expect(refused(null)).toContain("object");
});

test("slots are those of Redis' specification", () => {
  expect(slotOf("123456789")).toBe(0x31c3);
  expect(slotOf("{user1000}.following")).toBe(slotOf("{user1000}.followers"));
  expect(slotOf("foo{}{bar}")).not.toBe(slotOf("bar"));
  expect(slotOf("foo{bar}{zap}")).toBe(slotOf("bar"));
});

async function messageOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "",
    (error: Error) => error.message,
  );
}

async function ownerOf(servers: readonly RedisServer[], key: string): Promise<RedisServer> {
  for (const server of servers) {
    const refused = await server.command("GET", key).then(
      () => false,
      () => true,
    );
    if (!refused) return server;
  }
  throw new Error(`nobody has ${key}`);
}
