// A broker with faults: it loses, delays and reorders what it delivers, fails before or after it has stored, and gives
// an epoch another name for a while. Without any of that it is the broker inside, and counts what is subscribed.

import {
  type Broker,
  BrokerError,
  type BrokerHealth,
  type Deliver,
  type Members,
  type Page,
  type PageLimits,
  type Position,
  type Presence,
  type PublishOptions,
  type Range,
  type Subscription,
} from "../../src/broker/broker.js";

export interface BrokerFaults {
  /** Chances from 0 to 1, for each delivery or call. */
  drop: number;
  delay: number;
  fail: number;
}

export const NO_FAULTS: BrokerFaults = { drop: 0, delay: 0, fail: 0 };

/** What a renamed epoch ends with. */
const RENAMED = "'";

export class ChaoticBroker implements Broker {
  readonly name = "chaotic";
  readonly shared: boolean;
  onReconnect: (() => void) | undefined;
  readonly presence: Presence;
  faults = NO_FAULTS;
  /** Deliveries lost, late, and calls that failed. */
  readonly counts = { dropped: 0, delayed: 0, failed: 0 };
  /** Subscriptions of topics and their presence that have not been ended, by name. */
  readonly subscribed = new Map<string, number>();
  readonly #inner: Broker;
  readonly #random: () => number;
  readonly #renamed = new Set<string>();

  constructor(inner: Broker, shared: boolean, random: () => number) {
    this.#inner = inner;
    this.shared = shared;
    this.#random = random;
    this.presence = {
      put: async (topic, key, owner, info, leaseMs): Promise<{ appeared: boolean }> => {
        await this.#mayFail();
        return await inner.presence.put(topic, key, owner, info, leaseMs);
      },
      // One that fails is made good when its lease ends, after 30 seconds: too long to wait for.
      remove: (topic, key, owner): Promise<{ vanished: boolean }> => inner.presence.remove(topic, key, owner),
      list: async (topic): Promise<Members> => {
        await this.#mayFail();
        return await inner.presence.list(topic);
      },
    };
  }

  /** The broker without the faults. */
  get inner(): Broker {
    return this.#inner;
  }

  /** The topic's epoch is another one, or again the one that it was. */
  rename(topic: string): void {
    if (!this.#renamed.delete(topic)) this.#renamed.add(topic);
  }

  async publish(topic: string, payload: string, options: PublishOptions): Promise<Position | undefined> {
    if (options.history !== undefined) await this.#mayFail();
    const position = await this.#inner.publish(topic, payload, options);
    if (options.history !== undefined) await this.#mayFail();
    return position && this.#out(topic, position);
  }

  async subscribe(topic: string, deliver: Deliver, options: { history: boolean }): Promise<Subscription> {
    await this.#mayFail();
    const counted = /^[tp] /.test(topic);
    let ended = false;
    const faulty: Deliver = (publication) => {
      const hand = (): void => {
        if (ended) return;
        const { position } = publication;
        deliver({ ...publication, position: position && this.#out(topic, position) });
      };
      if (this.#happens(this.faults.drop)) return void this.counts.dropped++;
      if (!this.#happens(this.faults.delay)) return hand();
      this.counts.delayed++;
      setTimeout(hand, this.#random() * 20);
    };
    const { position, unsubscribe } = await this.#inner.subscribe(topic, faulty, options);
    if (counted) this.subscribed.set(topic, (this.subscribed.get(topic) ?? 0) + 1);
    return {
      position: position && this.#out(topic, position),
      unsubscribe: async () => {
        if (ended) return;
        ended = true;
        const left = (this.subscribed.get(topic) ?? 0) - 1;
        if (left > 0) this.subscribed.set(topic, left);
        else if (counted) this.subscribed.delete(topic);
        await unsubscribe();
      },
    };
  }

  async read(topic: string, range: Range, limits: PageLimits): Promise<Page> {
    await this.#mayFail();
    const inner = this.#in(topic, range);
    const page = await this.#inner.read(topic, inner, limits);
    return { ...page, position: this.#out(topic, page.position) };
  }

  async positions(topics: readonly string[]): Promise<(Position | undefined)[]> {
    await this.#mayFail();
    const positions = await this.#inner.positions(topics);
    return positions.map((position, index) => position && this.#out(topics[index]!, position));
  }

  health(): BrokerHealth {
    return this.#inner.health();
  }

  async close(): Promise<void> {
    await this.#inner.close();
  }

  #out(topic: string, { epoch, offset }: Position): Position {
    return { epoch: this.#renamed.has(topic) ? epoch + RENAMED : epoch, offset };
  }

  #in(topic: string, range: Range): Range {
    const translate = ({ epoch, offset }: Position): Position => {
      if (!this.#renamed.has(topic)) return { epoch, offset };
      return { epoch: epoch.endsWith(RENAMED) ? epoch.slice(0, -RENAMED.length) : "another", offset };
    };
    if ("after" in range) return { after: translate(range.after) };
    if ("before" in range) return { before: translate(range.before) };
    return range;
  }

  async #mayFail(): Promise<void> {
    if (!this.#happens(this.faults.fail)) return;
    this.counts.failed++;
    await new Promise((resolve) => setTimeout(resolve, this.#random() * 5));
    throw new BrokerError("BROKER_UNAVAILABLE", "away, as the test wants it");
  }

  #happens(chance: number): boolean {
    return chance > 0 && this.#random() < chance;
  }
}

/** The epoch under its first name. */
export function trueEpoch(epoch: string): string {
  return epoch.endsWith(RENAMED) ? epoch.slice(0, -RENAMED.length) : epoch;
}
