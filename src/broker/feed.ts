// Who listens to one topic in this process: each publication to each of them, in order, whatever they do meanwhile.

import type { Deliver, Publication } from "./broker.js";

interface Listener {
  readonly deliver: Deliver;
  /** Offsets up to here were there when it subscribed. */
  readonly after: number;
}

export class Feed {
  readonly #listeners = new Set<Listener>();
  /** What was published by a listener that is being delivered to: it waits, else the next one would get it first. */
  #waiting: Publication[] | undefined;

  get empty(): boolean {
    return this.#listeners.size === 0;
  }

  /** @returns what takes the listener out again. */
  add(deliver: Deliver, after = 0): () => void {
    const listener = { deliver, after };
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  send(publication: Publication): void {
    if (this.#waiting !== undefined) {
      this.#waiting.push(publication);
      return;
    }
    this.#waiting = [];
    try {
      this.#send(publication);
      // It grows meanwhile.
      for (const next of this.#waiting) this.#send(next);
    } finally {
      this.#waiting = undefined;
    }
  }

  #send(publication: Publication): void {
    const offset = publication.position?.offset ?? Infinity;
    // One that subscribes while its topic is delivered to is in the set already, and must not get what it has.
    for (const { deliver, after } of this.#listeners) if (offset > after) deliver(publication);
  }
}

/** The feeds of many topics: one is there for as long as somebody listens. */
export class Feeds {
  readonly #feeds = new Map<string, Feed>();

  has(topic: string): boolean {
    return this.#feeds.has(topic);
  }

  add(topic: string, deliver: Deliver, after = 0): () => void {
    const feed = this.#feeds.get(topic) ?? new Feed();
    this.#feeds.set(topic, feed);
    const remove = feed.add(deliver, after);
    return () => {
      remove();
      if (feed.empty && this.#feeds.get(topic) === feed) this.#feeds.delete(topic);
    };
  }

  send(topic: string, publication: Publication): void {
    this.#feeds.get(topic)?.send(publication);
  }

  clear(): void {
    this.#feeds.clear();
  }
}
