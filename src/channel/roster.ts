// Who is present in one topic, as this process has told it to its clients: joins and leaves, batched, and made good
// by comparing with the broker's list.

import { type Broker, BrokerError, type Members, type Subscription } from "../broker/broker.js";
import { changeIn } from "../broker/presence.js";
import { encodeNotification } from "../contract/frames.js";
import type { Feed } from "./feed.js";

const BATCH_MS = 50;

export class Roster {
  readonly #feed: Feed;
  readonly #broker: Broker;
  readonly #key: string;
  readonly #max: number;
  readonly #lease: number;
  /** What clients have been told, or are about to be: info by key. */
  readonly #told = new Map<string, string>();
  /** What they are about to be told; `undefined`: the member has gone. */
  readonly #pending = new Map<string, string | undefined>();
  /** What `snapshot` gives, until somebody comes or goes. */
  #snapshot: string | undefined;
  #flush: ReturnType<typeof setTimeout> | undefined;
  /** Members whose connection is one of this process: key by owner. */
  readonly #own = new Map<string, { key: string; info: string }>();
  #subscription: Promise<Subscription> | undefined;
  /** The list that is on its way, and the one after it. */
  #listing: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  /** Keys that were heard of since the list that is on its way was asked for. */
  readonly #heard = new Set<string>();
  #epoch: string | undefined;
  #renewedAt = performance.now();
  /** Until then nobody is taken for gone because a list lacks them. */
  #doubtUntil = 0;
  #ended = false;

  constructor(feed: Feed, broker: Broker, key: string, { max, leaseMs }: { max: number; leaseMs: number }) {
    this.#feed = feed;
    this.#broker = broker;
    this.#key = key;
    this.#max = max;
    // Only others could outlive us: in a broker of our own a lease has nothing to end.
    this.#lease = broker.shared ? leaseMs : Number.POSITIVE_INFINITY;
  }

  /** Resolves when changes reach us. */
  async ready(): Promise<void> {
    this.#subscription ??= this.#broker.subscribe(
      this.#key,
      ({ payload }) => {
        const { key, info } = changeIn(payload);
        if (this.#listing) this.#heard.add(key);
        this.#note(key, info);
      },
      { history: false },
    );
    const subscription = this.#subscription;
    try {
      await subscription;
    } catch (error) {
      if (this.#subscription === subscription) this.#subscription = undefined;
      throw error;
    }
  }

  /** The key of a connection of this process, if it is a member. */
  keyOf(owner: string): string | undefined {
    return this.#own.get(owner)?.key;
  }

  async enter(owner: string, key: string, info: string): Promise<void> {
    this.#own.set(owner, { key, info });
    await this.#broker.presence.put(this.#key, key, owner, info, this.#lease);
  }

  /** Never rejects: a member that could not be removed goes when its lease ends. */
  async leave(owner: string): Promise<void> {
    const member = this.#own.get(owner);
    if (member === undefined) return;
    this.#own.delete(owner);
    await this.#broker.presence.remove(this.#key, member.key, owner).catch(ifAway);
  }

  /** All members as JSON for an answer: `"members":[…],"count":n`, or only the count when there are too many. */
  async snapshot(): Promise<string> {
    await this.#list();
    return (this.#snapshot ??= this.#write());
  }

  /** Renews the leases of our own, and finds what changed without our hearing of it. Never rejects: it comes again. */
  async renew(): Promise<void> {
    const { presence } = this.#broker;
    try {
      const puts = await Promise.all(
        [...this.#own].map(([owner, { key, info }]) =>
          presence.put(this.#key, key, owner, info, this.#lease),
        ),
      );
      if (puts.some(({ appeared }) => appeared)) this.#doubt();
      await this.#list();
      this.#renewedAt = performance.now();
    } catch (error) {
      ifAway(error);
    }
  }

  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#flush);
    const subscription = await this.#subscription?.catch(() => undefined);
    await subscription?.unsubscribe().catch(() => {}); // a broker that is away has forgotten us by itself
  }

  /** What is asked for while a list is on its way gets the next one, all of it the same: this one may be too old. */
  #list(): Promise<void> {
    if (this.#listing === undefined) {
      this.#heard.clear();
      this.#listing = this.#broker.presence
        .list(this.#key)
        .then((members) => this.#compare(members))
        .finally(() => (this.#listing = undefined));
      return this.#listing;
    }
    const again = (): Promise<void> => {
      this.#next = undefined;
      return this.#list();
    };
    return (this.#next ??= this.#listing.then(again, again));
  }

  #compare({ members, epoch }: Members): void {
    const now = performance.now();
    const lost = this.#epoch !== undefined && epoch !== this.#epoch;
    if (lost || now - this.#renewedAt > this.#lease / 2) this.#doubt();
    this.#epoch = epoch;
    const listed = new Map(members.map(({ key, info }) => [key, info]));
    // What was heard meanwhile is newer than the list, or all that is newer than it is still to come.
    for (const key of this.#told.keys())
      if (!listed.has(key) && !this.#heard.has(key) && now >= this.#doubtUntil) this.#note(key, undefined);
    for (const [key, info] of listed) if (!this.#heard.has(key)) this.#note(key, info);
  }

  #write(): string {
    const count = `"count":${this.#told.size}`;
    if (this.#told.size > this.#max) return count;
    return `"members":[${[...this.#told].map(([key, info]) => memberJson(key, info)).join(",")}],${count}`;
  }

  /** The store has lost leases, or nobody could renew theirs: whoever is there says so within the time of a lease. */
  #doubt(): void {
    this.#doubtUntil = performance.now() + this.#lease;
  }

  #note(key: string, info: string | undefined): void {
    if (this.#ended || this.#told.get(key) === info) return;
    this.#snapshot = undefined;
    if (info === undefined) this.#told.delete(key);
    else this.#told.set(key, info);
    this.#pending.set(key, info);
    this.#flush ??= setTimeout(() => this.#send(), BATCH_MS);
  }

  #send(): void {
    this.#flush = undefined;
    const topic = this.#feed.name;
    if (this.#told.size > this.#max) {
      this.#pending.clear();
      return this.#feed.fanOut(encodeNotification("$/presence", { topic, count: this.#told.size }));
    }
    const join: string[] = [];
    const leave: string[] = [];
    for (const [key, info] of this.#pending) {
      if (info === undefined) leave.push(JSON.stringify(key));
      else join.push(memberJson(key, info));
    }
    this.#pending.clear();
    const joins = join.length > 0 ? `,"join":[${join.join(",")}]` : "";
    const leaves = leave.length > 0 ? `,"leave":[${leave.join(",")}]` : "";
    this.#feed.fanOut(
      `{"jsonrpc":"2.0","method":"$/presence","params":{"topic":${JSON.stringify(topic)}${joins}${leaves}}}`,
    );
  }
}

function memberJson(key: string, info: string): string {
  return `{"key":${JSON.stringify(key)},"info":${info}}`;
}

/** For what is done again anyway: passes on any error but that the broker is away. */
export function ifAway(error: unknown): void {
  if (!(error instanceof BrokerError)) throw error;
}
