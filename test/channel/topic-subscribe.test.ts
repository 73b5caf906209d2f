// `$/subscribe`, `$/unsubscribe` and `$/history` by a bare client: who is let in, where one may begin, and pages.

import { describe, expect, test } from "bun:test";
import { until } from "../support/app.js";
import { call, received } from "../support/channel.js";
import { open } from "../support/raw.js";
import { type Page, serveTopics, type TopicServer } from "../support/topics.js";

const room = { room: "a" };

async function fill(server: TopicServer, count: number, text = (n: number) => `m${n}`): Promise<void> {
  const topic = server.live.topic("room/:room", room);
  for (let n = 1; n <= count; n++) await topic.publish({ text: text(n) });
}

const offsets = ({ messages }: Page): number[] => messages.map(({ offset }) => offset);
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

describe("who may subscribe", () => {
  test("a public topic lets in whoever has the connection", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    expect(await client.result("$/subscribe", { topic: "room/a" })).toEqual({
      epoch: expect.any(String),
      offset: 0,
      recovered: false,
      messages: [],
      complete: true,
    });
  });

  test("true lets in; false, undefined and anything else that is not true do not", async () => {
    await using server = serveTopics();
    const ada = await server.connect("ada");
    const bob = await server.connect("bob");
    expect(await ada.result("$/subscribe", { topic: "club/x" })).toMatchObject({ offset: 0 });
    for (const topic of ["club/x", "club/undefined", "club/truthy"]) {
      expect(await bob.ask("$/subscribe", { topic })).toMatchObject({
        error: { code: -32001, message: "Not allowed to subscribe" },
      });
    }
    expect(server.live.topic("club/:name", { name: "x" }).subscribers()).toBe(1);
    await server.live.topic("club/:name", { name: "x" }).publish({ text: "members only" });
    expect(await ada.told()).toMatchObject({ params: { offset: 1 } });
    await bob.ask("nothing");
    expect(bob.untaken).toEqual([]);
  });

  test("an error of the contract says why, with its data", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    expect(await client.ask("$/subscribe", { topic: "club/full" })).toMatchObject({
      error: { code: -32000, message: "FULL", data: { name: "FULL", data: { most: 7 } } },
    });
  });

  test("what else it throws stays on the server, under a reference that the log has", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    for (const topic of ["club/broken", "club/unknown-error"]) {
      const { error } = await client.ask("$/subscribe", { topic });
      expect(error).toEqual({
        code: -32603,
        message: "Internal error",
        data: { ref: server.log.lines.at(-1)!.fields.ref },
      });
      expect(server.log.lines.at(-1)).toMatchObject({
        level: "error",
        message: "the topic club/:name failed",
        fields: { route: "/topics" },
      });
    }
  });

  test("one that never settles is TIMEOUT after handshakeTimeout, and what comes after it is answered", async () => {
    await using server = serveTopics({ handshakeTimeout: 50 });
    const client = await server.connect("ada");
    const asked = client.ask("$/subscribe", { topic: "club/never" });
    const left = client.ask("$/unsubscribe", { topic: "club/never" });
    expect(await asked).toMatchObject({ error: { code: -32003, message: "Not decided within 50 ms" } });
    expect(await left).toMatchObject({ error: { code: -32602 } });
  });

  test("an unsubscribe that comes while it is being decided is done after it", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    const joined = client.ask("$/subscribe", { topic: "club/slow" });
    const left = client.ask("$/unsubscribe", { topic: "club/slow" });
    await server.gates.begun.until(1);
    server.gates.open("slow");
    expect(await joined).toMatchObject({ result: { offset: 0 } });
    expect(await left).toMatchObject({ result: true });
    expect(server.live.topic("club/:name", { name: "slow" }).subscribers()).toBe(0);
  });

  test("a connection that goes while it is being decided leaves nothing behind", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    client.raw.send(call(1, "$/subscribe", { topic: "club/slow" }));
    await server.gates.begun.until(1);
    await client[Symbol.asyncDispose]();
    await until(() => server.live.connections.size === 0);
    server.gates.open("slow");
    await Bun.sleep(1);
    expect(server.live.topic("club/:name", { name: "slow" }).subscribers()).toBe(0);
  });

  test("subscribing again to a topic is not decided again, and reads anew", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    server.gates.open("slow");
    await client.result("$/subscribe", { topic: "club/slow" });
    await server.live.topic("club/:name", { name: "slow" }).publish({ text: "one" });
    expect(await client.result("$/subscribe", { topic: "club/slow", last: 5 })).toMatchObject({
      offset: 1,
      messages: [{ offset: 1, data: { text: "one" } }],
    });
    expect(server.gates.begun.all).toHaveLength(1);
    expect(server.live.topic("club/:name", { name: "slow" }).subscribers()).toBe(1);
  });
});

describe("where a subscription begins", () => {
  test("without after or last: at the newest, with nothing of the past", async () => {
    await using server = serveTopics();
    await fill(server, 3);
    const client = await server.connect();
    const page = await client.result("$/subscribe", { topic: "room/a" });
    expect(page).toMatchObject({ offset: 3, recovered: false, messages: [], complete: true });
  });

  test("last: after the newest so many, or as many as there are", async () => {
    await using server = serveTopics();
    await fill(server, 3);
    const client = await server.connect();
    const two = await client.result("$/subscribe", { topic: "room/a", last: 2 });
    expect(two).toMatchObject({
      offset: 3,
      recovered: false,
      complete: true,
      messages: [
        { offset: 2, data: { text: "m2" } },
        { offset: 3, data: { text: "m3" } },
      ],
    });
    expect(offsets(await client.result("$/subscribe", { topic: "room/a", last: 1_000_000 }))).toEqual([
      1, 2, 3,
    ]);
  });

  test("after: what came since, and recovered; with last it is the same", async () => {
    await using server = serveTopics();
    await fill(server, 5);
    const client = await server.connect();
    const { epoch } = await client.result("$/subscribe", { topic: "room/a" });
    for (const last of [undefined, 1]) {
      const page = await client.result("$/subscribe", {
        topic: "room/a",
        after: { epoch, offset: 3 },
        last,
      });
      expect(page).toMatchObject({ epoch, offset: 5, recovered: true, complete: true });
      expect(offsets(page)).toEqual([4, 5]);
    }
    const newest = { topic: "room/a", after: { epoch, offset: 5 } };
    expect(await client.result("$/subscribe", newest)).toMatchObject({ recovered: true, messages: [] });
    const beginning = { topic: "room/a", after: { epoch, offset: 0 } };
    expect(offsets(await client.result("$/subscribe", beginning))).toEqual([1, 2, 3, 4, 5]);
  });

  test("not recovered: another epoch, an offset of the future, what has been trimmed; the newest `last` come instead", async () => {
    await using server = serveTopics();
    const topic = server.live.topic("short/:room", room);
    for (const text of ["1", "2", "3", "4", "5"]) await topic.publish({ text });
    const client = await server.connect();
    const { epoch } = await client.result("$/subscribe", { topic: "short/a" });
    const lost = [
      { epoch: "another", offset: 5 },
      { epoch, offset: 6 },
      { epoch, offset: 1 },
      { epoch, offset: 0 },
    ];
    for (const after of lost) {
      expect(await client.result("$/subscribe", { topic: "short/a", after })).toEqual({
        epoch: epoch!,
        offset: 5,
        recovered: false,
        messages: [],
        complete: true,
      });
      const page = await client.result("$/subscribe", { topic: "short/a", after, last: 2 });
      expect(page).toMatchObject({ recovered: false, offset: 5 });
      expect(offsets(page)).toEqual([4, 5]);
    }
    const edge = await client.result("$/subscribe", { topic: "short/a", after: { epoch, offset: 2 } });
    expect(edge.recovered).toBe(true);
    expect(offsets(edge)).toEqual([3, 4, 5]);
  });

  test("a topic without history has no position, and no past", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const after = { epoch: "any", offset: 5 };
    const expected = { recovered: false, messages: [], complete: true };
    expect(await client.result("$/subscribe", { topic: "plain/a" })).toEqual(expected);
    expect(await client.result("$/subscribe", { topic: "plain/a", last: 5, after })).toEqual(expected);
    expect(await client.ask("$/history", { topic: "plain/a", after })).toMatchObject({
      error: { code: -32602, message: "Invalid params: this topic has no history" },
    });
  });

  test("what is published while it subscribes is in the answer or comes as a message: never neither", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const topic = server.live.topic("room/:room", room);
    let publishing = true;
    const publisher = (async () => {
      while (publishing) {
        await topic.publish({ text: "x" });
        await new Promise(setImmediate);
      }
    })();
    for (let round = 0; round < 50; round++) {
      const before = client.frames.all.length;
      const page = await client.result("$/subscribe", { topic: "room/a", last: 5 });
      const seen = new Set(offsets(page));
      const base = page.offset!;
      while (![...seen].some((offset) => offset >= base + 3)) {
        const frames = client.frames.all.slice(before);
        for (const { params } of frames) if (params?.offset !== undefined) seen.add(params.offset as number);
        await new Promise(setImmediate);
      }
      const first = Math.min(...seen);
      expect([...seen].sort((a, b) => a - b)).toEqual(range(first, Math.max(...seen)));
      await client.result("$/unsubscribe", { topic: "room/a" });
    }
    publishing = false;
    await publisher;
  });
});

describe("pages", () => {
  test("hold 100 messages at most; `complete` says whether that was all", async () => {
    await using server = serveTopics();
    await fill(server, 250);
    const client = await server.connect();
    let page = await client.result("$/subscribe", { topic: "room/a", last: 250 });
    const { epoch } = page;
    const read = offsets(page);
    const sizes = [page.messages.length];
    while (!page.complete) {
      const after = { epoch, offset: read.at(-1) };
      page = await client.result("$/history", { topic: "room/a", after });
      expect(page.recovered).toBe(true);
      sizes.push(page.messages.length);
      read.push(...offsets(page));
    }
    expect(sizes).toEqual([100, 100, 50]);
    expect(read).toEqual(range(1, 250));
  });

  test("hold 64 KiB at most, and at least one message", async () => {
    await using server = serveTopics();
    await fill(server, 4, (n) => "x".repeat(n === 2 ? 100_000 : 40_000));
    const client = await server.connect();
    let page = await client.result("$/subscribe", { topic: "room/a", last: 4 });
    const sizes = [page.messages.length];
    while (!page.complete) {
      const after = { epoch: page.epoch, offset: offsets(page).at(-1) };
      page = await client.result("$/history", { topic: "room/a", after });
      sizes.push(page.messages.length);
    }
    expect(sizes).toEqual([1, 1, 1, 1]);
  });

  test("before: what precedes a position, oldest first; limit: fewer", async () => {
    await using server = serveTopics();
    await fill(server, 10);
    const client = await server.connect();
    const { epoch } = await client.result("$/subscribe", { topic: "room/a" });
    const history = (params: object): Promise<Page> =>
      client.result("$/history", { topic: "room/a", ...params });
    const two = await history({ before: { epoch, offset: 5 }, limit: 2 });
    expect(two).toMatchObject({ recovered: true, complete: false, offset: 10 });
    expect(offsets(two)).toEqual([3, 4]);
    const rest = await history({ before: { epoch, offset: 3 }, limit: 1_000_000 });
    expect(offsets(rest)).toEqual([1, 2]);
    expect(rest.complete).toBe(true);
    const after = await history({ after: { epoch, offset: 2 }, limit: 3 });
    expect(offsets(after)).toEqual([3, 4, 5]);
    expect(after.complete).toBe(false);
    for (const position of [
      { epoch: "another", offset: 5 },
      { epoch, offset: 99 },
    ]) {
      for (const end of ["after", "before"]) {
        expect(await history({ [end]: position })).toMatchObject({
          recovered: false,
          messages: [],
          offset: 10,
        });
      }
    }
  });

  test("are for subscribers", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const refused = { error: { code: -32001, message: "Subscribe to the topic first" } };
    const after = { epoch: "any", offset: 1 };
    expect(await client.ask("$/history", { topic: "room/a", after })).toMatchObject(refused);
    expect(await client.ask("$/presence", { topic: "lobby/a" })).toMatchObject(refused);
  });
});

describe("leaving", () => {
  test("after an unsubscribe nothing of the topic comes any more, and the topic counts one fewer", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    const topic = server.live.topic("room/:room", room);
    await client.result("$/subscribe", { topic: "room/a" });
    expect(topic.subscribers()).toBe(1);
    expect(await client.result<boolean>("$/unsubscribe", { topic: "room/a" })).toBe(true);
    expect(topic.subscribers()).toBe(0);
    await topic.publish({ text: "unheard" });
    await client.ask("nothing");
    expect(client.untaken).toEqual([]);
    expect(await client.ask("$/unsubscribe", { topic: "room/a" })).toMatchObject({
      error: { code: -32602, message: "Invalid params: not subscribed" },
    });
  });

  test("a kicked client is told, gets nothing more, and may come back if it is let in", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    const [ws] = server.sockets.all;
    expect(await server.live.kick(ws!, "room/:room", room, "Enough")).toBe(true);
    expect(await client.told()).toMatchObject({
      method: "$/unsubscribed",
      params: { topic: "room/a", code: -32001, message: "Enough" },
    });
    await server.live.topic("room/:room", room).publish({ text: "unheard" });
    expect(await server.live.kick(ws!, "room/:room", room)).toBe(false);
    expect(await client.result("$/subscribe", { topic: "room/a" })).toMatchObject({ offset: 1 });
    expect(client.untaken).toEqual([]);
  });

  test("a kick while a subscription is being decided ends it right after", async () => {
    await using server = serveTopics();
    const client = await server.connect("ada");
    const joined = client.ask("$/subscribe", { topic: "club/slow" });
    await server.gates.begun.until(1);
    const kicked = server.live.kick(server.sockets.all[0]!, "club/:name", { name: "slow" });
    server.gates.open("slow");
    expect(await kicked).toBe(true);
    expect(await joined).toMatchObject({ result: { offset: 0 } });
    expect(await client.told()).toMatchObject({
      method: "$/unsubscribed",
      params: { message: "Removed from the topic" },
    });
    expect(client.frames.all.at(-1)!.method).toBe("$/unsubscribed");
  });

  test("a closed connection is in no topic", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: "room/a" });
    await client.result("$/subscribe", { topic: "plain/a" });
    await client[Symbol.asyncDispose]();
    const topics = [
      server.live.topic("room/:room", room),
      server.live.topic("plain/:name", { name: "a" }),
    ] as const;
    await until(() => topics.every((topic) => topic.subscribers() === 0));
  });
});

test("operations on one topic are done and answered in the order in which they were asked", async () => {
  await using server = serveTopics();
  await using client = await open(server.port, "/topics?token=ada");
  const methods = ["subscribe", "unsubscribe", "subscribe", "unsubscribe", "unsubscribe"];
  for (const [id, method] of methods.entries()) client.send(call(id, `$/${method}`, { topic: "club/slow" }));
  client.send(call("other", "$/subscribe", { topic: "room/a" }));
  // Another topic does not wait for it.
  expect(await received(client)).toMatchObject({ id: "other", result: { offset: 0 } });
  server.gates.open("slow");
  for (const id of [0, 2]) {
    expect(await received(client)).toMatchObject({ id, result: { offset: 0 } });
    expect(await received(client)).toMatchObject({ id: id + 1, result: true });
  }
  expect(await received(client)).toMatchObject({ id: 4, error: { code: -32602 } });
});

test("a notification is obeyed, and not answered", async () => {
  await using server = serveTopics();
  const client = await server.connect();
  client.raw.send(JSON.stringify({ jsonrpc: "2.0", method: "$/subscribe", params: { topic: "room/a" } }));
  await until(() => server.live.topic("room/:room", room).subscribers() === 1);
  await client.ask("nothing");
  expect(client.frames.all).toHaveLength(1);
});
