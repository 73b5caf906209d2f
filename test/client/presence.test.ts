// Who is in a topic, as the client keeps it, without a socket: snapshots, changes, and what may have been missed.

import { expect, test } from "bun:test";
import { PresenceView } from "../../src/client/presence.js";

const member = (key: string) => ({ key, info: {} });

function view(): { presence: PresenceView; keys(): string; reads(): number } {
  let reads = 0;
  const presence = new PresenceView(() => reads++);
  return { presence, reads: () => reads, keys: () => presence.members.map(({ key }) => key).join() };
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
  expect(reads()).toBe(1);
  presence.snapshot({ members: [member("b")], count: 1 });
  expect(keys()).toBe("b,c");
});

test("that nobody was there is known too: who may have come is read", async () => {
  const { presence, keys, reads } = view();
  presence.snapshot({ members: [], count: 0 });
  presence.stale();
  expect(reads()).toBe(1);
  presence.snapshot({ members: [member("a")], count: 1 });
  expect(keys()).toBe("a");
});

test("a topic without presence is asked for none", () => {
  const { presence, reads } = view();
  presence.snapshot({});
  presence.stale();
  expect(reads()).toBe(0);
});

test("what waited for a snapshot does not count where there are too many again", () => {
  const { presence, keys, reads } = view();
  presence.snapshot({ count: 1_500 });
  presence.changed({ leave: ["a"] });
  expect(reads()).toBe(1);
  presence.snapshot({ count: 1_501 });
  expect([presence.count, keys()]).toEqual([1_501, ""]);
  presence.changed({ leave: ["b"] });
  expect(reads()).toBe(2);
});

test("a question that got no answer may be asked again", () => {
  const { presence, reads } = view();
  presence.snapshot({ members: [member("a")], count: 1 });
  presence.stale();
  presence.disconnected();
  presence.stale();
  expect(reads()).toBe(2);
});
