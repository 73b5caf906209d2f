// Who is in a topic, as the client keeps it, without a socket: snapshots, changes, and what may have been missed.

import { expect, test } from "bun:test";
import { PresenceView } from "../../src/client/presence.js";

const member = (key: string) => ({ key, info: {} });

function view(): { presence: PresenceView; keys(): string; reads: ((told: unknown) => void)[] } {
  const reads: ((told: unknown) => void)[] = [];
  const presence = new PresenceView(() => new Promise((resolve) => reads.push(resolve)));
  return { presence, reads, keys: () => presence.members.map(({ key }) => key).join() };
}

test("changes before the snapshot wait for it", () => {
  const { presence, keys } = view();
  presence.changed({ join: [member("b")], leave: ["a"] });
  expect(keys()).toBe("");
  presence.snapshot({ members: [member("a")], count: 1 });
  expect(keys()).toBe("b");
});

test("members that may have been missed are read anew, once at a time, and changes meanwhile wait", async () => {
  const { presence, keys, reads } = view();
  presence.snapshot({ members: [member("a")], count: 1 });
  presence.stale();
  presence.stale();
  presence.changed({ join: [member("c")] });
  expect(reads).toHaveLength(1);
  reads[0]!({ members: [member("b")], count: 1 });
  await Promise.resolve();
  expect(keys()).toBe("b,c");
});

test("that nobody was there is known too: who may have come is read", async () => {
  const { presence, keys, reads } = view();
  presence.snapshot({ members: [], count: 0 });
  presence.stale();
  expect(reads).toHaveLength(1);
  reads[0]!({ members: [member("a")], count: 1 });
  await Promise.resolve();
  expect(keys()).toBe("a");
});

test("a topic without presence is asked for none", () => {
  const { presence, reads } = view();
  presence.snapshot({});
  presence.stale();
  expect(reads).toEqual([]);
});
