// The cluster of examples/cluster as an operator meets it: real processes behind a real haproxy, killed under load.

import { expect } from "bun:test";
import { connect } from "harpia/client";
import { chat } from "../../examples/chat/contract.js";
import { startCluster } from "../../examples/cluster/start.js";
import { until } from "../support/app.js";
import { pathOf, testWith } from "../support/programs.js";

const READERS = 6;
const ROUNDS = 3;

testWith("redis-server")(
  "kill -9 of one process after the other, under load: every reader has every message, once, in one order",
  async () => {
    pathOf("haproxy");
    const port = 20_000 + (process.pid % 20_000);
    await using cluster = await startCluster({ port, quiet: true });
    const open = (name: string) =>
      connect(chat, { url: `ws://127.0.0.1:${port}`, token: name, timeout: 60_000 });
    const readers = Array.from({ length: READERS }, (_, index) => {
      const client = open(`reader ${index}`);
      const room = client.subscribe("room/:room", { room: "tea" });
      const seen: string[] = [];
      const offsets: number[] = [];
      let resets = 0;
      room.on("message", ({ data, offset }) => {
        seen.push(data.text);
        offsets.push(offset!);
      });
      room.on("reset", () => resets++);
      return { client, room, seen, offsets, resets: () => resets };
    });
    await until(() => readers.every(({ room }) => room.state === "live"), "the readers");

    const said: string[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      // Each person may say five things in five seconds.
      const people = Array.from({ length: 6 }, (_, index) => open(`writer ${round}.${index}`));
      const saying = people.flatMap((client, who) =>
        Array.from({ length: 4 }, (_, index) => {
          const text = `${round}.${who}.${index}`;
          said.push(text);
          return client.call("say", { room: "tea", text, id: crypto.randomUUID() });
        }),
      );
      await Promise.race(saying);
      const victim = cluster.pids()[round % 3]!;
      process.kill(victim, "SIGKILL");
      await Promise.all(saying);
      await until(() => cluster.pids().length === 3 && !cluster.pids().includes(victim), "the next process");
      for (const client of people) client.close();
    }
    const deadline = performance.now() + 30_000;
    while (readers.some(({ seen }) => seen.length < said.length) && performance.now() < deadline)
      await Bun.sleep(50);

    const [first] = readers;
    expect([...first!.seen].sort()).toEqual([...said].sort());
    for (const { seen, offsets, resets } of readers) {
      expect(seen).toEqual(first!.seen);
      expect(offsets).toEqual(said.map((_, index) => index + 1));
      expect(resets()).toBe(0);
    }
    for (const { client } of readers) client.close();
  },
  90_000,
);
