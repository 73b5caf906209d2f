// What nobody would notice by itself: that nothing follows, and yet something is missing.

import { expect, test } from "bun:test";
import { type Broker, harpia } from "harpia";
import { defineChannel } from "harpia/contract";
import { testApp } from "harpia/testing";
import { z } from "zod";
import type { Deliver } from "../../src/broker/broker.js";
import { MemoryBroker } from "../../src/broker/memory.js";
import { until } from "../support/app.js";

const contract = defineChannel({
  path: "/tails",
  topics: {
    "room/:room": {
      message: z.number(),
      history: { size: 5_000, ttl: 60 },
      presence: z.object({ tab: z.string() }),
    },
  },
});

function serve(broker: Broker, key?: string) {
  const app = harpia({ broker, logger: false });
  const live = app.channel(contract, { upgrade: (_request, { token }) => ({ tab: token ?? "" }) }).implement({
    topics: {
      "room/:room": {
        subscribe: "public",
        presence: {
          info: (_params, { ws }) => ({ tab: ws.data.tab }),
          key: (_params, { ws }) => key ?? ws.id,
        },
      },
    },
  });
  return { app, topic: live.topic("room/:room", { room: "a" }) };
}

/** Loses the first delivery, and then keeps answers back until it is told to. */
class HoledBroker extends MemoryBroker {
  readonly gate = Promise.withResolvers<void>();
  #isWhole = false;

  override subscribe(topic: string, deliver: Deliver, options: { history: boolean }) {
    const holed: Deliver = (publication) => {
      if (this.#isWhole || !options.history) deliver(publication);
      this.#isWhole ||= options.history;
    };
    return super.subscribe(topic, holed, options);
  }

  override async read(...args: Parameters<MemoryBroker["read"]>) {
    const page = await super.read(...args);
    if (this.#isWhole) await this.gate.promise;
    return page;
  }
}

test("a process that misses more than may wait while it reads the log reads that too, and nothing has to follow", async () => {
  const broker = new HoledBroker();
  const { app, topic } = serve(broker);
  await using t = await testApp(app);
  const room = t.connect(contract).subscribe("room/:room", { room: "a" });
  const handed: number[] = [];
  room.on("message", ({ data }) => handed.push(data));
  await until(() => room.state === "live");
  for (let number = 1; number <= 1_500; number++) await topic.publish(number);
  broker.gate.resolve();
  await until(() => handed.length === 1_500, "all of them");
  expect(handed).toEqual(Array.from({ length: 1_500 }, (_, index) => index + 1));
});

test("of a member with two connections, what the one that stays said is told when the other goes", async () => {
  const { app } = serve(new MemoryBroker(), "ada");
  await using t = await testApp(app);
  const [first, second] = [t.connect(contract, { token: "first" }), t.connect(contract, { token: "second" })];
  const room = first.subscribe("room/:room", { room: "a" });
  const tabs = (): string => room.presence.members.map(({ info }) => info.tab).join();
  await until(() => tabs() === "first");
  second.subscribe("room/:room", { room: "a" });
  await until(() => tabs() === "second");
  second.close();
  await until(() => tabs() === "first");
});
