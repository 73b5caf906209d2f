// `client.subscribe`, end to end over real sockets: what an app is handed, and what it is told when the network, the
// server or its own reader fails.

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, RpcError, type Subscription, type SubscriptionState } from "harpia/client";
import { sqlite } from "harpia/sqlite";
import { testApp } from "harpia/testing";
import { BrokerError } from "../../src/broker/broker.js";
import { MemoryBroker } from "../../src/broker/memory.js";
import { until } from "../support/app.js";
import { Events } from "../support/log.js";
import { topicApp, topics } from "../support/topics.js";

const room = { room: "a" };
/** Clients wait for a random time before they connect anew. */
const RECONNECTING_MS = 30_000;
const text = (n: number) => ({ text: String(n) });

/** Everything that a subscription says, in order: offsets, resets, states. */
function heard<T, Info>(subscription: Subscription<T, Info>): Events<unknown> {
  const all = new Events<unknown>();
  subscription.on("message", ({ offset, data }) => all.push(offset ?? data));
  subscription.on("reset", () => all.push("reset"));
  subscription.on("state", (state) => all.push(state));
  return all;
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

async function live(subscription: { readonly state: SubscriptionState }): Promise<void> {
  await until(() => subscription.state === "live", "a live subscription");
}

/** A WebSocket that keeps what is sent by it. */
function keeping(sent: { method: string; params: unknown }[]): typeof WebSocket {
  return class extends WebSocket {
    override send(data: string): void {
      sent.push(JSON.parse(data) as (typeof sent)[number]);
      super.send(data);
    }
  };
}

describe("a subscription", () => {
  test("hands over messages with `for await`, in order, the last ones first", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    for (let n = 1; n <= 5; n++) await topic.publish(text(n));
    const subscription = t.connect(topics).subscribe("room/:room", room, { last: 2 });
    expect(subscription.topic).toBe("room/a");
    const seen: unknown[] = [];
    for await (const message of subscription) {
      seen.push(message);
      if (message.offset === 5) for (let n = 6; n <= 8; n++) await topic.publish(text(n));
      if (message.offset === 8) break;
    }
    expect(seen).toEqual([4, 5, 6, 7, 8].map((n) => ({ data: text(n), offset: n })));
  });

  test("and with `on`; says its state and its position", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const subscription = t.connect(topics).subscribe("room/:room", room);
    const all = heard(subscription);
    expect(subscription.state).toBe("pending");
    expect(subscription.position).toBeUndefined();
    await all.until(1);
    const { epoch } = await made.live.topic("room/:room", room).publish(text(1));
    await made.live.topic("room/:room", room).publish(text(2));
    expect(await all.until(3)).toEqual(["live", 1, 2]);
    expect(subscription.position).toEqual({ epoch, offset: 2 });
  });

  test("keeps what comes before anybody listens", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    await topic.publish(text(1));
    const client = t.connect(topics);
    const [one, two] = [1, 2].map(() => client.subscribe("room/:room", room, { last: 9 }));
    await live(one!);
    await topic.publish(text(2));
    await until(() => one!.position?.offset === 2 && two!.position?.offset === 2);
    const all = heard(one!);
    // Not at once: the listener may need what `on` returns.
    expect(all.all).toEqual([]);
    expect(await all.until(2)).toEqual([1, 2]);
    const offsets: unknown[] = [];
    for await (const { offset } of two!) if (offsets.push(offset) === 2) break;
    expect(offsets).toEqual([1, 2]);
  });

  test("begins after a position that the app kept", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    const positions = [];
    for (let n = 1; n <= 5; n++) positions.push(await topic.publish(text(n)));
    const all = heard(t.connect(topics).subscribe("room/:room", room, { after: positions[1]! }));
    await topic.publish(text(6));
    expect(await all.until(5)).toEqual(["live", 3, 4, 5, 6]);
  });

  test("reads as many pages as it takes", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    for (let n = 1; n <= 550; n++) await topic.publish(text(n));
    const all = heard(t.connect(topics).subscribe("room/:room", room, { last: 1_000 }));
    await topic.publish(text(551));
    expect((await all.until(552)).slice(1)).toEqual(range(1, 551));
  });

  test("resets when its position means nothing any more, before any message, and goes on with the last", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("short/:room", room);
    const first = await topic.publish(text(1));
    for (let n = 2; n <= 9; n++) await topic.publish(text(n));
    const client = t.connect(topics);
    const afters = [{ epoch: "of yesterday", offset: 5 }, first, { epoch: first.epoch, offset: 99 }];
    for (const after of afters) {
      const all = heard(client.subscribe("short/:room", room, { after, last: 2 }));
      expect(await all.until(4)).toEqual(["reset", "live", 8, 9]);
      const without = heard(client.subscribe("short/:room", room, { after }));
      expect(await without.until(2)).toEqual(["reset", "live"]);
    }
  });

  test("without history has no offsets, and no position", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const subscription = t.connect(topics).subscribe("plain/:name", { name: "x" });
    const all = heard(subscription);
    await all.until(1);
    await made.live.topic("plain/:name", { name: "x" }).publish(text(1));
    expect(await all.until(2)).toEqual(["live", text(1)]);
    expect(subscription.position).toBeUndefined();
    expect(await subscription.history()).toEqual({ messages: [], complete: true });
  });

  test("passes over what its own connection is left out of", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const subscription = t.connect(topics).subscribe("room/:room", room);
    const all = heard(subscription);
    await all.until(1);
    const topic = made.live.topic("room/:room", room);
    await topic.publish(text(1), { except: made.sockets.all[0]! });
    await topic.publish(text(2));
    expect(await all.until(2)).toEqual(["live", 2]);
    expect(subscription.position!.offset).toBe(2);
  });

  test(
    "on a topic of which only the latest matters gets the newest, not what led to it",
    async () => {
      const made = topicApp();
      await using t = await testApp(made.app);
      const topic = made.live.topic("latest");
      for (let n = 1; n <= 5; n++) await topic.publish(n);
      const client = t.connect(topics);
      const subscription = client.subscribe("latest");
      const all = heard(subscription);
      expect(await all.until(2)).toEqual(["live", 5]);
      t.network(client).cut();
      await until(() => subscription.state === "pending");
      for (let n = 6; n <= 9; n++) await topic.publish(n);
      expect(await all.until(5)).toEqual(["live", 5, "pending", "live", 9]);
    },
    RECONNECTING_MS,
  );
});

describe("two subscriptions to one topic", () => {
  test("share one `$/subscribe`, and one `$/unsubscribe` when the last has gone", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const sent: { method: string; params: unknown }[] = [];
    const client = t.connect(topics, { WebSocket: keeping(sent) });
    const [one, two] = [1, 2].map(() => client.subscribe("room/:room", room, { last: 1 }));
    const [first, second] = [heard(one!), heard(two!)];
    await second.until(1);
    const topic = made.live.topic("room/:room", room);
    await topic.publish(text(1));
    await first.until(2);
    one!.unsubscribe();
    await topic.publish(text(2));
    expect(await second.until(3)).toEqual(["live", 1, 2]);
    expect(first.all).toEqual(["live", 1, "ended"]);
    expect(topic.subscribers()).toBe(1);
    two!.unsubscribe();
    await until(() => topic.subscribers() === 0);
    const about = sent.filter(({ method }) => method.includes("subscribe"));
    expect(about.map(({ method }) => method)).toEqual(["$/subscribe", "$/unsubscribe"]);
  });

  test("each begin where they want, and have their own position", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    for (let n = 1; n <= 3; n++) await topic.publish(text(n));
    const client = t.connect(topics);
    const all = heard(client.subscribe("room/:room", room, { last: 3 }));
    const none = heard(client.subscribe("room/:room", room));
    await all.until(4);
    await none.until(1);
    await topic.publish(text(4));
    expect(await all.until(5)).toEqual(["live", 1, 2, 3, 4]);
    expect(await none.until(2)).toEqual(["live", 4]);
  });
});

describe("the end of a subscription", () => {
  test("by unsubscribe: the iterator hands out what has come, then ends; twice is once", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    for (let n = 1; n <= 3; n++) await topic.publish(text(n));
    const subscription = t.connect(topics).subscribe("room/:room", room, { last: 3 });
    await until(() => subscription.position?.offset === 3);
    subscription.unsubscribe();
    subscription.unsubscribe();
    const offsets: unknown[] = [];
    for await (const { offset } of subscription) offsets.push(offset);
    expect(offsets).toEqual([1, 2, 3]);
    expect(subscription.state).toBe("ended");
    expect(subscription.error).toBeUndefined();
    await until(() => topic.subscribers() === 0);
  });

  test("by break, unless somebody else listens; by `using`", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    await topic.publish(text(1));
    const client = t.connect(topics);
    const shared = client.subscribe("room/:room", room, { last: 1 });
    shared.on("message", () => {});
    const alone = client.subscribe("room/:room", room, { last: 1 });
    {
      using scoped = client.subscribe("room/:room", room, { last: 1 });
      for await (const _ of alone) break;
      expect(alone.state).toBe("ended");
      await live(scoped);
      const iterator = shared[Symbol.asyncIterator]();
      await topic.publish(text(2));
      await iterator.next();
      await iterator.return!();
      expect(shared.state).toBe("live");
    }
    expect(topic.subscribers()).toBe(1);
    shared.unsubscribe();
    await until(() => topic.subscribers() === 0);
  });

  test("by a refusal: `error` says why, and an iterator throws it", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const client = t.connect(topics, { token: "bob" });
    const forbidden = client.subscribe("club/:name", { name: "x" });
    const full = client.subscribe("club/:name", { name: "full" });
    const read = async () => {
      for await (const _ of forbidden);
    };
    await expect(read()).rejects.toMatchObject({ reason: "FORBIDDEN" });
    await until(() => full.state === "ended");
    expect(full.error).toBeInstanceOf(RpcError);
    expect(full.error).toMatchObject({ reason: "CONTRACT", error: "FULL", data: { most: 7 } });
    // One that has ended stays so; another may do better.
    expect(client.subscribe("room/:room", room).state).toBe("pending");
  });

  test("by options that mean nothing, as INVALID_PARAMS; params that make no name throw at once", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const client = t.connect(topics);
    for (const options of [
      { last: -1 },
      { last: 1e9 },
      { after: 5 as never },
      { after: { epoch: "e" } as never },
    ]) {
      const subscription = client.subscribe("room/:room", room, options);
      await until(() => subscription.state === "ended");
      expect(subscription.error).toMatchObject({ reason: "INVALID_PARAMS" });
    }
    expect(() => client.subscribe("room/:room", {} as never)).toThrow('needs the param "room"');
    expect(() => client.subscribe("room/:room", { room: "x".repeat(252) })).toThrow("more than 256 bytes");
  });

  test(
    "by the server's kick: it is told, keeps what has come, and does not come back by itself",
    async () => {
      const made = topicApp();
      await using t = await testApp(made.app);
      const topic = made.live.topic("room/:room", room);
      const client = t.connect(topics);
      const subscription = client.subscribe("room/:room", room);
      await live(subscription);
      await topic.publish(text(1));
      await made.live.kick(made.sockets.all[0]!, "room/:room", room, "Enough");
      const offsets: unknown[] = [];
      const read = async () => {
        for await (const { offset } of subscription) offsets.push(offset);
      };
      await expect(read()).rejects.toMatchObject({ reason: "FORBIDDEN", message: "Enough" });
      expect(offsets).toEqual([1]);
      expect(subscription.state).toBe("ended");
      t.network(client).cut();
      await until(() => client.state !== "open");
      await until(() => client.state === "open");
      await client.call("nothing");
      expect(topic.subscribers()).toBe(0);
    },
    RECONNECTING_MS,
  );

  test("with the client: by `close()` without an error, else with one", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const client = t.connect(topics);
    const subscription = client.subscribe("room/:room", room);
    await live(subscription);
    client.close();
    expect(subscription.state).toBe("ended");
    expect(subscription.error).toBeUndefined();
    expect(client.subscribe("room/:room", room).state).toBe("ended");
    const banned = t.connect(topics);
    const other = banned.subscribe("room/:room", room);
    await live(other);
    made.sockets.all[1]!.close(4403);
    await until(() => other.state === "ended");
    expect(other.error).toMatchObject({ reason: "CLOSED" });
    expect(banned.subscribe("room/:room", room).error).toMatchObject({ reason: "CLOSED" });
  });

  test(
    "is not brought about by an error that passes: it asks again",
    async () => {
      const made = topicApp({ handshakeTimeout: 50 });
      await using t = await testApp(made.app);
      const subscription = t.connect(topics, { token: "ada" }).subscribe("club/:name", { name: "slow" });
      await made.gates.begun.until(2);
      expect(subscription.state).toBe("pending");
      made.gates.open("slow");
      await live(subscription);
    },
    RECONNECTING_MS,
  );
});

describe("history()", () => {
  test("scrolls back from the oldest message that was handed over, page by page", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    for (let n = 1; n <= 250; n++) await topic.publish(text(n));
    const subscription = t.connect(topics).subscribe("room/:room", room, { last: 20 });
    const all = heard(subscription);
    await all.until(21);
    const pages: [unknown, unknown, boolean][] = [];
    for (let complete = false; !complete;) {
      const page = await subscription.history();
      pages.push([page.messages[0]!.offset, page.messages.at(-1)!.offset, (complete = page.complete)]);
    }
    expect(pages).toEqual([
      [131, 230, false],
      [31, 130, false],
      [1, 30, true],
    ]);
    expect(await subscription.history()).toEqual({ messages: [], complete: true });
    const { messages } = await subscription.history({ before: 100, limit: 2 });
    expect(messages).toEqual([98, 99].map((n) => ({ data: text(n), offset: n })));
    // It reads; it does not hand over.
    expect(all.all).toHaveLength(21);
  });

  test("waits for the first answer; without one it begins at the newest", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    await made.live.topic("room/:room", room).publish(text(1));
    const { messages, complete } = await t.connect(topics).subscribe("room/:room", room).history();
    expect(messages).toEqual([{ data: text(1), offset: 1 }]);
    expect(complete).toBe(true);
  });
});

describe("presence", () => {
  test("has the members, and tells of each change", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const ada = t.connect(topics, { token: "ada" }).subscribe("lobby/:room", room);
    const changes = new Events<string>();
    const stop = ada.presence.on("change", (members) => changes.push(members.map(({ key }) => key).join()));
    expect(ada.presence.members).toEqual([]);
    const bob = t.connect(topics, { token: "bob" });
    await until(() => ada.presence.count === 1);
    const there = bob.subscribe("lobby/:room", room);
    await until(() => ada.presence.count === 2);
    expect(ada.presence.members).toEqual([
      { key: "ada", info: { name: "ada" } },
      { key: "bob", info: { name: "bob" } },
    ]);
    there.unsubscribe();
    await until(() => ada.presence.count === 1);
    expect(changes.all.at(-1)).toBe("ada");
    expect(changes.all).toContain("ada,bob");
    stop();
    const heardSoFar = changes.all.length;
    bob.subscribe("lobby/:room", room);
    await until(() => ada.presence.count === 2);
    expect(changes.all).toHaveLength(heardSoFar);
  });

  test(
    "is true again after a connection that broke, whatever happened meanwhile",
    async () => {
      const made = topicApp();
      await using t = await testApp(made.app);
      const client = t.connect(topics, { token: "ada" });
      const ada = client.subscribe("lobby/:room", room);
      const bob = t.connect(topics, { token: "bob" }).subscribe("lobby/:room", room);
      await until(() => ada.presence.count === 2 && bob.presence.count === 2);
      t.network(client).freeze();
      const cyd = t.connect(topics, { token: "cyd" }).subscribe("lobby/:room", room);
      await live(cyd);
      bob.unsubscribe();
      await until(() => cyd.presence.members.every(({ key }) => key !== "bob"));
      t.network(client).cut();
      t.network(client).thaw();
      await until(
        () =>
          ada.presence.members
            .map(({ key }) => key)
            .sort()
            .join() === "ada,cyd",
      );
    },
    RECONNECTING_MS,
  );

  test("beyond what the server tells of is a number, and members again below it", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const clients = ["ada", "bob", "cyd", "dan"].map((token) => t.connect(topics, { token }));
    const all = clients.map((client) => client.subscribe("lobby/:room", room));
    const { presence } = all[0]!;
    await until(() => presence.count === 4 && presence.members.length === 0);
    all[3]!.unsubscribe();
    await until(() => presence.members.length === 3);
    expect(presence.count).toBe(3);
  });

  test("is asked for again, after a while, where the broker was away", async () => {
    const broker = new MemoryBroker();
    const made = topicApp({ broker });
    await using t = await testApp(made.app);
    const clients = ["ada", "bob", "cyd", "dan"].map((token) => t.connect(topics, { token }));
    const all = clients.map((client) => client.subscribe("lobby/:room", room));
    const { presence } = all[0]!;
    await until(() => presence.count === 4 && presence.members.length === 0);
    const list = broker.presence.list.bind(broker.presence);
    let failures = 0;
    broker.presence.list = (topic) =>
      failures++ < 5 ? Promise.reject(new BrokerError("BROKER_UNAVAILABLE", "away")) : list(topic);
    all[3]!.unsubscribe();
    await until(() => presence.members.length === 3);
    expect(failures).toBeGreaterThan(5);
    expect(all[0]!.state).toBe("live");
  });
});

describe("nothing is lost, doubled or out of order", () => {
  test("for a slow iterator: beyond 1,000 unread it lets go, and reads on from the log", async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("room/:room", room);
    const sent: { method: string; params: unknown }[] = [];
    const client = t.connect(topics, { WebSocket: keeping(sent) });
    const subscription = client.subscribe("room/:room", room);
    const iterator = subscription[Symbol.asyncIterator]();
    await live(subscription);
    for (let n = 1; n <= 1_900; n++) await topic.publish(text(n));
    await client.call("nothing"); // all has come
    expect(subscription.position!.offset).toBeLessThan(1_100);
    expect(sent.some(({ method }) => method === "$/history")).toBe(false);
    for (let n = 1; n <= 1_900; n++) expect((await iterator.next()).value?.offset).toBe(n);
    expect(sent.some(({ method }) => method === "$/history")).toBe(true);
    await topic.publish(text(1_901));
    expect((await iterator.next()).value).toEqual({ data: text(1_901), offset: 1_901 });
  });

  test(
    "for a client whose network stands still: it is told that it fell behind, and catches up",
    async () => {
      const made = topicApp();
      await using t = await testApp(made.app, { ws: { backpressureLimit: 64 * 1024 } });
      const client = t.connect(topics);
      const all = heard(client.subscribe("room/:room", room));
      const newest = heard(client.subscribe("latest"));
      await newest.until(1);
      await all.until(1);
      t.network(client).freeze();
      const ws = made.sockets.all[0]!;
      const topic = made.live.topic("room/:room", room);
      let n = 0;
      while (ws.raw.subscriptions.length > 0 && n < 900) {
        await topic.publish({ text: "x".repeat(60_000) });
        n++;
        await new Promise(setImmediate);
      }
      expect(ws.raw.subscriptions).toEqual([]);
      for (let count = 0; count < 50; count++) {
        await topic.publish(text(++n));
        await made.live.topic("latest").publish(count);
      }
      t.network(client).thaw();
      await until(() => all.all.at(-1) === n && newest.all.at(-1) === 50, "all that was published");
      expect(all.all).toEqual(["live", ...range(1, n)]);
      expect(newest.all).toEqual(["live", 50]);
    },
    RECONNECTING_MS,
  );

  test(
    "over connections that break, again and again",
    async () => {
      const made = topicApp();
      await using t = await testApp(made.app);
      const topic = made.live.topic("room/:room", room);
      const client = t.connect(topics);
      const all = heard(client.subscribe("room/:room", room));
      await all.until(1);
      let n = 0;
      for (let cut = 0; cut < 3; cut++) {
        for (let count = 0; count < 20; count++) await topic.publish(text(++n));
        t.network(client).cut({ reset: cut % 2 === 0 });
        await until(() => client.state === "reconnecting");
        for (let count = 0; count < 20; count++) await topic.publish(text(++n));
        await until(() => all.all.at(-1) === n, "all that was published");
      }
      expect(all.all.filter((what) => typeof what === "number")).toEqual(range(1, n));
      expect(all.all).not.toContain("reset");
    },
    RECONNECTING_MS,
  );

  test(
    "over a server that restarts, on SQLite: not even a reset",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "harpia-"));
      try {
        const path = join(folder, "topics.db");
        const first = topicApp({ broker: sqlite(path) });
        await using t = await testApp(first.app);
        const client = t.connect(topics);
        const all = heard(client.subscribe("room/:room", room));
        await all.until(1);
        for (let n = 1; n <= 5; n++) await first.live.topic("room/:room", room).publish(text(n));
        await all.until(6);
        await t.app.stop({ timeout: 1_000 });
        const second = topicApp({ broker: sqlite(path) });
        await second.live.topic("room/:room", room).publish(text(6));
        await t.restart(second.app);
        await second.live.topic("room/:room", room).publish(text(7));
        await until(() => all.all.at(-1) === 7);
        expect(all.all).toEqual(["live", 1, 2, 3, 4, 5, "pending", "live", 6, 7]);
        client.close();
        await t.app.stop({ timeout: 1_000 });
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
    RECONNECTING_MS,
  );

  test(
    "over a server that restarts, in memory: one reset, then all that is new",
    async () => {
      const first = topicApp();
      await using t = await testApp(first.app);
      const client = t.connect(topics);
      const newest = heard(client.subscribe("latest"));
      const all = heard(client.subscribe("room/:room", room, { last: 5 }));
      await all.until(1);
      await newest.until(1);
      await first.live.topic("latest").publish(5);
      for (let n = 1; n <= 5; n++) await first.live.topic("room/:room", room).publish(text(n));
      await all.until(6);
      const second = topicApp();
      await second.live.topic("room/:room", room).publish(text(1));
      await t.restart(second.app);
      await until(() => all.all.at(-1) === 1);
      await second.live.topic("room/:room", room).publish(text(2));
      await until(() => all.all.at(-1) === 2);
      expect(all.all).toEqual(["live", 1, 2, 3, 4, 5, "pending", "reset", "live", 1, 2]);
      await second.live.topic("latest").publish(7);
      await newest.until(6);
      expect(newest.all).toEqual(["live", 1, "pending", "reset", "live", 1]);
    },
    RECONNECTING_MS,
  );
});

test(
  "at most once, without history: what is published while it is away, or not read, is gone",
  async () => {
    const made = topicApp();
    await using t = await testApp(made.app);
    const topic = made.live.topic("plain/:name", { name: "x" });
    const client = t.connect(topics);
    const subscription = client.subscribe("plain/:name", { name: "x" });
    const iterator = subscription[Symbol.asyncIterator]();
    const all = heard(subscription);
    await all.until(1);
    t.network(client).cut();
    await until(() => subscription.state === "pending");
    await topic.publish({ text: "unheard" });
    await live(subscription);
    await topic.publish({ text: "heard" });
    await all.until(4);
    expect(all.all).toEqual(["live", "pending", "live", { text: "heard" }]);
    // An iterator keeps 1,000 and a bit; a listener hears all.
    for (let n = 1; n <= 1_500; n++) await topic.publish(text(n));
    await all.until(1_504);
    const read: unknown[] = [];
    subscription.unsubscribe();
    for (let next = await iterator.next(); !next.done; next = await iterator.next())
      read.push(next.value.data);
    expect(read.length).toBeGreaterThanOrEqual(1_000);
    expect(read.length).toBeLessThan(1_100);
  },
  RECONNECTING_MS,
);

test("a client that was never connected tells so by its state alone, and ends in peace", async () => {
  const client = connect(topics, { url: "ws://127.0.0.1:9" });
  const subscription = client.subscribe("room/:room", room);
  expect(subscription.state).toBe("pending");
  subscription.unsubscribe();
  expect(subscription.state).toBe("ended");
  client.close();
});
