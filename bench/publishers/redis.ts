// harpia over Redis: publishes to a topic with history through its channel, and hands what comes back over pub/sub to
// the one subscriber that it has.

import { harpia } from "harpia";
import { redis } from "harpia/redis";
import { turns } from "../clients/turns.js";
import { contract, MESSAGE } from "../topic.js";

const app = harpia({ broker: redis({ url: process.env.REDIS_URL }) });
const live = app.channel(contract).implement({
  methods: { post() {} },
  topics: { room: { subscribe: "public" } },
});
const { port } = app.listen({ port: 0, hostname: "127.0.0.1" });
const reader = Bun.spawn(["taskset", "-c", process.env.OTHER_CORE!, process.execPath, "loads/reader.ts"], {
  env: { ...process.env, PORT: `${port}`, PROTOCOL: "harpia" },
  stdout: "pipe",
  stderr: "inherit",
});
await reader.stdout.getReader().read();
const room = live.topic("room");
await turns(() => room.publish(MESSAGE));
