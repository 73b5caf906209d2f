// What a SQLite broker keeps: topics with their positions, messages and idempotency keys, as rows. Everything here is
// synchronous, and every write one transaction.

import type { Database } from "bun:sqlite";
import { BrokerError, newEpoch, type Position, type StoredMessage } from "./broker.js";
import type { ReadableLog } from "./memory.js";
import { Statements, type TopicRow } from "./sqlite-statements.js";

/** Trimmed messages of a topic that may wait for one statement to delete them all. Reading never shows them. */
const SLACK = 256;
/** Epoch and offset of a topic outlive its latest publication by so much. */
const META_TTL_MS = 30 * 24 * 3_600_000;
/** A topic without listeners is kept in memory for so long after it was used. */
const CACHE_MS = 60_000;
/** Topics that one part of a sweep looks at, and messages and keys that it deletes at most: a few milliseconds. */
const SWEEP_ROWS = 500;
/** Free pages that the file may keep for what comes next; a sweep gives others back to the disk. */
const SPARE_PAGES = 1_000;

/** A publication that has no number yet. */
export interface Draft {
  readonly topic: string;
  readonly payload: string;
  /** Messages that its topic keeps, and milliseconds for which it keeps them. */
  readonly size: number;
  readonly ttl: number;
  readonly idempotencyKey: string | undefined;
}

export interface Stored {
  readonly position: Position;
  /** It was stored before, under the same idempotency key. */
  readonly repeat: boolean;
}

/** A topic's row (`id` 0: nothing was published, so there is none), and where its messages begin. */
interface Topic extends TopicRow {
  /** The oldest message in the file, trimmed or not; one more than the newest if there is none. */
  readonly oldest: number;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export class SqliteLog {
  readonly #sql: Statements;
  /** Topics in use. All others are in the file alone. */
  readonly #topics = new Map<string, { topic: Topic; usedAt: number }>();
  /** Milliseconds between the log's clock and `performance.now()`. */
  readonly #ahead: number;
  /** The epoch of topics without a row. */
  #epoch: string;
  /** The topic with which the sweep goes on. */
  #sweptTo = 0;

  constructor(db: Database) {
    this.#sql = new Statements(db);
    const { epoch, clock } = this.#sql.meta.get()!;
    this.#epoch = epoch;
    // Time only goes on: from the system's at the start, or the latest that an earlier start has noted, by the process's
    // own clock. So a clock that is set forward while it runs trims nothing early, and one that is set back keeps nothing.
    this.#ahead = Math.max(Date.now(), clock) - performance.now();
  }

  position(name: string): Position {
    const { epoch, offset } = this.#topic(name);
    return { epoch, offset };
  }

  /** To be read before anything else is done: it is not a copy. */
  readable(name: string): ReadableLog {
    const topic = this.#topic(name);
    const { id, epoch, offset } = topic;
    return {
      position: { epoch, offset },
      first: this.#first(topic),
      at: (wanted): StoredMessage => {
        const row = this.#sql.payload.get(id, wanted) ?? missing(name, wanted);
        return { offset: wanted, payload: row.payload };
      },
    };
  }

  /** Numbers and stores them all, in one transaction. If it throws, it has stored none. */
  append(drafts: readonly Draft[]): Stored[] {
    const now = this.#now();
    const changed = new Map<string, Writable<Topic>>();
    try {
      const stored = this.#sql.transaction(() => {
        const all = drafts.map((draft) => {
          let topic = changed.get(draft.topic);
          if (topic === undefined) changed.set(draft.topic, (topic = { ...this.#topic(draft.topic) }));
          return this.#append(draft, topic, now);
        });
        for (const topic of changed.values()) this.#update(topic);
        return all;
      });
      for (const [name, topic] of changed) this.#topics.get(name)!.topic = topic;
      return stored;
    } catch (error) {
      // What the file has counts, whatever was reported: it is read anew.
      for (const name of changed.keys()) this.#topics.delete(name);
      throw error;
    }
  }

  /**
   * Deletes what is over: messages, idempotency keys, topics that were not used for 30 days; and gives free pages back.
   * A few milliseconds of that. @returns whether there is more to do.
   */
  sweep(hasListeners: (topic: string) => boolean): boolean {
    const now = this.#now();
    if (this.#sweptTo === 0)
      for (const [name, { usedAt }] of this.#topics)
        if (now - usedAt > CACHE_MS && !hasListeners(name)) this.#topics.delete(name);
    const more = this.#sweepRows(now);
    if (!more && this.#sql.freePages.get()!.freelist_count > SPARE_PAGES) this.#sql.vacuum.all();
    return more;
  }

  close(): void {
    try {
      this.#sql.setClock.run(this.#now());
    } catch {
      // The next start has the time of the last sweep.
    }
    this.#sql.finalize();
    this.#topics.clear();
  }

  #now(): number {
    return Math.floor(performance.now() + this.#ahead);
  }

  #topic(name: string): Topic {
    const usedAt = this.#now();
    const cached = this.#topics.get(name);
    if (cached !== undefined) {
      cached.usedAt = usedAt;
      return cached.topic;
    }
    const row = this.#sql.topic.get(name);
    const topic = row
      ? this.#withOldest(row)
      : { id: 0, name, epoch: this.#epoch, offset: 0, size: 0, ttl: 0, used: 0, oldest: 1 };
    this.#topics.set(name, { topic, usedAt });
    return topic;
  }

  #withOldest(row: TopicRow): Topic {
    return { ...row, oldest: this.#sql.oldest.get(row.id)?.offset ?? row.offset + 1 };
  }

  /** The oldest message within `size` and `ttl`; one more than the newest if there is none. */
  #first({ id, name, offset, size, ttl, used, oldest }: Topic): number {
    const since = this.#now() - ttl;
    if (used <= since) return offset + 1;
    const isFresh = (wanted: number): boolean =>
      (this.#sql.time.get(id, wanted) ?? missing(name, wanted)).at > since;
    let low = Math.max(oldest, offset - size + 1);
    let high = offset + 1;
    if (low >= high || isFresh(low)) return low;
    // The times of messages never fall.
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (isFresh(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #append({ payload, size, ttl, idempotencyKey }: Draft, topic: Writable<Topic>, now: number): Stored {
    const { epoch } = topic;
    if (idempotencyKey !== undefined && topic.id !== 0) {
      const known = this.#sql.key.get(topic.id, idempotencyKey);
      if (known && known.expires > now) return { position: { epoch, offset: known.offset }, repeat: true };
    }
    if (topic.id === 0) topic.id = this.#sql.addTopic.get(topic.name, epoch)!.id;
    const offset = ++topic.offset;
    topic.used = Math.max(now, topic.used);
    topic.size = size;
    topic.ttl = ttl;
    this.#sql.addMessage.run(topic.id, offset, topic.used, payload);
    if (idempotencyKey !== undefined) this.#sql.setKey.run(topic.id, idempotencyKey, offset, now + ttl);
    return { position: { epoch, offset }, repeat: false };
  }

  #update(topic: Writable<Topic>): void {
    const { id, offset, size, ttl, used } = topic;
    this.#sql.setTopic.run(offset, size, ttl, used, id);
    const first = offset - size + 1;
    if (first - topic.oldest < SLACK) return;
    this.#sql.deleteMessages.run(id, first);
    topic.oldest = first;
  }

  #sweepRows(now: number): boolean {
    const trimmed = new Map<string, number>();
    let epoch = this.#epoch;
    let sweptTo = this.#sweptTo;
    const more = this.#sql.transaction(() => {
      if (sweptTo === 0) this.#sql.setClock.run(now);
      const keys = this.#sql.deleteKeys.run(now, SWEEP_ROWS).changes;
      const rows = this.#sql.topicsAfter.all(sweptTo, SWEEP_ROWS);
      let left = SWEEP_ROWS;
      for (const row of rows) {
        const topic = this.#topics.get(row.name)?.topic ?? this.#withOldest(row);
        const before = Math.min(this.#first(topic), topic.oldest + left);
        if (before > topic.oldest) {
          this.#sql.deleteMessages.run(row.id, before);
          trimmed.set(row.name, before);
          left -= before - topic.oldest;
        }
        if (left === 0) return true;
        if (now - row.used > Math.max(META_TTL_MS, row.ttl) && !this.#topics.has(row.name)) {
          this.#sql.deleteKeysOf.run(row.id);
          this.#sql.deleteTopic.run(row.id);
          // Its numbers start over, and must not do so in an epoch that it had.
          this.#sql.setEpoch.run((epoch = newEpoch()));
        }
        sweptTo = row.id;
      }
      return rows.length === SWEEP_ROWS || keys === SWEEP_ROWS;
    });
    this.#epoch = epoch;
    this.#sweptTo = more ? sweptTo : 0;
    for (const [name, oldest] of trimmed) {
      const cached = this.#topics.get(name);
      if (cached) cached.topic = { ...cached.topic, oldest };
    }
    return more;
  }
}

function missing(topic: string, offset: number): never {
  throw new BrokerError(
    "BROKER_CORRUPT",
    `The file of the broker has no message ${offset} of topic ${JSON.stringify(topic)}, though it should: it is damaged. ` +
      "Move it and its -wal away to start anew (each client sees one reset), and check the disk.",
  );
}
