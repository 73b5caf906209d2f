// Presence of several processes over a real Redis that goes, comes back empty, and is reached by one process later than
// by another: nobody who is there all the time may be told to have left.

import { afterEach, beforeEach, expect } from "bun:test";
import { redis } from "harpia/redis";
import type { Broker } from "../../src/broker/broker.js";
import { Topics } from "../../src/channel/topics.js";
import { type FaultProxy, faultProxy } from "../../src/testing/fault-proxy.js";
import { until } from "../support/app.js";
import { testWith } from "../support/programs.js";
import { type RedisServer, startRedis } from "../support/redis.js";
import { type Page, serveTopics, type Speaker, type TopicServer } from "../support/topics.js";

const it = testWith("redis-server");
const TIMEOUT = 1_000;
const polled = Topics.pollMs;
/** The leases of the lobby. */
const KEY = "harpia:{p /topics lobby/a}p";
const lobby = { topic: "lobby/a" };
const member = (name: string) => ({ key: name, info: { name } });

interface Told {
  join?: { key: string }[];
  leave?: string[];
}

// What is tried here may not need a poll, but where leases are to end.
beforeEach(() => void (Topics.pollMs = 60_000));
afterEach(() => void (Topics.pollMs = polled));

async function serve(port: number, broker = redisAt(port)): Promise<TopicServer> {
  const server = serveTopics({ broker });
  await until(() => server.app.health().ok, "Redis");
  return server;
}

function redisAt(port: number): Broker {
  return redis({ url: `redis://127.0.0.1:${port}`, timeout: TIMEOUT });
}

/** Subscribes somebody, and gives the members that the answer has. */
async function enter(server: TopicServer, name: string): Promise<Speaker & { members: string[] }> {
  const speaker = await server.connect(name);
  const { members } = await speaker.result<Page>("$/subscribe", lobby);
  return Object.assign(speaker, { members: members!.map(({ key }) => key).sort() });
}

/** As if the machine in between were gone. */
function sever(way: FaultProxy): void {
  way.target = undefined;
  way.cut();
}

/** Who holds a lease. */
async function stored(store: RedisServer): Promise<string[]> {
  return ((await store.command("HKEYS", KEY)) as string[]).sort();
}

/** Whom a client knows of. */
function shown({ frames }: Speaker): string[] {
  const keys = new Set<string>();
  for (const { params, result } of frames.all) {
    const { members = [] } = (result ?? {}) as Partial<Page>;
    const { join = [], leave = [] } = (params ?? {}) as Told;
    for (const { key } of [...members, ...join]) keys.add(key);
    for (const key of leave) keys.delete(key);
  }
  return [...keys].sort();
}

/** Everybody of whom a client was told that they left, so far. */
function left({ frames }: Speaker): unknown[] {
  return frames.all.flatMap(({ method, params }) => (method === "$/presence" && params?.leave) || []);
}

/** Reads until a join of this member is told. */
async function joins(client: Speaker, name: string): Promise<void> {
  while (!(await next(client)).join?.some(({ key }) => key === name));
}

/** Reads until it is told that this member left. */
async function leaves(client: Speaker, name: string): Promise<void> {
  while (!(await next(client)).leave?.includes(name));
}

async function next(client: Speaker): Promise<Told> {
  return (await client.told("$/presence")).params as Told;
}

it("a Redis that comes back empty takes nobody away, whoever reaches it first", async () => {
  await using store = await startRedis();
  await using way = faultProxy({ port: store.port });
  await using near = await serve(store.port);
  await using far = await serve(way.port);
  const reader = await enter(near, "ghost");
  await enter(near, "ada");
  await enter(far, "bob");
  await joins(reader, "bob");

  await store.kill();
  sever(way);
  await until(() => !near.app.health().ok && !far.app.health().ok, "both to miss Redis");
  await store.start();
  await until(() => near.app.health().ok, "the first one to be back");
  // The other one has not been there yet.
  expect(far.app.health().ok).toBe(false);
  expect((await enter(near, "ghost")).members).toEqual(["ada", "bob"]);
  expect(await reader.result("$/presence", lobby)).toMatchObject({ members: [member("ada"), member("bob")] });

  way.target = { port: store.port };
  await until(() => far.app.health().ok, "the other one to be back");
  const keys = async () =>
    (await near.live.topic("lobby/:room", { room: "a" }).members())
      .map(({ key }) => key)
      .sort()
      .join();
  while ((await keys()) !== "ada,bob") await Bun.sleep(10);
  const cyd = await enter(far, "cyd");
  expect(cyd.members).toEqual(["ada", "bob", "cyd"]);
  await joins(reader, "cyd");
  expect(left(reader)).toEqual([]);
}, 60_000);

it("a member that moves to another process is there, however late the first one is to say that it left", async () => {
  await using store = await startRedis();
  const slow = redisAt(store.port);
  await using first = await serve(store.port, slow);
  await using second = await serve(store.port);
  const reader = await enter(second, "ghost");
  const ada = await enter(first, "ada");
  await joins(reader, "ada");

  const late = Promise.withResolvers<void>();
  const publish = slow.publish.bind(slow);
  slow.publish = async (topic, ...rest) => {
    await late.promise;
    return await publish(topic, ...rest);
  };
  void ada.ask("$/unsubscribe", lobby);
  const topic = second.live.topic("lobby/:room", { room: "a" });
  while ((await topic.members()).length > 0) await Bun.sleep(5);
  await enter(second, "ada");
  late.resolve();
  await enter(first, "bob");
  await joins(reader, "bob");
  expect(shown(reader)).toEqual(["ada", "bob"]);
}, 60_000);

it("what was missed while a process did not hear of anybody is told as soon as it does", async () => {
  await using store = await startRedis();
  await using way = faultProxy({ port: store.port });
  await using near = await serve(way.port);
  await using far = await serve(store.port);
  const reader = await enter(near, "ghost");
  const ada = await enter(far, "ada");
  await enter(far, "bob");
  await joins(reader, "bob");
  sever(way);
  await until(() => !near.app.health().ok, "Redis to be missed");
  await ada.result("$/unsubscribe", lobby);
  expect(left(reader)).toEqual([]);
  way.target = { port: store.port };
  await leaves(reader, "ada");
  expect(shown(reader)).toEqual(["bob"]);
}, 60_000);

it("where all lose Redis for longer than a lease, nobody has left", async () => {
  Topics.pollMs = 300;
  await using store = await startRedis();
  await using one = faultProxy({ port: store.port });
  await using two = faultProxy({ port: store.port });
  await using near = await serve(one.port);
  await using far = await serve(two.port);
  const reader = await enter(near, "ghost");
  const [ada, bob] = [await enter(near, "ada"), await enter(far, "bob")];
  await joins(reader, "bob");

  for (const way of [one, two]) sever(way);
  while (Number(await store.command("EXISTS", KEY)) > 0) await Bun.sleep(20);
  one.target = { port: store.port };
  while ((await stored(store)).join() !== "ada") await Bun.sleep(10);
  expect((await enter(near, "ghost")).members).toEqual(["ada", "bob"]);
  two.target = { port: store.port };
  while ((await stored(store)).join() !== "ada,bob") await Bun.sleep(10);
  await bob.result("$/unsubscribe", lobby);
  await leaves(reader, "bob");
  for (const each of [reader, ada, bob]) expect(left(each).filter((key) => key !== "bob")).toEqual([]);
  expect(left(reader)).toEqual(["bob"]);
}, 60_000);

it("where a topic's leases were evicted, who renews first takes nobody for gone", async () => {
  await using store = await startRedis();
  await using way = faultProxy({ port: store.port });
  await using near = await serve(way.port);
  await using far = await serve(store.port);
  const reader = await enter(near, "ghost");
  await enter(near, "ada");
  await enter(far, "bob");
  await joins(reader, "bob");
  sever(way);
  await until(() => !near.app.health().ok, "Redis to be missed");
  await store.command("DEL", KEY);
  way.target = { port: store.port };
  await until(() => near.app.health().ok, "Redis");
  while ((await stored(store)).join() !== "ada") await Bun.sleep(10);
  await enter(far, "cyd");
  await joins(reader, "cyd");
  expect(left(reader)).toEqual([]);
}, 60_000);

it("a process that alone loses Redis for longer than a lease takes its members with it, and brings them back", async () => {
  Topics.pollMs = 300;
  await using store = await startRedis();
  await using way = faultProxy({ port: store.port });
  await using near = await serve(store.port);
  await using far = await serve(way.port);
  const [ada, bob] = [await enter(near, "ada"), await enter(far, "bob")];
  await joins(bob, "ada");
  sever(way);
  await leaves(ada, "bob");
  way.target = { port: store.port };
  await joins(ada, "bob");
  await enter(near, "cyd");
  for (const each of [ada, bob]) await joins(each, "cyd");
  expect(shown(ada)).toEqual(["ada", "bob", "cyd"]);
  expect(left(bob)).toEqual([]);
}, 60_000);

it("a Redis that is full, and takes no leases, takes nobody away", async () => {
  Topics.pollMs = 300;
  await using store = await startRedis();
  await using near = await serve(store.port);
  await using far = await serve(store.port);
  const reader = await enter(near, "ghost");
  await enter(near, "ada");
  await enter(far, "bob");
  await joins(reader, "bob");
  await store.command("CONFIG", "SET", "maxmemory", "1");
  while (Number(await store.command("EXISTS", KEY)) > 0) await Bun.sleep(20);
  expect((await enter(near, "ghost")).members).toEqual(["ada", "bob"]);
  await store.command("CONFIG", "SET", "maxmemory", "0");
  while ((await stored(store)).join() !== "ada,bob") await Bun.sleep(10);
  await enter(far, "cyd");
  await joins(reader, "cyd");
  expect(left(reader)).toEqual([]);
}, 60_000);

it("who left while Redis was away, or with it, is gone after a lease", async () => {
  Topics.pollMs = 600;
  await using store = await startRedis();
  await using near = await serve(store.port);
  const reader = await enter(near, "ghost");
  const ada = await enter(near, "ada");
  const cyd = await enter(near, "cyd");
  await joins(reader, "cyd");
  await store.kill();
  await until(() => !near.app.health().ok, "Redis to be missed");
  await ada.result("$/unsubscribe", lobby);
  await store.start();
  await until(() => near.app.health().ok, "Redis");
  while ((await stored(store)).join() !== "cyd") await Bun.sleep(10);
  // Who says so is believed at once.
  await cyd.result("$/unsubscribe", lobby);
  await leaves(reader, "cyd");
  expect(shown(reader)).toEqual(["ada"]);
  await leaves(reader, "ada");
  expect(shown(reader)).toEqual([]);
}, 60_000);
