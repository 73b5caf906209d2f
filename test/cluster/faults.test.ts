// What goes wrong in a cluster, one by one, on real processes and a real Redis, while everybody goes on writing: topics
// keep what they promise, and all heals by itself. Several at a time: `npm run test:chaos:cluster`.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { testWith } from "../support/programs.js";
import { Crowd } from "./crowd.js";
import { check, scenarios } from "./faults.js";
import { Cluster } from "./machines.js";

const withRedis = testWith("redis-server");
let cluster: Cluster | undefined;
let crowd: Crowd | undefined;

beforeAll(async () => {
  if (withRedis !== test) return; // skipped
  cluster = await Cluster.start();
  crowd = new Crowd(cluster);
  await crowd.converge();
});

afterAll(async () => {
  await crowd?.[Symbol.asyncDispose]();
  await cluster?.[Symbol.asyncDispose]();
});

for (const [name, scenario] of Object.entries(scenarios)) {
  withRedis(name, async () => expect(await check(name, scenario, cluster!, crowd!)).toEqual([]), 60_000);
}
