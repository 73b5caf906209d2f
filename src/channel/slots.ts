// How many calls of one connection run at a time. A call takes a slot and keeps it until its method has returned,
// whatever has become of its answer; while it awaits an answer of a client, it lends the slot to others.

import { AsyncLocalStorage } from "node:async_hooks";
import { Context } from "./context.js";

/** Calls of one connection that may await answers of clients, beyond those that run. */
const MOST_LENT = 256;

// A method calls `live.ask` and not something of its own context, so this is how the ask knows whose slot it is.
const current = new AsyncLocalStorage<Context | undefined>();

export class Slots {
  #free: number;
  #lent = 0;
  /** Slots whose calls have their answers, and wait for room to go on. */
  #returning: Slot[] = [];
  readonly #onLent: () => void;

  /** @param onLent Called in a microtask when a slot has been lent. */
  constructor(count: number, onLent: () => void) {
    this.#free = count;
    this.#onLent = onLent;
  }

  /** Whether one more call may start. */
  get areFree(): boolean {
    return this.#free > 0 && this.#lent < MOST_LENT;
  }

  /** A call starts. */
  take(): void {
    this.#free--;
  }

  /** The connection is over: nobody waits any more. */
  close(): void {
    this.#free = Number.POSITIVE_INFINITY;
    this.#settle();
  }

  /** @internal For Slot. */
  lend(): void {
    this.#free++;
    this.#lent++;
    queueMicrotask(this.#onLent);
  }

  /** @internal For Slot: resolves when its call may go on. */
  takeBack(slot: Slot): void {
    this.#returning.push(slot);
    this.#settle();
  }

  /** A call's method has returned. */
  release(lent: boolean): void {
    if (lent) this.#lent--;
    else this.#free++;
    this.#settle();
  }

  /** Those that come back go before those that have not begun. */
  #settle(): void {
    while (this.#free > 0 && this.#returning.length > 0) {
      if (!this.#returning.shift()!.goOn()) continue;
      this.#free--;
      this.#lent--;
    }
  }
}

/** The slot of a call that asks. */
export class Slot {
  readonly #slots: Slots;
  #asks = 0;
  #lent = false;
  #over = false;
  /** Those of the call that have their answers. */
  #wake: (() => void)[] = [];

  constructor(slots: Slots) {
    this.#slots = slots;
  }

  /** Runs what belongs to a call, or to none, whoever started it. */
  static within<Arguments extends unknown[], Result>(
    context: Context | undefined,
    run: (...arguments_: Arguments) => Result,
    ...arguments_: Arguments
  ): Result {
    return current.run(context, run, ...arguments_);
  }

  /** Whether a call is running that started this. */
  static get isWithin(): boolean {
    return current.getStore() !== undefined;
  }

  /** Awaits a client's answer; the slot of the call that this is part of, if it is part of one, is lent meanwhile. */
  static async lentWhile<Result>(answer: () => Promise<Result>): Promise<Result> {
    const context = current.getStore();
    const slot = context && Context.slotOf(context);
    if (slot === undefined) return await answer();
    slot.#lend();
    try {
      return await answer();
    } finally {
      await slot.#takeBack();
    }
  }

  /** The method has returned. */
  release(): void {
    this.#over = true;
    this.goOn();
    this.#slots.release(this.#lent);
  }

  /** @internal For Slots: the call has its slot again. @returns whether it needed one. */
  goOn(): boolean {
    const wake = this.#wake;
    this.#wake = [];
    wake.forEach((goOn) => goOn());
    if (this.#over || !this.#lent) return false;
    this.#lent = false;
    return true;
  }

  #lend(): void {
    this.#asks++;
    if (this.#lent) return;
    this.#lent = true;
    this.#slots.lend();
  }

  async #takeBack(): Promise<void> {
    this.#asks--;
    // A call that awaits several answers goes on with the last of them.
    if (this.#over || this.#asks > 0 || !this.#lent) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake.push(resolve);
    this.#slots.takeBack(this);
    await promise;
  }
}
