// One process of a cluster under test. Tells its parent the port, and stops gracefully when it is asked to.

import { harpia } from "harpia";
import { redis } from "harpia/redis";
import { Topics } from "../../src/channel/topics.js";
import { rooms } from "./room.js";

/** What `Cluster` gives it, as JSON. */
export interface NodeSettings {
  redis: string;
  timeout: number;
  durable: boolean;
  pollMs: number;
}

const { redis: url, timeout, durable, pollMs } = JSON.parse(process.env.NODE_SETTINGS!) as NodeSettings;
Topics.pollMs = pollMs;
let slowest = 0;

const app = harpia({ logger: false, broker: redis({ url, timeout, durable }) });
const live = app.channel(rooms, { upgrade: (_request, { token }) => ({ name: token ?? "" }) }).implement({
  methods: {
    async say({ room, id, key }) {
      const since = performance.now();
      try {
        const options = key === undefined ? {} : { idempotencyKey: key };
        return await live.topic("room/:room", { room }).publish({ id }, options);
      } finally {
        slowest = Math.max(slowest, performance.now() - since);
      }
    },
    async look({ room }) {
      const topic = live.topic("room/:room", { room });
      const [{ epoch, offset, messages }, members] = await Promise.all([
        topic.history({ last: 1 }),
        topic.members(),
      ]);
      const told = slowest;
      slowest = 0;
      return {
        position: { epoch, offset },
        newest: messages[0]?.data.id,
        members: members.map(({ key }) => key),
        slowest: told,
        ok: app.health().ok,
      };
    },
  },
  topics: {
    "room/:room": {
      subscribe: "public",
      presence: {
        key: (_params, { ws }) => ws.data.name,
        info: (_params, { ws }) => ({ name: ws.data.name }),
        max: 5_000,
      },
    },
  },
});

const server = app.listen({ hostname: "127.0.0.1", port: 0 });
process.send!({ port: server.port });
process.on("message", (message) => {
  if (message === "stop") void app.stop({ restart: true, timeout: 10_000 }).then(() => process.exit(0));
});
process.on("disconnect", () => process.exit(1));
