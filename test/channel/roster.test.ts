// What a process tells of a topic's members where the broker is slow, or another process is: nobody who is there may be
// told to have left.

import { afterEach, expect, test } from "bun:test";
import { BrokerError } from "../../src/broker/broker.js";
import { MemoryBroker } from "../../src/broker/memory.js";
import { Topics } from "../../src/channel/topics.js";
import { Gates } from "../support/channel.js";
import { Events } from "../support/log.js";
import { serveTopics } from "../support/topics.js";

const lobby = { topic: "lobby/a" };
const member = (name: string) => ({ key: name, info: { name } });

const polled = Topics.pollMs;

afterEach(() => void (Topics.pollMs = polled));

/** As one that other processes use too: its leases are renewed. */
class SharedBroker extends MemoryBroker {
  override readonly shared: boolean = true;
  /** The topics of leases that were taken or renewed. */
  readonly puts = new Events<string>();
  /** A topic whose leases cannot be renewed. */
  away = "";

  constructor() {
    super();
    const put = this.presence.put.bind(this.presence);
    this.presence.put = async (...given) => {
      if (given[0] === this.away) throw new BrokerError("BROKER_UNAVAILABLE", "away, as the test wants it");
      this.puts.push(given[0]);
      return await put(...given);
    };
  }
}

test("a join that is heard while an older list is on its way is not undone by it", async () => {
  const broker = new MemoryBroker();
  const gates = new Gates();
  await using server = serveTopics({ broker });
  const [ada, bob] = [await server.connect("ada"), await server.connect("bob")];
  await ada.result("$/subscribe", lobby);
  await ada.told("$/presence");

  const list = broker.presence.list.bind(broker.presence);
  broker.presence.list = async (topic) => {
    const answer = await list(topic);
    if (gates.begun.all.length === 0) await gates.wait("the list");
    return answer;
  };
  const asked = ada.result("$/presence", lobby);
  await gates.begun.until(1);
  const joined = bob.result("$/subscribe", lobby);
  expect((await ada.told("$/presence")).params).toEqual({ topic: "lobby/a", join: [member("bob")] });
  gates.open("the list");
  expect(await asked).toEqual({ members: [member("ada"), member("bob")], count: 2 } as never);
  expect(await joined).toMatchObject({ members: [member("ada"), member("bob")], count: 2 });
  await bob.result("$/unsubscribe", lobby);
  expect((await ada.told("$/presence")).params).toEqual({ topic: "lobby/a", leave: ["bob"] });
});

test("what another connection of a member says of it is told at once, and a renewed lease says nothing", async () => {
  Topics.pollMs = 20;
  const broker = new SharedBroker();
  await using server = serveTopics({ broker });
  const ada = await server.connect("ada");
  await ada.result("$/subscribe", lobby);
  await ada.told("$/presence");
  const { presence } = broker;
  const topic = "p /topics lobby/a";
  await presence.put(topic, "ada", "elsewhere", `{"name":"Ada"}`, 60_000);
  const other = { topic: "lobby/a", join: [{ key: "ada", info: { name: "Ada" } }] };
  expect((await ada.told("$/presence")).params).toEqual(other);
  const { all } = broker.puts;
  await broker.puts.until(all.length + 5);
  await presence.remove(topic, "ada", "elsewhere");
  expect((await ada.told("$/presence")).params).toEqual({ topic: "lobby/a", join: [member("ada")] });
});

test("leases are renewed topic by topic, also while some of the broker is away", async () => {
  Topics.pollMs = 20;
  const broker = new SharedBroker();
  await using server = serveTopics({ broker });
  const ada = await server.connect("ada");
  for (const topic of ["lobby/a", "lobby/b"]) await ada.result("$/subscribe", { topic });
  broker.away = "p /topics lobby/a";
  broker.positions = () =>
    Promise.reject(new BrokerError("BROKER_UNAVAILABLE", "away, as the test wants it"));
  const { all } = broker.puts;
  await broker.puts.until(all.length + 5);
  expect(all.slice(-3)).toEqual(Array(3).fill("p /topics lobby/b"));
});

test("those who come at once share the list that their answers are made of", async () => {
  const broker = new SharedBroker();
  const gates = new Gates();
  await using server = serveTopics({ broker });
  const names = Array.from({ length: 20 }, (_, index) => `n${index}`);
  const clients = await Promise.all(names.map((name) => server.connect(name)));
  let lists = 0;
  const list = broker.presence.list.bind(broker.presence);
  broker.presence.list = async (topic) => {
    lists++;
    await gates.wait("the list");
    return await list(topic);
  };
  const answers = clients.map((client) => client.result("$/subscribe", { topic: "stage/a" }));
  await broker.puts.until(20);
  gates.open("the list");
  await Promise.all(answers);
  expect(lists).toBeLessThanOrEqual(2);
  expect((await clients[0]!.result("$/presence", { topic: "stage/a" })).count).toBe(20);
});
