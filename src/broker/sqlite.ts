// The broker that keeps what it has: topics of one process, in one SQLite file. Offsets, epochs, logs and idempotency
// keys survive restarts, kill -9 and power cuts; who is present does not. What is in the file: sqlite-log.ts.

import {
  type Broker,
  type BrokerError,
  type BrokerHealth,
  closed,
  type Deliver,
  type Page,
  type PageLimits,
  type Position,
  type PublishOptions,
  type Range,
  type Subscription,
} from "./broker.js";
import { Feeds } from "./feed.js";
import { readLog } from "./memory.js";
import { MemoryPresence } from "./presence.js";
import { SqliteFile, type SqliteOptions } from "./sqlite-file.js";
import { type Draft, SqliteLog } from "./sqlite-log.js";

export { type Broker, BrokerError, type BrokerErrorCode } from "./broker.js";
export type { SqliteOptions } from "./sqlite-file.js";

/**
 * A broker for one process that keeps its topics in a file, which it makes, with its folder, where there is none.
 * Throws a {@link BrokerError} if the file is locked, read-only, corrupt, or of another program or version.
 *
 * ```ts
 * const app = harpia({ broker: sqlite("./data/chat.db") });
 * ```
 */
export function sqlite(path: string, options: SqliteOptions = {}): Broker {
  return new SqliteBroker(new SqliteFile(path, options));
}

/** How often what has outlived its `ttl` is deleted. Reading never shows it, however late that is. */
const SWEEP_MS = 10_000;
/** Between the parts of one sweep, in which the process does other things. */
const SWEEP_PAUSE_MS = 20;
/** After a write failed for want of room. */
const SWEEP_SOON_MS = 1_000;

interface Pending extends Draft {
  readonly except: string | undefined;
  readonly resolve: (position: Position) => void;
  readonly reject: (error: BrokerError) => void;
}

class SqliteBroker implements Broker {
  readonly name = "sqlite";
  readonly shared = false;
  readonly #file: SqliteFile;
  readonly #log: SqliteLog;
  readonly #feeds = new Feeds();
  /** Of topics without history. */
  readonly #plain = new Feeds();
  readonly presence = new MemoryPresence((topic, payload) =>
    this.#plain.send(topic, { position: undefined, payload, except: undefined }),
  );
  #pending: Pending[] = [];
  #sweeper: ReturnType<typeof setTimeout> | undefined;
  #sweepsSoon = false;
  /** Why the latest write failed, until one succeeds. */
  #failure: BrokerError | undefined;
  #closed = false;

  constructor(file: SqliteFile) {
    this.#file = file;
    this.#log = new SqliteLog(file.db);
    this.#sweepIn(SWEEP_MS);
  }

  // Not async: that would wrap one more promise around each.
  publish(topic: string, payload: string, options: PublishOptions): Promise<Position | undefined> {
    if (this.#closed) return Promise.reject(closed());
    const { history, idempotencyKey, except } = options;
    if (history === undefined) {
      this.#plain.send(topic, { position: undefined, payload, except });
      return Promise.resolve(undefined);
    }
    // Whatever this turn of the event loop publishes shares one commit, so one fsync.
    if (this.#pending.length === 0) setImmediate(() => this.#commit());
    const { size, ttl } = history;
    return new Promise((resolve, reject) => {
      this.#pending.push({ topic, payload, size, ttl: ttl * 1000, idempotencyKey, except, resolve, reject });
    });
  }

  async subscribe(topic: string, deliver: Deliver, options: { history: boolean }): Promise<Subscription> {
    if (this.#closed) throw closed();
    if (!options.history) {
      const remove = this.#plain.add(topic, deliver);
      return { position: undefined, unsubscribe: async () => remove() };
    }
    const position = this.#read(() => this.#log.position(topic));
    const remove = this.#feeds.add(topic, deliver, position.offset);
    return { position, unsubscribe: async () => remove() };
  }

  async read(topic: string, range: Range, limits: PageLimits): Promise<Page> {
    if (this.#closed) throw closed();
    return this.#read(() => readLog(this.#log.readable(topic), range, limits));
  }

  async positions(topics: readonly string[]): Promise<Position[]> {
    if (this.#closed) throw closed();
    return this.#read(() => topics.map((topic) => this.#log.position(topic)));
  }

  health(): BrokerHealth {
    if (this.#closed) return { ok: false, reason: "closed" };
    return this.#failure ? { ok: false, reason: this.#failure.message } : { ok: true };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#sweeper);
    this.#commit();
    this.#feeds.clear();
    this.#plain.clear();
    this.presence.close();
    this.#log.close();
    this.#file.close();
  }

  /** Stores what is pending, all or nothing; then the publishers know, and then the listeners. */
  #commit(): void {
    const batch = this.#pending;
    if (batch.length === 0) return;
    this.#pending = [];
    let stored;
    try {
      stored = this.#log.append(batch);
    } catch (error) {
      this.#failure = this.#file.explain(error, "write to");
      for (const { reject } of batch) reject(this.#failure);
      if (this.#failure.code === "BROKER_FULL" && !this.#closed) this.#sweepSoon();
      return;
    }
    this.#failure = undefined;
    for (const [index, { resolve }] of batch.entries()) resolve(stored[index]!.position);
    for (const [index, { topic, payload, except }] of batch.entries()) {
      const { position, repeat } = stored[index]!;
      if (!repeat) this.#feeds.send(topic, { position, payload, except });
    }
  }

  #read<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw this.#file.explain(error, "read");
    }
  }

  #sweepSoon(): void {
    if (this.#sweepsSoon) return;
    this.#sweepsSoon = true;
    this.#sweepIn(SWEEP_SOON_MS);
  }

  #sweepIn(ms: number): void {
    clearTimeout(this.#sweeper);
    this.#sweeper = setTimeout(() => this.#sweep(), ms);
    this.#sweeper.unref();
  }

  #sweep(): void {
    this.#sweepsSoon = false;
    let more = false;
    try {
      more = this.#log.sweep((topic) => this.#feeds.has(topic));
      this.#failure = undefined;
    } catch (error) {
      this.#failure = this.#file.explain(error, "trim");
    }
    this.#sweepIn(more ? SWEEP_PAUSE_MS : SWEEP_MS);
  }
}
