// What a publication costs on Redis, counted: CPU of this process and of redis-server, round trips, memory. The numbers
// of docs/scale.md. `bun bench/redis-cost.ts`; needs redis-server on the PATH.

import { redis } from "harpia/redis";
import { startRedis } from "../test/support/redis.js";

const SECONDS = 4;
const history = { size: 1_000_000, ttl: 3600 };
const payload = JSON.stringify({ from: "ada", text: "x".repeat(100) });

const server = await startRedis();
const broker = redis({ url: server.url });
await broker.subscribe("room", () => {}, { history: true });
await publish(64); // warms up

for (const inFlight of [1, 64]) await report(`${inFlight} in flight`, () => publish(inFlight));
const others = Array.from({ length: 9 }, () => redis({ url: server.url }));
for (const other of others) await other.subscribe("room", () => {}, { history: true });
await report("64 in flight, ten processes' feeds in this one", () => publish(64));

const empty = (await usage()).memory;
const TOPICS = 20_000;
for (let topic = 0; topic < TOPICS; topic += 100)
  await Promise.all(
    Array.from({ length: 100 }, (_, index) => broker.publish(`topic ${topic + index}`, payload, { history })),
  );
const filled = (await usage()).memory;
console.log(`${Math.round((filled - empty) / TOPICS)} bytes in Redis for a topic with one message`);
const before = await usage();
const messages = await publish(64, "other room");
const bytes = ((await usage()).memory - before.memory) / messages;
console.log(`${Math.round(bytes)} bytes in Redis for a message of ${payload.length} bytes`);

await Promise.all([broker, ...others].map((each) => each.close()));
await server[Symbol.asyncDispose]();

async function publish(inFlight: number, topic = "room"): Promise<number> {
  const end = performance.now() + SECONDS * 1_000;
  let count = 0;
  const one = async (): Promise<void> => {
    for (; performance.now() < end; count++) await broker.publish(topic, payload, { history });
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  return count;
}

async function report(what: string, work: () => Promise<number>): Promise<void> {
  const [before, began] = [await usage(), process.cpuUsage()];
  const count = await work();
  const [after, used] = [await usage(), process.cpuUsage(began)];
  const here = ((used.user + used.system) / count).toFixed(1);
  const there = (((after.cpu - before.cpu) * 1e6) / count).toFixed(1);
  const reads = ((after.reads - before.reads) / count).toFixed(2);
  console.log(
    `${what}: ${Math.round(count / SECONDS)} publications/s; ${here} µs of CPU here, ${there} µs in Redis, ${reads} reads of its socket for each`,
  );
}

async function usage(): Promise<{ cpu: number; reads: number; memory: number }> {
  const text = String(await server.command("INFO", "everything"));
  const field = (name: string): number => Number(new RegExp(`^${name}:([\\d.]+)`, "m").exec(text)![1]);
  return {
    cpu: field("used_cpu_sys") + field("used_cpu_user"),
    reads: field("total_reads_processed"),
    memory: field("used_memory"),
  };
}
