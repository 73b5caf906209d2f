// harpia: a topic with history, on the memory broker; or on Redis, if REDIS_URL says where that is.

import { harpia } from "harpia";
import { redis } from "harpia/redis";
import { contract, MESSAGE } from "../../topic.js";

const { REDIS_URL } = process.env;
const app = harpia(REDIS_URL ? { broker: redis({ url: REDIS_URL }) } : {});
const live = app.channel(contract).implement({
  methods: { post: async (message) => void (await live.topic("room").publish(message)) },
  topics: { room: { subscribe: "public" } },
});

/** `/fill/100` publishes so many. */
const routes = {
  "/fill/:count": async ({ params }: Bun.BunRequest<"/fill/:count">) => {
    for (let count = 0; count < Number(params.count); count++) await live.topic("room").publish(MESSAGE);
    return new Response();
  },
};
console.log(app.listen({ port: 0, hostname: "127.0.0.1", routes }).port);
