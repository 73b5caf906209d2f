// What can go wrong with Redis, as a BrokerError that says what to do; and the clock that calls are held to.

import { BrokerError, type BrokerErrorCode } from "./broker.js";

/** How often in a `timeout` deadlines are looked at. */
const TICKS = 10;

/** A call that is held to the timeout. Of `done`, `failed` and the timeout, the first one counts. */
class Pending {
  settled = false;

  constructor(
    readonly deadline: Deadline,
    readonly until: number,
    readonly what: string,
    readonly resolve: (value: never) => void,
    readonly reject: (error: unknown) => void,
  ) {}

  done(value: unknown): void {
    this.deadline.settle(this);
    this.resolve(value as never); // what the promise was made for, or `race` would not compile
  }

  failed(error: unknown): void {
    this.deadline.settle(this);
    this.reject(error);
  }
}

/**
 * Holds calls to one timeout, with one timer for all of them. It counts its own ticks, not milliseconds: while the
 * process itself is busy, answers that have come already are not late.
 */
export class Deadline {
  readonly timeout: number;
  #tick = 0;
  #timer: ReturnType<typeof setInterval> | undefined;
  #pending: Pending[] = [];
  #head = 0;

  constructor(timeout: number) {
    this.timeout = timeout;
  }

  /** What the promise settles with, or a rejection after `timeout` ms. */
  race<T>(promise: Promise<T>, what: string): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const pending = this.hold(what, resolve, reject);
      promise.then(
        (value) => pending.done(value),
        (error) => pending.failed(error),
      );
    });
  }

  /** The same, without a promise of its own: for what is called often. */
  hold(what: string, resolve: (value: never) => void, reject: (error: unknown) => void): Pending {
    const pending = new Pending(this, this.#tick + TICKS + 1, what, resolve, reject);
    this.#pending.push(pending);
    this.#timer ??= setInterval(() => this.#expire(), Math.max(1, this.timeout / TICKS));
    return pending;
  }

  settle(pending: Pending): void {
    pending.settled = true;
    // Redis answers in order, so it is nearly always the first.
    while (this.#pending[this.#head]?.settled) this.#head++;
    if (this.#head === this.#pending.length) {
      this.#pending = [];
      this.#head = 0;
    } else if (this.#head > 1_024 && this.#head * 2 > this.#pending.length) {
      this.#pending = this.#pending.slice(this.#head);
      this.#head = 0;
    }
  }

  #expire(): void {
    this.#tick++;
    const late = this.#pending.slice(this.#head).filter((each) => !each.settled && each.until <= this.#tick);
    for (const pending of late)
      pending.failed(new Error(`${pending.what} took longer than ${this.timeout} ms`));
    if (this.#pending.length > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** How a reply of Redis begins, what that means for the caller, and what can be done. */
const REPLIES: readonly [pattern: RegExp, code: BrokerErrorCode, advice: string][] = [
  [
    /\bOOM\b/,
    "BROKER_FULL",
    "Redis is full: raise maxmemory, or shorten the topics' history. Nothing was stored.",
  ],
  [
    /\bREADONLY\b/,
    "BROKER_UNAVAILABLE",
    "It is a replica: give the primary's address, or `sentinel`, which finds it.",
  ],
  [
    /\bNOREPLID\b/,
    "BROKER_UNAVAILABLE",
    "This server does not tell its replication id, by which a lost tail is noticed. `durable: true` does without.",
  ],
  [
    /\b(NOPERM|NOAUTH|WRONGPASS)\b|user executing the script can't/,
    "BROKER_UNAVAILABLE",
    "Check the user, its password and its ACL: docs/brokers.md lists the rules that harpia needs.",
  ],
  [/\b(LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN)\b/, "BROKER_UNAVAILABLE", "It is not ready; try again."],
  [/\b(MISCONF|NOREPLICAS)\b/, "BROKER_UNAVAILABLE", "Redis refuses writes until that is repaired."],
  [
    /\b(MOVED|CROSSSLOT)\b/,
    "BROKER_UNAVAILABLE",
    "It is part of a Redis Cluster: give `cluster` instead of `url`.",
  ],
  [
    /\bWRONGTYPE\b/,
    "BROKER_CORRUPT",
    "A key under harpia's prefix is not harpia's: give another `prefix`, or delete that key.",
  ],
  [
    /unknown command|Unknown Redis command/i,
    "BROKER_SCHEMA",
    "This server lacks a command that harpia needs: Redis 6.2 or later, or Valkey; for a cluster, Redis 7.",
  ],
];

/** Whatever failed, as a BrokerError. @param what "publish to …", say. @param where "Redis at host:port". */
export function toBrokerError(error: unknown, what: string, where: string): BrokerError {
  if (error instanceof BrokerError) return error;
  const said = error instanceof Error ? error.message || error.name : String(error);
  for (const [pattern, code, advice] of REPLIES) {
    if (pattern.test(said))
      return new BrokerError(code, `${what}: ${where} said "${said}". ${advice}`, { cause: error });
  }
  return new BrokerError(
    "BROKER_UNAVAILABLE",
    `${what}: ${where} cannot be reached, or did not answer (${said}). Whether it was done is not known; harpia ` +
      "reconnects by itself.",
    { cause: error },
  );
}

export function isReply(error: unknown, word: string): boolean {
  return error instanceof Error && error.message.includes(word);
}
