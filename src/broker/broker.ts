// What a broker is: where publications get their numbers and are kept, how they reach every process, and who is
// present. The one contract between harpia's topics and memory, SQLite or Redis; test/broker/conformance.ts holds
// every implementation to it.

/** Where a topic stands: the offset of its newest publication, within the epoch that numbers them without a break. */
export interface Position {
  /** A short random string. It changes whenever offsets could be given out twice with other data. */
  readonly epoch: string;
  /** 1 for the first publication, 0: none yet. An epoch that begins over a log that was kept goes on from its newest. */
  readonly offset: number;
}

/** How much of a topic's past is kept. */
export interface HistoryOptions {
  /** Messages kept at most. */
  readonly size: number;
  /** Seconds for which a message is kept. */
  readonly ttl: number;
}

export interface PublishOptions {
  /** Gives the publication an offset and keeps it. Without it: at most once, no offset, nothing kept. */
  readonly history?: HistoryOptions | undefined;
  /** With `history`: a repeat within its `ttl` stores and delivers nothing, and resolves with the first position. */
  readonly idempotencyKey?: string | undefined;
  /** The connection that is not to get it; travels along as it is. */
  readonly except?: string | undefined;
}

export interface Publication {
  /** `undefined` for a publication without history. */
  readonly position: Position | undefined;
  readonly payload: string;
  readonly except: string | undefined;
}

/** Must not throw. It may publish and subscribe. */
export type Deliver = (publication: Publication) => void;

export interface Subscription {
  /** Where the topic stood when the feed went live: what comes later is delivered. `undefined` without history. */
  readonly position: Position | undefined;
  /** Idempotent; nothing is delivered after the call. Resolves on a closed broker too. */
  unsubscribe(): Promise<void>;
}

/** What to read of a log: what follows a position, what precedes one, or the newest. */
export type Range = { readonly after: Position } | { readonly before: Position } | { readonly last: number };

/** A page holds at most so much, and at least one message if there is any. */
export interface PageLimits {
  readonly messages: number;
  /** Of payloads, in UTF-8. */
  readonly bytes: number;
}

export interface StoredMessage {
  readonly offset: number;
  readonly payload: string;
}

export interface Page {
  /** The topic's newest position. */
  readonly position: Position;
  /**
   * Whether nothing is missing between the position given and the messages. `false` if its epoch is not the topic's,
   * if it is above the newest (for `before`: the next), or if what follows it (`after`) has been trimmed. Always `false`
   * for `last`.
   */
  readonly recovered: boolean;
  /** Oldest first, without holes. Empty where a position was given that could not be recovered. */
  readonly messages: readonly StoredMessage[];
  /** Whether the newest (for `before`: the oldest that is kept) was reached; else read on from the page's edge. */
  readonly complete: boolean;
}

export interface Member {
  readonly key: string;
  /** JSON. */
  readonly info: string;
}

/** Who is in a topic, as the store has it. */
export interface Members {
  /** Each key once, with the info that was given last. */
  readonly members: Member[];
  /** Another one than before: leases may have been lost, so whoever is missing may well be there. */
  readonly epoch: string;
}

/**
 * Who is where: (topic, key, owner), each with a lease. A key is there while any owner holds a lease for it. What a call
 * changes of what `list` shows of its key is published to the topic, without history, in the order in which it is
 * stored; presence.ts has the payload. That a lease ended is not.
 */
export interface Presence {
  /** Adds an owner, renews its lease, or gives another `info`. `appeared`: the key was not there before. */
  put(
    topic: string,
    key: string,
    owner: string,
    info: string,
    leaseMs: number,
  ): Promise<{ appeared: boolean }>;
  /** `vanished`: that was the key's last owner. */
  remove(topic: string, key: string, owner: string): Promise<{ vanished: boolean }>;
  list(topic: string): Promise<Members>;
}

export interface BrokerHealth {
  /** Whether publications can be stored and delivered right now. */
  readonly ok: boolean;
  /** Why not, for the log. */
  readonly reason?: string;
}

export interface Broker {
  /** `memory`, `sqlite`, `redis`. */
  readonly name: string;
  /** Whether other processes use it too: then positions are polled, leases renewed, and commands sent around. */
  readonly shared: boolean;
  /**
   * Called when it, or a part of it, was away and is there again, perhaps more than once: something may have been
   * missed, and leases may be over. harpia sets it.
   */
  onReconnect?: (() => void) | undefined;
  /**
   * Assigns the next offset and stores (with history), and delivers to every subscriber in every process, in order.
   * Rejects with a {@link BrokerError}: unknown whether it was stored; repeat it with the same `idempotencyKey`.
   */
  publish(topic: string, payload: string, options: PublishOptions): Promise<Position | undefined>;
  /** Resolves when the feed is live. `history`: whether the topic has one, and so a position. */
  subscribe(topic: string, deliver: Deliver, options: { readonly history: boolean }): Promise<Subscription>;
  read(topic: string, range: Range, limits: PageLimits): Promise<Page>;
  /**
   * One for each topic, in order. A topic that nobody knew gets an epoch, and offset 0. `undefined`: the server that has
   * it is away, while others are not. Rejects if none can be told.
   */
  positions(topics: readonly string[]): Promise<(Position | undefined)[]>;
  readonly presence: Presence;
  health(): BrokerHealth;
  /** Idempotent. Everything rejects with `BROKER_CLOSED` afterwards. */
  close(): Promise<void>;
}

/** What can be wrong with a broker. Explained one by one in docs/errors.md. */
export const BROKER_ERROR_CODES = [
  "BROKER_UNAVAILABLE",
  "BROKER_CLOSED",
  "BROKER_LOCKED",
  "BROKER_READ_ONLY",
  "BROKER_FULL",
  "BROKER_SCHEMA",
  "BROKER_CORRUPT",
  "BROKER_INVALID_OPTION",
] as const;

export type BrokerErrorCode = (typeof BROKER_ERROR_CODES)[number];

/** A broker failed: at its start, or later, when whether a publication was stored is not known. */
export class BrokerError extends Error {
  readonly code: BrokerErrorCode;

  constructor(code: BrokerErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "BrokerError";
    this.code = code;
  }
}

/** What every call gets once a broker was closed. */
export function closed(): BrokerError {
  return new BrokerError("BROKER_CLOSED", "The broker is closed: the app was stopped.");
}

/** A fresh name for an unbroken numbering. 48 random bits: a topic sees few epochs. */
export function newEpoch(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(6))).toString("base64url");
}
