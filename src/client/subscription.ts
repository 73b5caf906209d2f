// What `client.subscribe` returns: a topic's publications as events or as an iterable, its presence, its state. How
// they are kept in order is in reader.ts; what goes over the wire in topics.ts.

import type { RpcError } from "../contract/rpc-error.js";
import { Listeners } from "./listeners.js";
import { Unread } from "./unread.js";
import { type PageFrame, type Position, Reader, type ReaderOptions } from "./reader.js";

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

/** What a subscription needs of its topic. */
export interface Link {
  readonly name: string;
  readonly presence: Presence<unknown>;
  ask(method: string, params: object, by: Subscription, answer: (page: PageFrame) => void): void;
  history(before: Position, limit: number | undefined): Promise<PageFrame>;
  leave(subscription: Subscription): void;
}

/** An iterator that nobody reads keeps so many; then it lets go, and reads on from the log. */
const MOST_UNREAD = 1_000;

/** A subscription to a topic. Made by `client.subscribe`. */
export class Subscription<T = unknown, Info = unknown> implements AsyncIterable<Message<T>>, Disposable {
  /** Why it has ended, if neither `unsubscribe` nor `close` did it: refused, or removed by the server. */
  error: RpcError | undefined;
  /** @internal */
  readonly reader: Reader;
  #state: SubscriptionState = "pending";
  readonly #link: Link;
  readonly #listeners = new Listeners<SubscriptionEvents<T>>();
  /** Of iterators, and `#early`. */
  readonly #unreads = new Set<Unread<Message<T>>>();
  /** What came before anybody listened. */
  #early: Unread<Message<T>> | undefined;
  /** The offset of the oldest message that was handed over or read. */
  #oldest: number | undefined;

  /** @internal */
  constructor(link: Link, options: Pick<ReaderOptions, "after" | "last" | "coalesce">) {
    this.#link = link;
    this.#early = this.#unread();
    this.reader = new Reader({
      ...options,
      ask: (method, params, answer) => link.ask(method, params, this as unknown as Subscription, answer),
      hand: (data, position) => this.#hand(data, position),
      reset: () => {
        this.#oldest = undefined;
        this.#listeners.tell("reset", undefined);
      },
      live: () => this.enter("live"),
    });
  }

  /** The topic's name on the wire. */
  get topic(): string {
    return this.#link.name;
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** Of the last message handed over; to be kept, and given as `after` to a later `subscribe`. */
  get position(): Position | undefined {
    return this.reader.position;
  }

  get presence(): Presence<Info> {
    return this.#link.presence as Presence<Info>; // the server has validated what it tells
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
      this.#unreads.delete(early);
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
    const finish = (): IteratorResult<Message<T>> => {
      this.#unreads.delete(unread);
      unread.clear();
      unread.wake();
      if (this.#unreads.size === 0 && !this.#listeners.has("message")) this.unsubscribe();
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
          if (this.#state === "ended" || !this.#unreads.has(unread)) break;
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
    while (this.#state === "pending") {
      await new Promise<void>((resolve) => {
        const stop = this.on("state", () => resolve(stop()));
      });
    }
    const { position } = this;
    if (!position) return { messages: [], complete: true };
    const offset = before ?? this.#oldest ?? position.offset + 1;
    const { recovered, messages, complete } = await this.#link.history({ ...position, offset }, limit);
    if (before === undefined && messages[0]) this.#oldest = messages[0].offset;
    return { messages: messages as Message<T>[], complete: complete || !recovered }; // validated by the server
  }

  /** Ends it. What has come and was not read yet is still handed out. */
  unsubscribe(): void {
    if (this.#state === "ended") return;
    this.#link.leave(this as unknown as Subscription);
    this.end(undefined);
  }

  [Symbol.dispose](): void {
    this.unsubscribe();
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
    for (const unread of this.#unreads) unread.wake();
  }

  #hand(data: unknown, position: Position | undefined): void {
    if (this.#state === "ended") return;
    const offset = position?.offset;
    this.#oldest ??= offset;
    const message: Message<T> = { data: data as T, offset }; // validated by the server
    for (const unread of this.#unreads) {
      // A page is handed over whole; without offsets there is no page, and what is too much is gone.
      if (!unread.isHeld || offset !== undefined) unread.push(message);
    }
    this.#listeners.tell("message", message);
  }

  #unread(): Unread<Message<T>> {
    const unread = new Unread<Message<T>>(MOST_UNREAD, 1, () => {
      if ([...this.#unreads].some(({ isHeld }) => isHeld)) this.reader.pause();
      else this.reader.resume();
    });
    this.#unreads.add(unread);
    return unread;
  }
}
