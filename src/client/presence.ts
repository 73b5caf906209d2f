// Who is in a topic, as the server has told it: a snapshot, and what changed since.

import { Listeners } from "./listeners.js";
import type { Member, Presence } from "./subscription.js";

interface Told {
  members?: Member<unknown>[];
  count?: number;
  join?: Member<unknown>[];
  leave?: string[];
}

export class PresenceView implements Presence<unknown> {
  count = 0;
  #members: readonly Member<unknown>[] = [];
  readonly #byKey = new Map<string, Member<unknown>>();
  readonly #listeners = new Listeners<{ change: readonly Member<unknown>[] }>();
  readonly #read: () => void;
  /** Whether the members are known: not before the first snapshot, nor where they are too many. */
  #isKnown = false;
  #isReading = false;
  /** What came while a snapshot was under way. */
  #held: Told[] = [];

  /** @param read asks for a snapshot, and gives up only when the connection is lost. */
  constructor(read: () => void) {
    this.#read = read;
  }

  get members(): readonly Member<unknown>[] {
    return this.#members;
  }

  on(event: "change", listener: (members: readonly Member<unknown>[]) => void): () => void {
    return this.#listeners.on(event, listener);
  }

  /** An answer that may hold all members, or only their number. */
  snapshot({ members, count }: Told): void {
    if (count === undefined) return; // not in this answer
    this.#isReading = false;
    this.#byKey.clear();
    for (const member of members ?? []) this.#byKey.set(member.key, member);
    this.#isKnown = members !== undefined;
    this.count = count;
    for (const held of this.#held.splice(0)) if (members) this.#apply(held);
    this.#tell();
  }

  changed(told: Told): void {
    if (told.count !== undefined) return this.snapshot(told);
    if (this.#isKnown) {
      this.#apply(told);
      return this.#tell();
    }
    this.#held.push(told);
    this.stale(); // where they were too many, and are not any more
  }

  /** Some of it may have been missed: reads it anew. */
  stale(): void {
    // Neither known nor counted: no snapshot has come yet, or none ever will.
    if (this.#isReading || !(this.#isKnown || this.count)) return;
    this.#isReading = true;
    this.#isKnown = false;
    this.#read();
  }

  /** Whatever was asked will not be answered; somebody else asks for the next snapshot. */
  disconnected(): void {
    this.#isReading = this.#isKnown = false;
    this.#held = [];
  }

  #apply({ join = [], leave = [] }: Told): void {
    for (const member of join) this.#byKey.set(member.key, member);
    for (const key of leave) this.#byKey.delete(key);
    this.count = this.#byKey.size;
  }

  #tell(): void {
    this.#members = [...this.#byKey.values()];
    this.#listeners.tell("change", this.#members);
  }
}
