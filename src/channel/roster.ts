// Who is present in one topic, as this process has told it to its clients: joins and leaves, batched, and made good
// by comparing with the broker's list.

import { type Broker, BrokerError, type Member, type Subscription } from "../broker/broker.js";
import { encodeNotification } from "../contract/frames.js";
import type { Feed } from "./feed.js";

const BATCH_MS = 50;

/** `info` is JSON; `null`: the member has gone. */
type Change = { key: string; info: string | null };

export class Roster {
  readonly #feed: Feed;
  readonly #broker: Broker;
  readonly #key: string;
  readonly #max: number;
  readonly #lease: number;
  /** What clients have been told, or are about to be. */
  #told = new Map<string, string>();
  readonly #pending = new Map<string, string | null>();
  #flush: ReturnType<typeof setTimeout> | undefined;
  #look: ReturnType<typeof setTimeout> | undefined;
  /** Members whose connection is one of this process: key by owner. */
  readonly #own = new Map<string, { key: string; info: string }>();
  #subscription: Promise<Subscription> | undefined;

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
        const change = JSON.parse(payload) as Change;
        this.#note(change.key, change.info);
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
    const { appeared } = await this.#broker.presence.put(this.#key, key, owner, info, this.#lease);
    if (appeared) await this.#tell({ key, info });
  }

  /** Never rejects: a member that could not be removed goes when its lease ends. */
  async leave(owner: string): Promise<void> {
    const member = this.#own.get(owner);
    if (member === undefined) return;
    this.#own.delete(owner);
    try {
      const { vanished } = await this.#broker.presence.remove(this.#key, member.key, owner);
      if (vanished) await this.#tell({ key: member.key, info: null });
      // Another connection of the same member stays, and what it said of it may be something else.
      else this.#look ??= setTimeout(() => this.#lookAgain(), BATCH_MS);
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
    }
  }

  /** All members as JSON for an answer: `"members":[…],"count":n`, or only the count when there are too many. */
  async snapshot(): Promise<string> {
    const members = await this.#list();
    const count = `"count":${members.length}`;
    if (members.length > this.#max) return count;
    return `"members":[${members.map(({ key, info }) => memberJson(key, info)).join(",")}],${count}`;
  }

  /** Renews the leases of our own, and finds what changed without our hearing of it. */
  async renew(): Promise<void> {
    const { presence } = this.#broker;
    await Promise.all(
      [...this.#own].map(([owner, { key, info }]) => presence.put(this.#key, key, owner, info, this.#lease)),
    );
    await this.#list();
  }

  async end(): Promise<void> {
    clearTimeout(this.#flush);
    clearTimeout(this.#look);
    this.#pending.clear();
    const subscription = await this.#subscription?.catch(() => undefined);
    await subscription?.unsubscribe().catch(() => {}); // a broker that is away has forgotten us by itself
  }

  async #list(): Promise<Member[]> {
    const members = await this.#broker.presence.list(this.#key);
    const truth = new Map(members.map(({ key, info }) => [key, info]));
    for (const key of this.#told.keys()) if (!truth.has(key)) this.#note(key, null);
    for (const [key, info] of truth) if (this.#told.get(key) !== info) this.#note(key, info);
    return members;
  }

  #lookAgain(): void {
    this.#look = undefined;
    this.#list().catch(() => {}); // away: then the next look finds it
  }

  async #tell(change: Change): Promise<void> {
    await this.#broker.publish(this.#key, JSON.stringify(change), {});
  }

  #note(key: string, info: string | null): void {
    if (info === null) this.#told.delete(key);
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
      if (info === null) leave.push(JSON.stringify(key));
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
