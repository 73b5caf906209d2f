// The yardstick: the same script by EVALSHA, those of one tick in one pipeline, on the same Redis client; and a
// subscription whose messages are taken apart. Nothing is checked, and nobody is handed anything.

import { createClient } from "redis";
import { header } from "../../src/broker/redis-feed.js";
import { Keys, PUBLISH } from "../../src/broker/redis-scripts.js";
import { turns } from "../clients/turns.js";
import { contract, MESSAGE } from "../topic.js";

const client = await createClient({ url: process.env.REDIS_URL! }).connect();
const subscriber = await client.duplicate().connect();
const { channel, meta, log } = new Keys("bench:", "room");
const { size, ttl } = contract.topics.room.history;

let newest = 0;
await subscriber.subscribe(channel, (message) => {
  const end = message.indexOf("\n");
  const [, offset] = message.slice(0, end).split(" ");
  if (message.length > end) newest = Number(offset);
});
await client.sendCommand(["SCRIPT", "LOAD", PUBLISH.source]);
const head = ["EVALSHA", PUBLISH.sha, "2", meta, log, "0", "PUBLISH", channel, header(undefined)];
const tail = [`${size}`, `${ttl * 1000}`];
await turns(async () => {
  const reply = await client.sendCommand([...head, JSON.stringify(MESSAGE), ...tail]);
  const [, offset] = String(reply).split(" ");
  if (!(Number(offset) > 0) || newest < 0) throw new Error(`Redis said ${String(reply)}`);
});
