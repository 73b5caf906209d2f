// What a component sees of a topic: messages, members and state as one value that is replaced, never changed. Renders
// nothing and knows no React; use-topic.ts does.

import type { Position } from "../client/reader.js";
import type { Member, Message, Subscription, SubscriptionState } from "../client/subscription.js";
import type { RpcError } from "../contract/rpc-error.js";

/** What {@link useTopic} returns. The same object until something changes. */
export interface TopicView<T, Info> {
  /** Oldest first. After a reset they are others: those of `last`, and what came since. */
  readonly messages: readonly Message<T>[];
  /** Whether the topic has none before `messages`. Known once `loadOlder` has found it out. */
  readonly complete: boolean;
  /** Who is there; empty as long as they are not known, and where they are more than the server tells of. */
  readonly members: readonly Member<Info>[];
  /** How many are there. */
  readonly count: number;
  /** `pending` until the server has answered, and while the connection is away; `ended` when it is over: see `error`. */
  readonly state: SubscriptionState;
  /** Why it has ended: refused, or removed by the server. */
  readonly error: RpcError | undefined;
  /**
   * Puts up to 100 older messages before `messages`; waits for the connection. While it runs, another call is the same one.
   * @throws RpcError as `client.call`. When the component goes, or shows another topic, it resolves.
   */
  readonly loadOlder: () => Promise<void>;
}

export interface TopicCallbacks<T> {
  /** How many messages are kept, unless `loadOlder` has brought more. */
  keep: number;
  onMessage: ((message: Message<T>) => void) | undefined;
  onReset: (() => void) | undefined;
}

/** A topic on the page, for one component. */
export class TopicStore<T, Info> {
  /** What a server renders, and React when it hydrates. */
  readonly initial: TopicView<T, Info>;
  #view: TopicView<T, Info>;
  readonly #begin: (after?: Position) => Subscription<T, Info>;
  readonly #latest: { readonly current: TopicCallbacks<T> };
  #listener: (() => void) | undefined;
  #subscription: Subscription<T, Info> | undefined;
  #stops: (() => void)[] = [];
  /** Where to go on when the component comes back. */
  #position: Position | undefined;
  /** What the next view has; may be twice as long. */
  #messages: Message<T>[] = [];
  /** How many more than `keep` there may be: `loadOlder` has brought them. */
  #extra = 0;
  #complete = false;
  /** Counts how often `#messages` lost its beginning. */
  #beginning = 0;
  #loading: Promise<void> | undefined;

  /** @param begin Subscribes, after a position if it has been subscribed before. Not called before `subscribe`. */
  constructor(
    begin: (after?: Position) => Subscription<T, Info>,
    latest: { readonly current: TopicCallbacks<T> },
  ) {
    this.#begin = begin;
    this.#latest = latest;
    this.initial = this.#view = {
      messages: [],
      complete: false,
      members: [],
      count: 0,
      state: "pending",
      error: undefined,
      loadOlder: () => (this.#loading ??= this.#load().finally(() => (this.#loading = undefined))),
    };
  }

  readonly view = (): TopicView<T, Info> => this.#view;

  /** The component is on the page. @returns what to do when it goes. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listener = listener;
    if (this.#subscription === undefined) this.#start();
    return () => {
      this.#listener = undefined;
      // Later: StrictMode and Fast Refresh set an effect up again at once, which is no reason to leave.
      queueMicrotask(() => {
        if (this.#listener === undefined) this.#stop();
      });
    };
  };

  /** Makes what has changed the view. */
  publish(): void {
    const subscription = this.#subscription;
    if (subscription === undefined) return;
    this.#trim();
    const { presence, state, error } = subscription;
    const shown = this.#view;
    const view: TopicView<T, Info> = {
      messages: isSame(shown.messages, this.#messages) ? shown.messages : [...this.#messages],
      complete: this.#complete,
      members: presence.members.length + shown.members.length > 0 ? presence.members : shown.members,
      count: presence.count,
      state,
      error,
      loadOlder: shown.loadOlder,
    };
    const keys = Object.keys(view) as (keyof typeof view)[];
    if (keys.every((key) => view[key] === shown[key])) return;
    this.#view = view;
    this.#listener?.();
  }

  #start(): void {
    const subscription = this.#begin(this.#position);
    this.#subscription = subscription;
    const changed = (): void => soon(this);
    this.#stops = [
      subscription.on("state", changed),
      subscription.presence.on("change", changed),
      subscription.on("reset", () => {
        this.#messages = [];
        this.#extra = 0;
        this.#lostBeginning();
        changed();
        this.#latest.current.onReset?.();
      }),
      subscription.on("message", (message) => {
        const { onMessage } = this.#latest.current;
        if (onMessage) return onMessage(message);
        this.#messages.push(message);
        if (this.#messages.length > 2 * this.#most) this.#trim();
        changed();
      }),
    ];
    // Another component may have it already, and a client that is closed has ended it.
    this.publish();
  }

  #stop(): void {
    const subscription = this.#subscription;
    for (const stop of this.#stops) stop();
    this.#subscription = undefined;
    this.#position = subscription?.position ?? this.#position;
    subscription?.unsubscribe();
  }

  async #load(): Promise<void> {
    // The effects of components below run before ours.
    await undefined;
    for (;;) {
      const subscription = this.#subscription;
      if (subscription === undefined) return;
      const beginning = this.#beginning;
      const before = this.#messages[0]?.offset;
      try {
        const { messages, complete } = await subscription.history(before === undefined ? {} : { before });
        if (subscription !== this.#subscription || beginning !== this.#beginning) continue; // it precedes what is gone
        this.#messages = [...messages, ...this.#messages];
        this.#extra = Math.max(0, this.#messages.length - this.#latest.current.keep);
        this.#complete = complete;
        return this.publish();
      } catch (error) {
        if (subscription === this.#subscription) throw error;
      }
    }
  }

  get #most(): number {
    return this.#latest.current.keep + this.#extra;
  }

  #trim(): void {
    const excess = this.#messages.length - this.#most;
    // What is being loaded precedes what there is.
    if (excess <= 0 || this.#loading) return;
    this.#messages.splice(0, excess);
    this.#lostBeginning();
  }

  #lostBeginning(): void {
    this.#beginning++;
    this.#complete = false;
  }
}

const changed = new Set<TopicStore<never, never>>();

/**
 * Publishes in a task of its own, for all components at once. Each frame is a task, so those that have come by then are
 * rendered together; and a page that nobody looks at renders as seldom as its timers run.
 */
function soon<T, Info>(store: TopicStore<T, Info>): void {
  if (changed.size === 0) {
    setTimeout(() => {
      const stores = [...changed];
      changed.clear();
      for (const store of stores) store.publish();
    }, 0);
  }
  changed.add(store as unknown as TopicStore<never, never>); // of any type: it is only told to publish
}

function isSame<T>(some: readonly T[], others: readonly T[]): boolean {
  return some.length === others.length && some[0] === others[0] && some.at(-1) === others.at(-1);
}
