// Presence of one process, in memory: for the brokers that nobody else shares.

import { closed, type Member, type Presence } from "./broker.js";

interface Lease {
  info: string;
  /** Milliseconds of `performance.now()`. */
  until: number;
}

export class MemoryPresence implements Presence {
  /** topic → key → owner; the owner that was put last stands last. */
  readonly #topics = new Map<string, Map<string, Map<string, Lease>>>();
  #closed = false;

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
    const appeared = !isThere(owners);
    owners.delete(owner);
    owners.set(owner, { info, until: performance.now() + leaseMs });
    return { appeared };
  }

  async remove(topic: string, key: string, owner: string): Promise<{ vanished: boolean }> {
    if (this.#closed) throw closed();
    const keys = this.#topics.get(topic);
    const owners = keys?.get(key);
    if (keys === undefined || owners === undefined) return { vanished: false };
    const was = isThere(owners) !== undefined;
    owners.delete(owner);
    const vanished = was && !isThere(owners);
    if (owners.size === 0) keys.delete(key);
    if (keys.size === 0) this.#topics.delete(topic);
    return { vanished };
  }

  async list(topic: string): Promise<Member[]> {
    if (this.#closed) throw closed();
    const members: Member[] = [];
    for (const [key, owners] of this.#topics.get(topic) ?? []) {
      const live = isThere(owners);
      if (live) members.push({ key, info: live.info });
    }
    return members;
  }

  close(): void {
    this.#closed = true;
    this.#topics.clear();
  }
}

/** Drops the leases that are over; the one that was put last, if any is left. */
function isThere(owners: Map<string, Lease>): Lease | undefined {
  let last: Lease | undefined;
  const now = performance.now();
  for (const [owner, lease] of owners) {
    if (lease.until <= now) owners.delete(owner);
    else last = lease;
  }
  return last;
}
