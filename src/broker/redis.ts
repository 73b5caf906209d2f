/**
 * The broker for many processes and machines: Redis, Valkey or compatible; one server, Sentinel or Cluster.
 *
 * ```ts
 * import { harpia } from "harpia";
 * import { redis } from "harpia/redis";
 *
 * const app = harpia({ broker: redis({ url: process.env.REDIS_URL }) });
 * ```
 *
 * @module
 */

import type { RedisClientOptions } from "redis";
import {
  type Broker,
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
import { Commands, evaluate } from "./redis-commands.js";
import { Deadline } from "./redis-errors.js";
import { encode, header, RedisFeed } from "./redis-feed.js";
import { checkOptions } from "./redis-options.js";
import { RedisPresence } from "./redis-presence.js";
import { Keys, POSITIONS, PUBLISH, READ } from "./redis-scripts.js";
import { type Topology, topologyOf } from "./redis-topology.js";

export { BrokerError } from "./broker.js";

/** What harpia needs of a client that was made with node-redis' `createClient`. */
export interface RedisClient {
  readonly isReady: boolean;
  readonly options?: RedisClientOptions | undefined;
  sendCommand(command: readonly string[], options?: object): Promise<unknown>;
  duplicate(overrides?: object): object;
  on(event: "ready", listener: () => void): unknown;
  off(event: "ready", listener: () => void): unknown;
}

/** Where Redis is: one of `url`, `client`, `cluster` and `sentinel`; none is `redis://localhost:6379`. */
export interface RedisOptions {
  /** `redis://user:password@host:6379/0`, `rediss://…` for TLS, or `unix:///path`. */
  url?: string | undefined;
  /**
   * A client of your own, made with `createClient` and connected: commands travel over it, and it is yours to close.
   * Subscriptions get a connection of their own, made like it.
   */
  client?: RedisClient | undefined;
  /** URLs of some nodes of a Redis Cluster, version 7 or later. User, password and TLS of the first are those of all. */
  cluster?: readonly string[] | undefined;
  /** The primary's name, and the URLs of the sentinels. User, password and TLS of the primary go into `connection`. */
  sentinel?: { readonly name: string; readonly nodes: readonly string[] } | undefined;
  /** More for each connection, as node-redis' `createClient` takes it: `username`, `password`, `socket: { tls, ca }`, …. */
  connection?: RedisClientOptions | undefined;
  /** In front of every key and channel. Default `"harpia:"`. */
  prefix?: string | undefined;
  /** Milliseconds after which a call is rejected and a silent connection is replaced. Default 5,000. */
  timeout?: number | undefined;
  /**
   * This Redis never loses what it has acknowledged (`appendfsync always`, and no failover): epochs go on after a
   * restart. Default `false`: a Redis that was restarted or promoted begins new epochs.
   */
  durable?: boolean | undefined;
}

/** Topics asked for with one script. */
const TOPICS_AT_ONCE = 200;

/**
 * A broker on Redis 6.2 or later (7 for a cluster), for any number of processes. It connects in the background, and
 * again whenever it must: while Redis is away, calls reject with `BROKER_UNAVAILABLE` within `timeout`, and
 * `health()` says why. Throws `BROKER_INVALID_OPTION` for options that cannot work. Needs the package `redis`.
 */
export function redis(options: RedisOptions = {}): Broker {
  return new RedisBroker(options);
}

class RedisBroker implements Broker {
  readonly name = "redis";
  readonly shared = true;
  readonly presence: RedisPresence;
  onReconnect?: (() => void) | undefined;
  readonly #topology: Topology;
  readonly #commands: Commands;
  readonly #feed: RedisFeed;
  readonly #prefix: string;
  readonly #durable: string;
  readonly #publish: string;
  #closing: Promise<void> | undefined;

  constructor(options: RedisOptions) {
    const { prefix, timeout, durable } = checkOptions(options);
    const deadline = new Deadline(timeout);
    this.#prefix = prefix;
    this.#durable = durable ? "1" : "0";
    this.#topology = topologyOf(options, timeout);
    this.#publish = this.#topology.cluster ? "SPUBLISH" : "PUBLISH";
    this.#commands = new Commands(this.#topology, deadline, options.client);
    this.#feed = new RedisFeed(this.#topology, deadline);
    this.#commands.changed = () => void this.#feed.follow();
    this.#feed.lost = () => {
      if (this.#topology.cluster && !this.#closing) void this.#commands.follow();
    };
    this.#feed.reconnected = () => this.onReconnect?.();
    // To make good what was missed takes both: whichever comes back last.
    this.#commands.reconnected = () => {
      if (this.#feed.trouble() === undefined) this.onReconnect?.();
    };
    this.presence = new RedisPresence({
      commands: this.#commands,
      keys: (topic) => this.#keys(topic),
      publish: this.#publish,
      durable: this.#durable,
    });
  }

  async publish(topic: string, payload: string, options: PublishOptions): Promise<Position | undefined> {
    const { history, idempotencyKey, except } = options;
    const keys = this.#keys(topic);
    const what = `publish to ${topic}`;
    if (history === undefined) {
      await this.#commands.send(keys.channel, [this.#publish, keys.channel, encode(payload, except)], what);
      return undefined;
    }
    const reply = await this.#commands.run(
      PUBLISH,
      idempotencyKey === undefined
        ? [keys.meta, keys.log]
        : [keys.meta, keys.log, keys.idempotency(idempotencyKey)],
      [
        this.#durable,
        this.#publish,
        keys.channel,
        header(except),
        payload,
        String(history.size),
        String(Math.max(1, Math.round(history.ttl * 1000))),
      ],
      what,
    );
    const position = reply as string; // as the script returns it
    const space = position.indexOf(" ");
    return { epoch: position.slice(0, space), offset: Number(position.slice(space + 1)) };
  }

  async subscribe(topic: string, deliver: Deliver, options: { history: boolean }): Promise<Subscription> {
    if (this.#closing) throw closed();
    if (this.#topology.cluster) await this.#commands.known();
    const keys = this.#keys(topic);
    const { position, stop } = await this.#feed.subscribe(
      keys.channel,
      deliver,
      options.history
        ? async (client) =>
            positionsIn(await evaluate(client, POSITIONS, [keys.meta, keys.log], [this.#durable]))[0]!
        : undefined,
      `subscribe to ${topic}`,
    );
    return { position, unsubscribe: async () => stop() };
  }

  async read(topic: string, range: Range, limits: PageLimits): Promise<Page> {
    const keys = this.#keys(topic);
    const back = "before" in range;
    const reply = (await this.#commands.run(
      READ,
      [keys.meta, keys.log],
      [this.#durable, String(limits.messages), String(limits.bytes), ...wordsOf(range)],
      `read ${topic}`,
    )) as (string | number)[]; // as the script returns it
    const messages = [];
    for (let i = 4; i < reply.length; i += 2)
      messages.push({ offset: Number(reply[i]), payload: String(reply[i + 1]) });
    return {
      position: { epoch: String(reply[0]), offset: Number(reply[1]) },
      recovered: reply[2] === 1,
      messages: back ? messages.reverse() : messages,
      complete: reply[3] === 1,
    };
  }

  async positions(topics: readonly string[]): Promise<(Position | undefined)[]> {
    if (this.#closing) throw closed();
    const pages: Promise<unknown>[] = [];
    // In a cluster each topic has a slot of its own; one script cannot have keys of several.
    const atOnce = this.#topology.cluster ? 1 : TOPICS_AT_ONCE;
    for (let start = 0; start < topics.length; start += atOnce) {
      const keys = topics.slice(start, start + atOnce).flatMap((topic) => {
        const { meta, log } = this.#keys(topic);
        return [meta, log];
      });
      pages.push(this.#commands.run(POSITIONS, keys, [this.#durable], "read positions"));
    }
    if (!this.#topology.cluster) return (await Promise.all(pages)).flatMap(positionsIn);
    // What one server cannot tell must not keep back what the others can.
    const settled = await Promise.allSettled(pages);
    if (settled.every(({ status }) => status === "rejected")) await Promise.all(pages);
    return settled.map((page) => (page.status === "fulfilled" ? positionsIn(page.value)[0] : undefined));
  }

  health(): BrokerHealth {
    if (this.#closing) return { ok: false, reason: "closed" };
    const troubles = Object.entries({
      commands: this.#commands.trouble(),
      subscriptions: this.#feed.trouble(),
    }).flatMap(([what, why]) => (why === undefined ? [] : `${what}: ${why}`));
    if (troubles.length === 0) return { ok: true };
    return { ok: false, reason: `${this.#topology.description}: ${troubles.join("; ")}` };
  }

  close(): Promise<void> {
    this.#closing ??= Promise.all([this.#commands.close(), this.#feed.close()]).then(() => {});
    return this.#closing;
  }

  #keys(topic: string): Keys {
    return new Keys(this.#prefix, topic);
  }
}

/** A range, as the script takes it. */
function wordsOf(range: Range): string[] {
  if ("last" in range) return ["last", String(range.last)];
  if ("before" in range) return ["before", String(range.before.offset), range.before.epoch];
  return ["after", String(range.after.offset), range.after.epoch];
}

function positionsIn(reply: unknown): Position[] {
  const words = reply as (string | number)[]; // as the script returns it
  const positions: Position[] = [];
  for (let i = 0; i < words.length; i += 2)
    positions.push({ epoch: String(words[i]), offset: Number(words[i + 1]) });
  return positions;
}
