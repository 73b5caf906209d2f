// What a client can send wrongly about topics: each is answered with a documented error, and nothing of it stays.

import { describe, expect, test } from "bun:test";
import { received } from "../support/channel.js";
import { call } from "../support/channel.js";
import { open } from "../support/raw.js";
import { serveTopics } from "../support/topics.js";

const INVALID_PARAMS = -32602;
const TOO_MUCH = -32002;

const names: [string, unknown][] = [
  ["no topic", undefined],
  ["a topic that is no string", 5],
  ["a topic that is a list", ["room/a"]],
  ["an empty one", ""],
  ["one that the contract does not have", "rooms/a"],
  ["one with a segment too many", "room/a/b"],
  ["one with a segment too few", "room"],
  ["an empty param", "room/"],
  ["a slash before", "/room/a"],
  ["another spelling of a letter", "room/%61"],
  ["hex digits in lower case", "room/a%2fb"],
  ["a character that is to be encoded", "room/a b"],
  ["a broken escape", "room/%zz"],
  ["an escape that is no UTF-8", "room/%ff"],
  ["another case", "Room/a"],
  ["the template itself", "room/:room"],
  ["257 bytes", `room/${"x".repeat(252)}`],
  ["257 bytes of few characters", `room/${"ü".repeat(126)}`],
  ["a megabyte", `room/${"x".repeat(1_000_000)}`],
  ["a name of Object's", "__proto__"],
  ["a name of the broker's", "t /topics room/a"],
];

describe("a name that is none of the contract's:", () => {
  for (const [what, topic] of names) {
    test(what, async () => {
      await using server = serveTopics();
      const client = await server.connect();
      for (const method of ["$/subscribe", "$/unsubscribe", "$/history", "$/presence"]) {
        expect(await client.ask(method, { topic })).toMatchObject({
          error: {
            code: INVALID_PARAMS,
            message: "Invalid params: there is no such topic, or it is spelled otherwise",
          },
        });
      }
      expect(server.sockets.all[0]!.raw.subscriptions).toEqual([]);
    });
  }

  test("256 bytes are a name", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    await client.result("$/subscribe", { topic: `room/${"x".repeat(251)}` });
  });
});

describe("params that mean nothing:", () => {
  const after = '"after" must be { epoch, offset }';
  const position = '"after" or "before" must be { epoch, offset }';
  const last = '"last" must be a whole number up to 1000000';
  const limit = '"limit" must be a whole number from 1';
  const good = { epoch: "e", offset: 1 };
  const rows: [string, object, string][] = [
    ["$/subscribe", { after: "e" }, after],
    ["$/subscribe", { after: null }, after],
    ["$/subscribe", { after: [] }, after],
    ["$/subscribe", { after: { epoch: 5, offset: 1 } }, after],
    ["$/subscribe", { after: { epoch: "e" } }, after],
    ["$/subscribe", { after: { epoch: "e", offset: "1" } }, after],
    ["$/subscribe", { after: { epoch: "e", offset: -1 } }, after],
    ["$/subscribe", { after: { epoch: "e", offset: 1.5 } }, after],
    ["$/subscribe", { after: { epoch: "e", offset: 1e300 } }, after],
    ["$/subscribe", { last: 1e9 }, last],
    ["$/subscribe", { last: -1 }, last],
    ["$/subscribe", { last: 0.5 }, last],
    ["$/subscribe", { last: "5" }, last],
    ["$/subscribe", { last: null }, last],
    ["$/history", {}, position],
    ["$/history", { after: 5 }, position],
    ["$/history", { before: { epoch: "e" } }, position],
    ["$/history", { after: good, before: good }, 'give "after" or "before", not both'],
    ["$/history", { after: good, limit: 0 }, limit],
    ["$/history", { after: good, limit: 1.5 }, limit],
    ["$/history", { after: good, limit: "1" }, limit],
  ];
  for (const [method, params, why] of rows) {
    test(`${method} ${JSON.stringify(params)}`, async () => {
      await using server = serveTopics();
      const client = await server.connect();
      if (method === "$/history") await client.result("$/subscribe", { topic: "room/a" });
      expect(await client.ask(method, { topic: "room/a", ...params })).toMatchObject({
        error: { code: INVALID_PARAMS, message: `Invalid params: ${why}` },
      });
      const left = method === "$/history" ? 1 : 0;
      expect(server.live.topic("room/:room", { room: "a" }).subscribers()).toBe(left);
    });
  }

  test("params that are a list", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    expect(await client.ask("$/subscribe", ["room/a"])).toMatchObject({ error: { code: INVALID_PARAMS } });
  });
});

describe("too much:", () => {
  test("the 1,001st subscription is refused; one of the others may be asked again, or given up for it", async () => {
    await using server = serveTopics();
    const client = await server.connect();
    for (let n = 0; n < 1_000; n++) await client.result("$/subscribe", { topic: `room/${n}` });
    expect(await client.ask("$/subscribe", { topic: "room/one-more" })).toMatchObject({
      error: { code: TOO_MUCH, message: "Too much: a connection has up to 1000 subscriptions" },
    });
    expect(server.live.topic("room/:room", { room: "one-more" }).subscribers()).toBe(0);
    await client.result("$/subscribe", { topic: "room/7" });
    await client.result("$/unsubscribe", { topic: "room/7" });
    await client.result("$/subscribe", { topic: "room/one-more" });
  });

  test("1,001 operations at once: the last is refused, the others are done", async () => {
    await using server = serveTopics();
    await using client = await open(server.port, "/topics?token=ada");
    for (let id = 0; id <= 1_000; id++) client.send(call(id, "$/subscribe", { topic: "club/slow" }));
    expect(await received(client)).toMatchObject({
      id: 1_000,
      error: { code: TOO_MUCH, message: "Too much: 1000 operations wait already" },
    });
    server.gates.open("slow");
    for (let id = 0; id < 1_000; id++) {
      expect(await received(client)).toMatchObject({ id, result: { offset: 0 } });
    }
  });
});

test("a connection that was wrong in every way goes on, and others do not notice", async () => {
  await using server = serveTopics();
  const [wrong, other] = [await server.connect(), await server.connect()];
  for (const client of [wrong, other]) await client.result("$/subscribe", { topic: "room/a" });
  for (const [, topic] of names) await wrong.ask("$/subscribe", { topic });
  await server.live.topic("room/:room", { room: "a" }).publish({ text: "hello" });
  for (const client of [wrong, other]) expect(await client.told()).toMatchObject({ params: { offset: 1 } });
});
