// The broker that needs nothing: topics of one process, in memory. They end with it, and a new process begins new
// epochs.

import {
  type Broker,
  closed,
  type Deliver,
  newEpoch,
  type Page,
  type PageLimits,
  type Position,
  type PublishOptions,
  type Range,
  type StoredMessage,
  type Subscription,
} from "./broker.js";
import { Feed, Feeds } from "./feed.js";
import { MemoryPresence } from "./presence.js";

/** How often what has outlived its `ttl` is freed. Reading never shows it, however late that is. */
const SWEEP_MS = 10_000;
/** A topic that nobody subscribes to keeps its epoch for this long after it was last used. */
const META_TTL_MS = 3_600_000;

interface Entry extends StoredMessage {
  readonly expires: number;
}

class Topic {
  readonly epoch = newEpoch();
  offset = 0;
  readonly feed = new Feed();
  usedAt = 0;
  /** Offsets rise by one. What lies before `#head` has been trimmed. */
  #log: Entry[] = [];
  #head = 0;
  #keys: Map<string, { offset: number; expires: number }> | undefined;

  get position(): Position {
    return { epoch: this.epoch, offset: this.offset };
  }

  /** The offset of the oldest message that is kept; one more than the newest if there is none. */
  get first(): number {
    return this.#log[this.#head]?.offset ?? this.offset + 1;
  }

  repeated(key: string, now: number): Position | undefined {
    const known = this.#keys?.get(key);
    if (known === undefined || known.expires <= now) return undefined;
    return { epoch: this.epoch, offset: known.offset };
  }

  append(
    payload: string,
    size: number,
    ttlMs: number,
    idempotencyKey: string | undefined,
    now: number,
  ): Position {
    const offset = ++this.offset;
    const expires = now + ttlMs;
    this.#log.push({ offset, payload, expires });
    while (this.#log.length - this.#head > size) this.#head++;
    if (idempotencyKey !== undefined) {
      this.#keys ??= new Map();
      this.#keys.delete(idempotencyKey);
      this.#keys.set(idempotencyKey, { offset, expires });
    }
    if (this.#head > 64 && this.#head * 2 > this.#log.length) this.#compact();
    return { epoch: this.epoch, offset };
  }

  /** Frees what is too old. @returns whether nothing is left. */
  trim(now: number): boolean {
    while (this.#head < this.#log.length && this.#log[this.#head]!.expires <= now) this.#head++;
    if (this.#head === this.#log.length) {
      this.#log = [];
      this.#head = 0;
    }
    for (const [key, { expires }] of this.#keys ?? []) {
      if (expires > now) break;
      this.#keys!.delete(key);
    }
    if (this.#keys?.size === 0) this.#keys = undefined;
    return this.#log.length === 0 && this.#keys === undefined;
  }

  at(offset: number): StoredMessage | undefined {
    return this.#log[this.#head + offset - this.first];
  }

  #compact(): void {
    this.#log = this.#log.slice(this.#head);
    this.#head = 0;
  }
}

/** The default broker: one process, nothing installed, nothing kept beyond it. */
export class MemoryBroker implements Broker {
  readonly name = "memory";
  readonly shared: boolean = false;
  readonly #topics = new Map<string, Topic>();
  readonly #plain = new Feeds();
  readonly presence = new MemoryPresence((topic, payload) =>
    this.#plain.send(topic, { position: undefined, payload, except: undefined }),
  );
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #closed = false;

  async publish(topic: string, payload: string, options: PublishOptions): Promise<Position | undefined> {
    this.#refuseClosed();
    const { history, idempotencyKey, except } = options;
    if (history === undefined) {
      this.#plain.send(topic, { position: undefined, payload, except });
      return undefined;
    }
    const now = performance.now();
    const log = this.#topic(topic, now);
    if (idempotencyKey !== undefined) {
      const first = log.repeated(idempotencyKey, now);
      if (first) return first;
    }
    const position = log.append(payload, history.size, history.ttl * 1000, idempotencyKey, now);
    log.feed.send({ position, payload, except });
    return position;
  }

  async subscribe(topic: string, deliver: Deliver, options: { history: boolean }): Promise<Subscription> {
    this.#refuseClosed();
    if (!options.history) {
      const remove = this.#plain.add(topic, deliver);
      return { position: undefined, unsubscribe: async () => remove() };
    }
    const { feed, position } = this.#topic(topic, performance.now());
    const remove = feed.add(deliver, position.offset);
    return { position, unsubscribe: async () => remove() };
  }

  async read(topic: string, range: Range, limits: PageLimits): Promise<Page> {
    this.#refuseClosed();
    const now = performance.now();
    const log = this.#topic(topic, now);
    log.trim(now);
    return readLog(log, range, limits);
  }

  async positions(topics: readonly string[]): Promise<Position[]> {
    this.#refuseClosed();
    const now = performance.now();
    return topics.map((topic) => this.#topic(topic, now).position);
  }

  health(): { ok: boolean; reason?: string } {
    return this.#closed ? { ok: false, reason: "closed" } : { ok: true };
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#sweeper);
    this.#topics.clear();
    this.#plain.clear();
    this.presence.close();
  }

  #topic(name: string, now: number): Topic {
    let topic = this.#topics.get(name);
    if (topic === undefined) {
      this.#topics.set(name, (topic = new Topic()));
      this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS).unref();
    }
    topic.usedAt = now;
    return topic;
  }

  #sweep(): void {
    const now = performance.now();
    for (const [name, topic] of this.#topics) {
      const empty = topic.trim(now);
      if (empty && topic.feed.empty && now - topic.usedAt > META_TTL_MS) this.#topics.delete(name);
    }
  }

  #refuseClosed(): void {
    if (this.#closed) throw closed();
  }
}

/** What `readLog` needs of a log: offsets from `first` to the position's, without holes. */
export interface ReadableLog {
  readonly position: Position;
  readonly first: number;
  at(offset: number): StoredMessage | undefined;
}

/** One page of a log that is in memory. */
export function readLog(log: ReadableLog, range: Range, limits: PageLimits): Page {
  const { position, first } = log;
  const newest = position.offset;
  const lost = (): Page => ({ position, recovered: false, messages: [], complete: true });
  if ("before" in range) {
    const { epoch, offset } = range.before;
    if (epoch !== position.epoch || offset > newest + 1) return lost();
    const messages = take(log, offset - 1, first, -1, limits).reverse();
    return { position, recovered: true, messages, complete: (messages[0]?.offset ?? first) <= first };
  }
  if ("after" in range) {
    const { epoch, offset } = range.after;
    if (epoch !== position.epoch || offset > newest || (offset < newest && offset + 1 < first)) return lost();
    const messages = take(log, offset + 1, newest, 1, limits);
    return { position, recovered: true, messages, complete: (messages.at(-1)?.offset ?? offset) === newest };
  }
  const messages = take(log, Math.max(first, newest - range.last + 1), newest, 1, limits);
  return { position, recovered: false, messages, complete: (messages.at(-1)?.offset ?? newest) === newest };
}

function take(log: ReadableLog, from: number, to: number, step: 1 | -1, limits: PageLimits): StoredMessage[] {
  const messages: StoredMessage[] = [];
  let bytes = 0;
  for (let offset = from; step > 0 ? offset <= to : offset >= to; offset += step) {
    const message = log.at(offset);
    if (message === undefined) break;
    bytes += Buffer.byteLength(message.payload);
    if (messages.length > 0 && bytes > limits.bytes) break;
    messages.push({ offset: message.offset, payload: message.payload });
    if (messages.length >= limits.messages) break;
  }
  return messages;
}
