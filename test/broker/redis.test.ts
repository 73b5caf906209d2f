// The Redis broker keeps what broker.ts promises: on one server, and on a cluster of three.

import { afterAll, beforeAll, test } from "bun:test";
import { redis, type RedisOptions } from "../../src/broker/redis.js";
import { testWith } from "../support/programs.js";
import { type RedisCluster, type RedisServer, startCluster, startRedis, until } from "../support/redis.js";
import { conformance } from "./conformance.js";

const it = testWith("redis-server");

if (it === test) {
  let server: RedisServer;
  let cluster: RedisCluster;
  beforeAll(async () => {
    [server, cluster] = await Promise.all([startRedis(), startCluster()]);
  }, 60_000);
  afterAll(async () => {
    await Promise.all([server[Symbol.asyncDispose](), cluster[Symbol.asyncDispose]()]);
  });

  const connected = async (options: RedisOptions) => {
    const broker = redis(options);
    await until(() => broker.health().ok);
    return broker;
  };
  const standalone = () => connected({ url: server.url });
  conformance("redis", standalone, { peer: standalone });
  const sharded = () => connected({ cluster: cluster.urls });
  conformance("redis cluster", sharded, { peer: sharded });
} else {
  it("keeps what broker.ts promises", () => {});
}
