// The topics that a client is subscribed to, and harpia's own frames about them. Subscriptions to one topic share the
// wire: one `$/subscribe` where they ask the same, one `$/unsubscribe` when the last has gone.

import { encodeNotification, type ErrorObject } from "../contract/frames.js";
import { RpcError, type RpcReason } from "../contract/rpc-error.js";
import { backoff } from "./backoff.js";
import type { Calls } from "./calls.js";
import { PresenceView } from "./presence.js";
import { type MessageFrame, type PageFrame, type Position, Reader } from "./reader.js";
import { Subscription } from "./subscription.js";

/** What `client.subscribe` takes beside the topic. */
export interface SubscribeOptions {
  /** Begin with the newest so many messages; they also come after a `reset`. Default 0. */
  last?: number;
  /** Begin after this position, that of a state which you have: from your database, or a page made on the server. */
  after?: Position;
}

/** Errors for which asking again is no use. */
const FINAL = new Set<RpcReason | undefined>(
  "FORBIDDEN CONTRACT INVALID_PARAMS INVALID_REQUEST METHOD_NOT_FOUND RATE_LIMITED CLOSED".split(
    " ",
  ) as RpcReason[],
);

interface Wire {
  calls: Calls;
  send(text: string): boolean;
}

interface Seat {
  reader: Reader;
  subscription: Subscription;
}

interface Question {
  id: number;
  what: string;
  /** How many frames of the topic had come when it was put. */
  frames: number;
  asked: { seat: Seat; answer(page: PageFrame): void }[];
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
    return topic.enter(options, this.#up);
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

class Topic {
  readonly presence: PresenceView;
  readonly #name: string;
  readonly #wire: Wire;
  readonly #onEnd: () => void;
  readonly #seats = new Set<Seat>();
  readonly #questions = new Set<Question>();
  #frames = 0;
  #failures = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(name: string, wire: Wire, onEnd: () => void) {
    this.#name = name;
    this.#wire = wire;
    this.#onEnd = onEnd;
    this.presence = new PresenceView(() => this.#wire.calls.request("$/presence", { topic: name }, {}));
  }

  enter({ last, after, coalesce }: SubscribeOptions & { coalesce: boolean }, up: boolean): Subscription {
    const name = this.#name;
    const seat = {} as Seat; // filled in right here
    seat.reader = new Reader({
      last,
      after,
      coalesce,
      ask: (method, params, answer) => this.#ask(method, params, { seat, answer }),
      hand: (data, position) => seat.subscription.hand(data, position),
      reset: () => seat.subscription.reset(),
      live: () => seat.subscription.enter("live"),
    });
    seat.subscription = new Subscription(name, {
      presence: this.presence,
      position: () => seat.reader.position,
      history: (before, limit) =>
        this.#wire.calls.request("$/history", { topic: name, before, limit }, {}) as Promise<PageFrame>,
      pause: () => seat.reader.pause(),
      resume: () => seat.reader.resume(),
      leave: () => this.#leave(seat),
    });
    this.#seats.add(seat);
    if (up) seat.reader.connected();
    return seat.subscription;
  }

  message(frame: MessageFrame, size: number): void {
    this.#frames++;
    for (const { reader } of this.#seats) reader.message(frame, size);
  }

  /** Where it stands; without a history it has no place. */
  located(position: Partial<Position>, dropped: boolean): void {
    if (position.epoch !== undefined)
      for (const { reader } of this.#seats) reader.located(position as Position);
    if (dropped) this.presence.stale();
  }

  connected(): void {
    for (const { reader } of this.#seats) reader.connected();
  }

  disconnected(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const { id } of this.#questions) this.#wire.calls.cancel(id);
    this.#questions.clear();
    this.presence.disconnected();
    for (const { reader, subscription } of this.#seats) {
      reader.disconnected();
      subscription.enter("pending");
    }
  }

  /** It is over, and not by us. */
  end(error: RpcError | undefined): void {
    this.#close();
    for (const { subscription } of this.#seats) subscription.end(error);
    this.#seats.clear();
  }

  #leave(seat: Seat): void {
    seat.reader.disconnected();
    this.#seats.delete(seat);
    if (this.#seats.size > 0) return;
    this.#close();
    this.#wire.send(encodeNotification("$/unsubscribe", { topic: this.#name }));
  }

  #close(): void {
    clearTimeout(this.#retry);
    for (const { id } of this.#questions) this.#wire.calls.cancel(id);
    this.#questions.clear();
    this.#onEnd();
  }

  #ask(method: string, params: object, asker: Question["asked"][number]): void {
    const what = method + JSON.stringify(params);
    for (const question of this.#questions) {
      // An answer that was under way before the last frame came might not know of it.
      if (question.what === what && question.frames === this.#frames) return void question.asked.push(asker);
    }
    const { id, ended } = this.#wire.calls.begin(method, { topic: this.#name, ...params });
    const question: Question = { id, what, frames: this.#frames, asked: [asker] };
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
    for (const { seat } of asked) {
      if (FINAL.has(error.reason)) {
        this.#seats.delete(seat);
        seat.subscription.end(error);
      }
    }
    if (this.#seats.size === 0) return this.#close();
    if (FINAL.has(error.reason)) return;
    this.#retry ??= setTimeout(
      () => {
        this.#retry = undefined;
        this.connected();
      },
      backoff(this.#failures++, 0),
    );
  }
}
