// What `client.subscribe` returns: a topic's publications as events or as an iterable, its presence, its state. How
// they are kept in order is in reader.ts; what goes over the wire in topics.ts.

import type { RpcError } from "../contract/rpc-error.js";
import { Listeners } from "./listeners.js";
import type { PageFrame, Position } from "./reader.js";

/** A publication. */
export interface Message<T> {
  readonly data: T;
  /** Its number in the topic's epoch; `undefined` in a topic without history. */
  readonly offset: number | undefined;
}

/** Somebody who is there. */
export interface Member<Info> {
  readonly key: string;
  readonly info: Info;
}

/** Who is in a topic. */
export interface Presence<Info> {
  /** Each key once; empty as long as they are not known, and where they are more than the server tells of. */
  readonly members: readonly Member<Info>[];
  /** How many they are. */
  readonly count: number;
  /** Tells of each change, with all members. @returns how to stop that. */
  on(event: "change", listener: (members: readonly Member<Info>[]) => void): () => void;
}

/**
 * `pending` until the server has answered; then `live`, and `pending` again while the connection is away. `ended`: by
 * `unsubscribe`, by the server (see `error`), or with the client.
 */
export type SubscriptionState = "pending" | "live" | "ended";

interface SubscriptionEvents<T> {
  message: Message<T>;
  /** What was published is no longer to be had: load the state anew. What comes next is without gaps again. */
  reset: undefined;
  state: SubscriptionState;
}

/** How a subscription reaches its topic. */
export interface Source {
  readonly presence: Presence<unknown>;
  position(): Position | undefined;
  history(before: Position, limit: number | undefined): Promise<PageFrame>;
  pause(): void;
  resume(): void;
  leave(): void;
}

/** An iterator that nobody reads keeps so many; then it lets go, and reads on from the log. */
const MOST_UNREAD = 1_000;

/** A subscription to a topic. Made by `client.subscribe`. */
export class Subscription<T = unknown, Info = unknown> implements AsyncIterable<Message<T>>, Disposable {
  /** The topic's name on the wire. */
  readonly topic: string;
  /** Why it has ended, if neither `unsubscribe` nor `close` did it: refused, or removed by the server. */
  error: RpcError | undefined;
  #state: SubscriptionState = "pending";
  readonly #source: Source;
  readonly #listeners = new Listeners<SubscriptionEvents<T>>();
  readonly #iterators = new Set<Unread<T>>();
  /** The offset of the oldest message that was handed over or read. */
  #oldest: number | undefined;
  /** What came before anybody listened. */
  #early: Unread<T> | undefined;

  /** @internal */
  constructor(topic: string, source: Source) {
    this.topic = topic;
    this.#source = source;
    this.#early = this.#unread();
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** Of the last message handed over; to be kept, and given as `after` to a later `subscribe`. */
  get position(): Position | undefined {
    return this.#source.position();
  }

  get presence(): Presence<Info> {
    return this.#source.presence as Presence<Info>; // the server has validated what it tells
  }

  /** Hears messages, in order, each once; resets; states. @returns how to stop that. */
  on<Event extends keyof SubscriptionEvents<T>>(
    event: Event,
    listener: (what: SubscriptionEvents<T>[Event]) => void,
  ): () => void {
    const stop = this.#listeners.on(event, listener);
    if (event === "message" && this.#early) {
      const early = this.#early;
      this.#early = undefined;
      // Not at once: the listener may need what it is assigned to.
      queueMicrotask(() => {
        for (let next = early.take(); next; next = early.take()) this.#listeners.tell("message", next);
      });
    }
    return stop;
  }

  /** Each message, in order, once. Throws when the subscription ends with an `error`; `break` unsubscribes. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<T>> {
    const unread = this.#early ?? this.#unread();
    this.#early = undefined;
    this.#iterators.add(unread);
    const finish = (): IteratorResult<Message<T>> => {
      this.#iterators.delete(unread);
      unread.drop();
      if (this.#iterators.size === 0 && !this.#listeners.has("message")) this.unsubscribe();
      return { done: true, value: undefined };
    };
    return {
      [Symbol.asyncIterator]() {
        return this;
      },
      next: async () => {
        for (;;) {
          const value = unread.take();
          if (value) return { done: false, value };
          if (this.#state === "ended" || !this.#iterators.has(unread)) break;
          await unread.wait();
        }
        finish();
        if (this.error) throw this.error;
        return { done: true, value: undefined };
      },
      return: async () => finish(),
    };
  }

  /**
   * Reads the past, for scrolling back: each call what precedes the oldest message that was handed over or read.
   * @param options.before Precedes this offset instead.
   * @param options.limit 1 to 100, which is the default.
   * @returns oldest first; `complete`: nothing before them is kept.
   */
  async history({ before, limit }: { before?: number; limit?: number } = {}): Promise<{
    messages: Message<T>[];
    complete: boolean;
  }> {
    while (this.#state === "pending") await new Promise<void>((resolve) => this.#once("state", resolve));
    const { position } = this;
    if (position === undefined) return { messages: [], complete: true };
    const { epoch } = position;
    const offset = before ?? this.#oldest ?? position.offset + 1;
    const { recovered, messages, complete } = await this.#source.history({ epoch, offset }, limit);
    if (before === undefined && messages[0]) this.#oldest = messages[0].offset;
    return { messages: messages as Message<T>[], complete: complete || !recovered }; // validated by the server
  }

  /** Ends it. What has come and was not read yet is still handed out. */
  unsubscribe(): void {
    if (this.#state === "ended") return;
    this.#source.leave();
    this.end(undefined);
  }

  [Symbol.dispose](): void {
    this.unsubscribe();
  }

  /** @internal */
  hand(data: unknown, position: Position | undefined): void {
    if (this.#state === "ended") return;
    this.#oldest ??= position?.offset;
    const message: Message<T> = { data: data as T, offset: position?.offset }; // validated by the server
    this.#early?.push(message);
    for (const unread of this.#iterators) unread.push(message);
    this.#listeners.tell("message", message);
  }

  /** @internal */
  reset(): void {
    this.#oldest = undefined;
    this.#listeners.tell("reset", undefined);
  }

  /** @internal */
  enter(state: SubscriptionState): void {
    if (this.#state === state || this.#state === "ended") return;
    this.#state = state;
    this.#listeners.tell("state", state);
  }

  /** @internal */
  end(error: RpcError | undefined): void {
    if (this.#state === "ended") return;
    this.error = error;
    this.enter("ended");
    for (const unread of this.#iterators) unread.wake();
  }

  #once<Event extends keyof SubscriptionEvents<T>>(event: Event, listener: () => void): void {
    const stop = this.#listeners.on(event, () => {
      stop();
      listener();
    });
  }

  #unread(): Unread<T> {
    return new Unread<T>((isFull) => {
      const full = isFull || [this.#early, ...this.#iterators].some((unread) => unread?.isFull);
      if (full) this.#source.pause();
      else this.#source.resume();
    });
  }
}

/** What one reader has not read. Full, it asks for no more until it is empty. */
class Unread<T> {
  isFull = false;
  #messages: Message<T>[] = [];
  #waking: (() => void)[] = [];
  readonly #onFull: (isFull: boolean) => void;

  constructor(onFull: (isFull: boolean) => void) {
    this.#onFull = onFull;
  }

  push(message: Message<T>): void {
    // A page is handed over whole; without offsets there is no page, and what is too much is gone.
    if (this.isFull && message.offset === undefined) return;
    this.#messages.push(message);
    if (this.#messages.length >= MOST_UNREAD) this.#fill(true);
    this.wake();
  }

  take(): Message<T> | undefined {
    const message = this.#messages.shift();
    if (this.#messages.length === 0) this.#fill(false);
    return message;
  }

  drop(): void {
    this.#messages = [];
    this.#fill(false);
    this.wake();
  }

  wait(): Promise<void> {
    return new Promise((resolve) => this.#waking.push(resolve));
  }

  wake(): void {
    for (const wake of this.#waking.splice(0)) wake();
  }

  #fill(isFull: boolean): void {
    if (this.isFull === isFull) return;
    this.isFull = isFull;
    this.#onFull(isFull);
  }
}
