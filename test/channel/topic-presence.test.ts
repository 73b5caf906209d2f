// Who is in a topic, by bare clients: members by key, joins and leaves, beyond `max` only their number, and leaving.

import { describe, expect, test } from "bun:test";
import { call } from "../support/channel.js";
import { type Page, serveTopics, type Speaker } from "../support/topics.js";

const lobby = { topic: "lobby/a" };
const member = (name: string) => ({ key: name, info: { name } });

/** Reads `$/presence` until the client knows of exactly these, as a client would keep them. */
async function converges(client: Speaker, page: Page, names: string[]): Promise<void> {
  const known = new Map((page.members ?? []).map(({ key, info }) => [key, info]));
  const wanted = [...names].sort();
  while ([...known.keys()].sort().join() !== wanted.join()) {
    const { params } = await client.told("$/presence");
    const { join = [], leave = [] } = params as { join?: { key: string; info: unknown }[]; leave?: string[] };
    for (const { key, info } of join) known.set(key, info);
    for (const key of leave) known.delete(key);
  }
  for (const name of names) expect(known.get(name)).toEqual({ name });
}

describe("members", () => {
  test("are in the answer, the subscriber itself included; joins and leaves follow", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    const first = await ada.result("$/subscribe", lobby);
    expect(first).toMatchObject({ members: [member("ada")], count: 1 });
    const second = await bob.result("$/subscribe", lobby);
    expect(second).toMatchObject({ members: [member("ada"), member("bob")], count: 2 });
    await converges(ada, first, ["ada", "bob"]);
    await bob.result("$/unsubscribe", lobby);
    expect(await ada.told()).toMatchObject({
      method: "$/presence",
      params: { topic: "lobby/a", leave: ["bob"] },
    });
    expect(await ada.result("$/presence", lobby)).toEqual({ members: [member("ada")], count: 1 } as never);
  });

  test("leave when their connection closes, or breaks", async () => {
    await using server = serveTopics();
    const [ada, bob, eve] = [
      await server.connect("ada"),
      await server.connect("bob"),
      await server.connect("eve"),
    ];
    const page = await ada.result("$/subscribe", lobby);
    for (const client of [bob, eve]) await client.result("$/subscribe", lobby);
    await converges(ada, page, ["ada", "bob", "eve"]);
    eve.raw.reset();
    await bob[Symbol.asyncDispose]();
    await converges(ada, { ...page, members: ["ada", "bob", "eve"].map(member) }, ["ada"]);
  });

  test("leave when they are kicked", async () => {
    await using server = serveTopics();
    const ada = await server.connect("ada");
    const bob = await server.connect("bob");
    const page = await ada.result("$/subscribe", lobby);
    await bob.result("$/subscribe", lobby);
    await converges(ada, page, ["ada", "bob"]);
    await server.live.kick(server.sockets.all[1]!, "lobby/:room", { room: "a" });
    expect(await ada.told()).toMatchObject({ params: { leave: ["bob"] } });
  });

  test("are kicked by their key: all of their connections are told, and nobody else", async () => {
    await using server = serveTopics();
    const [ada, tab, eve] = [
      await server.connect("ada"),
      await server.connect("ada"),
      await server.connect("eve"),
    ];
    for (const client of [eve, ada, tab]) await client.result("$/subscribe", lobby);
    expect(await server.live.kick({ key: "ada" }, "lobby/:room", { room: "a" }, "Enough")).toBe(true);
    for (const client of [ada, tab])
      expect((await client.told("$/unsubscribed")).params).toMatchObject({ message: "Enough" });
    expect(await eve.result("$/presence", lobby)).toEqual({ members: [member("eve")], count: 1 } as never);
    expect(server.live.topic("lobby/:room", { room: "a" }).subscribers()).toBe(1);
    expect(await server.live.kick({ key: "ada" }, "lobby/:room", { room: "a" })).toBe(false);
  });

  test("of one key are one: it leaves with the last of its connections", async () => {
    await using server = serveTopics();
    const [ada, tab, eve] = [
      await server.connect("ada"),
      await server.connect("ada"),
      await server.connect("eve"),
    ];
    const page = await eve.result("$/subscribe", lobby);
    for (const client of [ada, tab]) await client.result("$/subscribe", lobby);
    await converges(eve, page, ["eve", "ada"]);
    await ada.result("$/unsubscribe", lobby);
    const still = await eve.result("$/presence", lobby);
    expect(still.count).toBe(2);
    await tab.result("$/unsubscribe", lobby);
    expect(await eve.told()).toMatchObject({ params: { leave: ["ada"] } });
  });

  test("without a key each connection is one of its own", async () => {
    await using server = serveTopics();
    const [one, two] = [await server.connect("ada"), await server.connect("ada")];
    await one.result("$/subscribe", { topic: "stage/a" });
    const { members } = await two.result("$/subscribe", { topic: "stage/a" });
    expect(members).toHaveLength(2);
    expect(members!.map(({ key }) => key).sort()).toEqual(server.sockets.all.map(({ id }) => id).sort());
  });

  test("info undefined: subscribed, and no member", async () => {
    await using server = serveTopics();
    const [ghost, ada] = [await server.connect("ghost"), await server.connect("ada")];
    expect(await ghost.result("$/subscribe", lobby)).toMatchObject({ members: [], count: 0 });
    expect(await ada.result("$/subscribe", lobby)).toMatchObject({ members: [member("ada")] });
    expect(await ghost.told()).toMatchObject({ params: { join: [member("ada")] } });
    await server.live.topic("lobby/:room", { room: "a" }).publish({ text: "boo" });
    expect(await ghost.told()).toMatchObject({ params: { data: { text: "boo" } } });
  });

  test("that come and go within a moment are told as what is left of it", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    await ada.result("$/subscribe", lobby);
    await ada.told("$/presence");
    for (const method of ["subscribe", "unsubscribe", "subscribe", "unsubscribe", "subscribe"])
      bob.raw.send(call(method, `$/${method}`, lobby));
    await bob.frames.until(5);
    expect((await ada.told()).params).toEqual({ topic: "lobby/a", join: [member("bob")] });
    expect(ada.untaken).toEqual([]);
  });

  test("are a topic's own", async () => {
    await using server = serveTopics();
    const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
    await ada.result("$/subscribe", lobby);
    expect(await bob.result("$/subscribe", { topic: "lobby/b" })).toMatchObject({ members: [member("bob")] });
    expect(await bob.ask("$/presence", { topic: "room/a" })).toMatchObject({
      error: { code: -32602, message: "Invalid params: this topic has no presence" },
    });
  });
});

test("beyond `max` only the number is told; below it, members again", async () => {
  await using server = serveTopics();
  const names = ["ada", "bob", "cyd", "dan"];
  const clients: Speaker[] = [];
  for (const name of names) clients.push(await server.connect(name));
  const pages: Page[] = [];
  for (const client of clients) pages.push(await client.result("$/subscribe", lobby));
  expect(pages[2]).toMatchObject({ members: names.slice(0, 3).map(member), count: 3 });
  expect(pages[3]).not.toHaveProperty("members");
  expect(pages[3]!.count).toBe(4);
  const [ada] = clients;
  let told = await ada!.told("$/presence");
  while (told.params!.count === undefined) told = await ada!.told("$/presence");
  expect(told.params).toEqual({ topic: "lobby/a", count: 4 });
  expect(await ada!.result("$/presence", lobby)).toEqual({ count: 4 } as never);
  expect(await server.live.topic("lobby/:room", { room: "a" }).members()).toHaveLength(4);
  await clients[3]!.result("$/unsubscribe", lobby);
  expect(await ada!.told()).toMatchObject({ params: { leave: ["dan"] } });
  expect(await ada!.result("$/presence", lobby)).toEqual({
    members: names.slice(0, 3).map(member),
    count: 3,
  } as never);
});

test("members that do not fit into a frame are TOO_LARGE, and the subscription is none", async () => {
  await using server = serveTopics({}, { ws: { maxPayloadLength: 2_048 } });
  const stage = { topic: "stage/a" };
  for (const name of ["a", "b"]) {
    const client = await server.connect(name.repeat(600));
    await client.result("$/subscribe", stage);
  }
  const third = await server.connect("c".repeat(600));
  expect(await third.ask("$/subscribe", stage)).toMatchObject({ error: { code: -32004 } });
  const topic = server.live.topic("stage/:room", { room: "a" });
  expect(topic.subscribers()).toBe(2);
  expect(await topic.members()).toHaveLength(2);
});

describe("info or a key that cannot be", () => {
  for (const name of ["broken", "invalid", "keyless"]) {
    test(`(${name}) fails the subscription, and leaves neither a member nor a subscriber`, async () => {
      await using server = serveTopics();
      const [client, ada] = [await server.connect(name), await server.connect("ada")];
      expect(await client.ask("$/subscribe", lobby)).toMatchObject({
        error: {
          code: -32603,
          message: "Internal error",
          data: { ref: server.log.lines.at(-1)!.fields.ref },
        },
      });
      const topic = server.live.topic("lobby/:room", { room: "a" });
      expect(topic.subscribers()).toBe(0);
      expect(await topic.members()).toEqual([]);
      expect(await ada.result("$/subscribe", lobby)).toMatchObject({ members: [member("ada")] });
      await topic.publish({ text: "hello" });
      await client.ask("nothing");
      expect(client.untaken).toEqual([]);
    });
  }

  test("a connection that goes while its info is awaited is no member", async () => {
    await using server = serveTopics();
    const [slow, ada] = [await server.connect("slow"), await server.connect("ada")];
    slow.raw.send(call(1, "$/subscribe", lobby));
    await server.gates.begun.until(1);
    await slow[Symbol.asyncDispose]();
    while (server.live.connections.size > 1) await Bun.sleep(1);
    server.gates.open("slow");
    expect(await ada.result("$/subscribe", lobby)).toMatchObject({ members: [member("ada")], count: 1 });
    expect(server.live.topic("lobby/:room", { room: "a" }).subscribers()).toBe(1);
  });
});
