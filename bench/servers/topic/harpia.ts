// harpia: a topic with history, on the memory broker; or on Redis, if REDIS_URL says where that is.

import { harpia } from "harpia";
import { redis } from "harpia/redis";
import { contract, MESSAGE } from "../../topic.js";

const { REDIS_URL } = process.env;
const app = harpia(REDIS_URL ? { broker: redis({ url: REDIS_URL }) } : {});
const live = app.channel(contract).implement({
  methods: { post: async (message) => void (await live.topic("room").publish(message)) },
  topics: { room: { subscribe: "public" }, "own/:name": { subscribe: "public" } },
});

/** `/fill/100` publishes so many; `/spread/10/100` ten to each of 100 topics. `/gc` collects. */
const routes = {
  "/fill/:count": async ({ params }: Bun.BunRequest<"/fill/:count">) => {
    for (let count = 0; count < Number(params.count); count++) await live.topic("room").publish(MESSAGE);
    return new Response();
  },
  "/spread/:count/:topics": async ({ params }: Bun.BunRequest<"/spread/:count/:topics">) => {
    for (let name = 0; name < Number(params.topics); name++) {
      const topic = live.topic("own/:name", { name: `${name}` });
      for (let count = 0; count < Number(params.count); count++) await topic.publish(MESSAGE);
    }
    return new Response();
  },
  "/gc": () => {
    Bun.gc(true);
    return new Response();
  },
};
console.log(app.listen({ port: 0, hostname: "127.0.0.1", routes }).port);
