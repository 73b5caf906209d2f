// The topics that a client is subscribed to, and harpia's own frames about them. Subscriptions to one topic share the
// wire: one `$/subscribe` where they ask the same, one `$/unsubscribe` when the last has gone.

import { encodeNotification, type ErrorObject } from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import { backoff } from "./backoff.js";
import type { Calls } from "./calls.js";
import { PresenceView } from "./presence.js";
import type { MessageFrame, PageFrame, Position } from "./reader.js";
import { type Link, Subscription } from "./subscription.js";

/** What `client.subscribe` takes beside the topic. */
export interface SubscribeOptions {
  /** Begin with the newest so many messages; they also come after a `reset`. Default 0. */
  last?: number;
  /** Begin after this position, that of a state which you have: from your database, or a page made on the server. */
  after?: Position;
}

/** Errors after which asking again may do better; after others it is no use. */
const PASSING: readonly unknown[] = ["TIMEOUT", "UNAVAILABLE", "INTERNAL"];

interface Wire {
  calls: Calls;
  send(text: string): boolean;
}

interface Question {
  id: number;
  what: string;
  /** How many frames of the topic had come when it was put. */
  frames: number;
  asked: { by: Subscription; answer(page: PageFrame): void }[];
}

export class Topics {
  readonly #wire: Wire;
  readonly #topics = new Map<string, Topic>();
  #up = false;

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  subscribe(name: string, options: SubscribeOptions & { coalesce: boolean }): Subscription {
    let topic = this.#topics.get(name);
    if (topic === undefined) {
      topic = new Topic(name, this.#wire, () => this.#topics.delete(name));
      this.#topics.set(name, topic);
    }
    const subscription = new Subscription(topic, options);
    topic.enter(subscription, this.#up);
    return subscription;
  }

  /** Takes one of harpia's own notifications. `size`: of its frame. */
  receive(method: string, params: Record<string, unknown>, size: number): void {
    if (method === "$/position") {
      for (const { topic, ...position } of params.topics as ({ topic: string } & Position)[])
        this.#topics.get(topic)?.located(position, params.dropped === true);
      return;
    }
    const topic = this.#topics.get(params.topic as string);
    if (method === "$/message") topic?.message(params, size);
    else if (method === "$/presence") topic?.presence.changed(params);
    else if (method === "$/unsubscribed") topic?.end(RpcError.from(params as unknown as ErrorObject));
  }

  /** There is a socket. */
  connected(): void {
    this.#up = true;
    for (const topic of this.#topics.values()) topic.connected();
  }

  /** There is none any more. */
  disconnected(): void {
    this.#up = false;
    for (const topic of this.#topics.values()) topic.disconnected();
  }

  /** There will be none any more. */
  end(error: RpcError | undefined): void {
    for (const topic of this.#topics.values()) topic.end(error);
  }
}

class Topic implements Link {
  readonly presence: PresenceView;
  readonly name: string;
  readonly #wire: Wire;
  readonly #onEnd: () => void;
  readonly #subscriptions = new Set<Subscription>();
  readonly #questions = new Set<Question>();
  #frames = 0;
  #failures = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(name: string, wire: Wire, onEnd: () => void) {
    this.name = name;
    this.#wire = wire;
    this.#onEnd = onEnd;
    this.presence = new PresenceView(() => this.ask("$/presence", {}));
  }

  enter(subscription: Subscription, up: boolean): void {
    this.#subscriptions.add(subscription);
    if (up) subscription.reader.subscribe();
  }

  message(frame: MessageFrame, size: number): void {
    this.#frames++;
    for (const { reader } of this.#subscriptions) reader.message(frame, size);
  }

  /** Where it stands; without a history it has no place. */
  located(position: Partial<Position>, dropped: boolean): void {
    this.#frames++;
    for (const { reader } of this.#subscriptions) reader.located(position);
    if (dropped) this.presence.stale();
  }

  connected(): void {
    for (const { reader } of this.#subscriptions) reader.subscribe();
  }

  disconnected(): void {
    this.#drop();
    this.presence.disconnected();
    for (const subscription of this.#subscriptions) {
      subscription.reader.disconnected();
      subscription.enter("pending");
    }
  }

  /** It is over, and not by us. */
  end(error: RpcError | undefined): void {
    this.#close();
    for (const subscription of this.#subscriptions) subscription.end(error);
    this.#subscriptions.clear();
  }

  leave(subscription: Subscription): void {
    subscription.reader.disconnected();
    if (!this.#subscriptions.delete(subscription) || this.#subscriptions.size > 0) return;
    this.#close();
    this.#wire.send(encodeNotification("$/unsubscribe", { topic: this.name }));
  }

  history(before: Position, limit: number | undefined): Promise<PageFrame> {
    // The server has made it what it is said to be.
    return this.#wire.calls.request(
      "$/history",
      { topic: this.name, before, limit },
      {},
    ) as Promise<PageFrame>;
  }

  #close(): void {
    this.#drop();
    this.#onEnd();
  }

  /** Lets go of what was asked. */
  #drop(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const { id } of this.#questions) this.#wire.calls.cancel(id);
    this.#questions.clear();
  }

  /** @param by none: only the presence is of interest, which is in other answers too. */
  ask(method: string, params: object, by?: Subscription, answer?: (page: PageFrame) => void): void {
    // It may have left in the middle of a page, by a listener.
    if (by && !this.#subscriptions.has(by)) return;
    const askers = by && answer ? [{ by, answer }] : [];
    const what = method + JSON.stringify(params);
    for (const question of this.#questions) {
      // An answer that was under way before the last frame came might not know of it.
      if (question.what === what && question.frames === this.#frames)
        return void question.asked.push(...askers);
    }
    const { id, ended } = this.#wire.calls.begin(method, { topic: this.name, ...params });
    const question: Question = { id, what, frames: this.#frames, asked: askers };
    this.#questions.add(question);
    ended.then(
      (result) => {
        if (!this.#questions.delete(question)) return;
        this.#failures = 0;
        this.presence.snapshot(result as object);
        for (const { answer } of question.asked) answer(result as PageFrame);
      },
      (error: RpcError) => {
        if (this.#questions.delete(question)) this.#failed(error, question);
      },
    );
  }

  #failed(error: RpcError, { asked }: Question): void {
    this.presence.disconnected();
    if (!PASSING.includes(error.reason)) {
      for (const { by } of asked) {
        // The server may have let it in before it failed.
        this.leave(by);
        by.end(error);
      }
      return;
    }
    this.#retry ??= setTimeout(
      () => {
        this.#retry = undefined;
        this.connected();
      },
      backoff(this.#failures++, 0),
    );
  }
}
