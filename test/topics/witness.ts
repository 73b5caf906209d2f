// What was published, and what each subscription was handed of it: says so if anything is lost, doubled, out of order
// or not what it was.

import type { Subscription } from "harpia/client";
import { trueEpoch } from "./chaotic-broker.js";

export interface Payload {
  id: number;
  pad: string;
}

export type Kind = "log" | "short" | "latest" | "plain";

interface Place {
  epoch: string;
  offset: number;
}

/** What was published where, as far as anybody has said. */
export class Truth {
  readonly wrong: string[] = [];
  readonly published = new Map<number, { topic: string; pad: number }>();
  readonly #at = new Map<string, number>();
  readonly #places = new Map<string, string>();
  /** Publications that were not for somebody, `id` and who. */
  readonly excepted = new Set<string>();

  fail(what: string): void {
    if (this.wrong.length < 20) this.wrong.push(what);
  }

  /** Somebody says that this is what stands there. */
  seen(who: string, topic: string, place: Place, id: number): void {
    const epoch = trueEpoch(place.epoch);
    const key = `${topic} ${epoch} ${place.offset}`;
    const known = this.#at.get(key);
    if (known !== undefined && known !== id) this.fail(`${who}: ${key} is ${id}, and was ${known} to others`);
    this.#at.set(key, id);
    const before = this.#places.get(`${topic} ${epoch} ${id}`);
    if (before !== undefined && before !== key) this.fail(`${who}: ${id} is at ${key}, and at ${before}`);
    this.#places.set(`${topic} ${epoch} ${id}`, key);
  }

  at(topic: string, { epoch, offset }: Place): number | undefined {
    return this.#at.get(`${topic} ${trueEpoch(epoch)} ${offset}`);
  }
}

/** One subscription, watched. */
export class Witness {
  readonly who: string;
  readonly topic: string;
  readonly kind: Kind;
  readonly subscription: Subscription<Payload, unknown>;
  resets = 0;
  received = 0;
  /** The last that was handed over. */
  last: (Place & { id: number }) | undefined;
  /** Numbers that did not come: right if the publication was not for this one. */
  readonly skipped: Place[] = [];
  /** The places between which a reset was told. */
  readonly resetsTold: { from: Place; to: Place }[] = [];
  readonly #truth: Truth;
  #mayJump = true;
  readonly #plain = new Set<number>();
  /** What the listener has had, for the iterator to compare with. */
  readonly #expected: number[] = [];
  #iterates = false;

  constructor(
    who: string,
    topic: string,
    kind: Kind,
    subscription: Subscription<Payload, unknown>,
    truth: Truth,
    pace: (() => Promise<void>) | undefined,
  ) {
    this.who = who;
    this.topic = topic;
    this.kind = kind;
    this.subscription = subscription;
    this.#truth = truth;
    subscription.on("message", ({ data, offset }) => this.#message(data, offset));
    subscription.on("reset", () => this.#reset());
    this.#iterates = pace !== undefined;
    // What it ends with, `error` says too.
    if (pace) this.#iterate(pace).catch(() => {});
  }

  #message({ id, pad }: Payload, offset: number | undefined): void {
    this.received++;
    const truth = this.#truth;
    const published = truth.published.get(id);
    if (published?.topic !== this.topic)
      truth.fail(`${this.who} ${this.topic}: ${id} was never published here`);
    else if (published.pad !== pad.length) truth.fail(`${this.who} ${this.topic}: ${id} is not what it was`);
    if (this.#iterates) this.#expected.push(id);
    if (this.kind === "plain") {
      if (this.#plain.has(id)) truth.fail(`${this.who} ${this.topic}: ${id} came twice`);
      this.#plain.add(id);
      return;
    }
    const { epoch } = this.subscription.position!;
    if (offset !== this.subscription.position!.offset)
      truth.fail(`${this.who} ${this.topic}: ${offset} is not where it stands`);
    const place = { epoch, offset: offset! };
    truth.seen(this.who, this.topic, place, id);
    this.#follows(place);
    this.last = { ...place, id };
    this.#mayJump = false;
  }

  #follows(place: Place): void {
    const last = this.last;
    if (this.#mayJump || last === undefined) return;
    const told = `${this.who} ${this.topic}: ${place.epoch} ${place.offset} came after ${last.epoch} ${last.offset}`;
    if (place.epoch !== last.epoch) return this.#truth.fail(`${told}, and no reset`);
    if (place.offset <= last.offset) return this.#truth.fail(`${told}: twice, or out of order`);
    if (this.kind === "latest") return;
    for (let offset = last.offset + 1; offset < place.offset; offset++)
      this.skipped.push({ epoch: place.epoch, offset });
  }

  #reset(): void {
    this.resets++;
    const { position } = this.subscription;
    if (this.last && position) this.resetsTold.push({ from: this.last, to: position });
    this.#mayJump = true;
    this.last = undefined;
  }

  async #iterate(pace: () => Promise<void>): Promise<void> {
    for await (const { data } of this.subscription) {
      const expected = this.#expected.shift();
      if (data.id !== expected)
        return this.#truth.fail(
          `${this.who} ${this.topic}: the iterator gave ${data.id}, the listener ${expected}`,
        );
      await pace();
    }
  }

  /** Looks at what did not come. */
  checkSkipped(): void {
    for (const place of this.skipped.splice(0)) {
      const id = this.#truth.at(this.topic, place);
      if (id !== undefined && this.#truth.excepted.has(`${id} ${this.who}`)) continue;
      this.#truth.fail(`${this.who} ${this.topic}: ${place.epoch} ${place.offset} (${id}) never came`);
    }
  }
}
