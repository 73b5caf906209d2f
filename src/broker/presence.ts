// Presence of one process, in memory, for the brokers that nobody else shares; and how every broker says what changed.

import { closed, type Members, newEpoch, type Presence } from "./broker.js";

/** What became of a key: its info is another now, or it has gone. */
export interface Change {
  readonly key: string;
  /** JSON; `undefined`: nobody holds a lease for it any more. */
  readonly info: string | undefined;
}

/** A change as it is published: the key as JSON, a line feed, and the info, which the head is followed by. */
export function changeHead(key: string): string {
  return `${JSON.stringify(key)}\n`;
}

export function changeIn(payload: string): Change {
  const line = payload.indexOf("\n");
  return {
    key: JSON.parse(payload.slice(0, line)) as string, // as `changeHead` has written it
    info: payload.slice(line + 1) || undefined,
  };
}

interface Lease {
  info: string;
  /** Milliseconds of `performance.now()`. */
  until: number;
}

export class MemoryPresence implements Presence {
  /** topic → key → owner; the owner whose info was given last stands last. */
  readonly #topics = new Map<string, Map<string, Map<string, Lease>>>();
  readonly #publish: (topic: string, payload: string) => void;
  readonly #epoch = newEpoch();
  #closed = false;

  constructor(publish: (topic: string, payload: string) => void) {
    this.#publish = publish;
  }

  async put(
    topic: string,
    key: string,
    owner: string,
    info: string,
    leaseMs: number,
  ): Promise<{ appeared: boolean }> {
    if (this.#closed) throw closed();
    let keys = this.#topics.get(topic);
    if (keys === undefined) this.#topics.set(topic, (keys = new Map()));
    let owners = keys.get(key);
    if (owners === undefined) keys.set(key, (owners = new Map()));
    const before = newest(owners);
    // A lease that is only renewed keeps its place: what others said since then stands.
    if (owners.get(owner)?.info !== info) owners.delete(owner);
    owners.set(owner, { info, until: performance.now() + leaseMs });
    this.#tell(topic, key, before, newest(owners));
    return { appeared: before === undefined };
  }

  async remove(topic: string, key: string, owner: string): Promise<{ vanished: boolean }> {
    if (this.#closed) throw closed();
    const keys = this.#topics.get(topic);
    const owners = keys?.get(key);
    if (keys === undefined || owners === undefined) return { vanished: false };
    const before = newest(owners);
    owners.delete(owner);
    const after = newest(owners);
    if (owners.size === 0) keys.delete(key);
    if (keys.size === 0) this.#topics.delete(topic);
    this.#tell(topic, key, before, after);
    return { vanished: before !== undefined && after === undefined };
  }

  async list(topic: string): Promise<Members> {
    if (this.#closed) throw closed();
    const members = [];
    for (const [key, owners] of this.#topics.get(topic) ?? []) {
      const info = newest(owners);
      if (info !== undefined) members.push({ key, info });
    }
    return { members, epoch: this.#epoch };
  }

  close(): void {
    this.#closed = true;
    this.#topics.clear();
  }

  #tell(topic: string, key: string, before: string | undefined, after: string | undefined): void {
    if (after !== before) this.#publish(topic, changeHead(key) + (after ?? ""));
  }
}

/** Drops the leases that are over; of those that are left, the info that was given last. */
function newest(owners: Map<string, Lease>): string | undefined {
  let last: string | undefined;
  const now = performance.now();
  for (const [owner, { info, until }] of owners) {
    if (until <= now) owners.delete(owner);
    else last = info;
  }
  return last;
}
