// What one reader has not read yet: first in, first out. Too much of it asks for no more, until little is left.

export class Unread<T> {
  /** Whether no more is wanted. */
  isHeld = false;
  #values: T[] = [];
  #waking: (() => void)[] = [];
  readonly #most: number;
  readonly #few: number;
  readonly #onHold: (isHeld: boolean) => void;

  /** @param most More than this holds; @param few less than this lets go on. */
  constructor(most: number, few: number, onHold: (isHeld: boolean) => void) {
    this.#most = most;
    this.#few = few;
    this.#onHold = onHold;
  }

  get size(): number {
    return this.#values.length;
  }

  push(value: T): void {
    this.#values.push(value);
    if (this.size > this.#most) this.#hold(true);
    this.wake();
  }

  /** The oldest; `undefined` if there is none. */
  take(): T | undefined {
    const value = this.#values.shift();
    if (this.size < this.#few) this.#hold(false);
    return value;
  }

  clear(): void {
    this.#values = [];
    this.#hold(false);
  }

  /** Resolves at the next `push` or `wake`. */
  wait(): Promise<void> {
    return new Promise((resolve) => this.#waking.push(resolve));
  }

  wake(): void {
    for (const wake of this.#waking.splice(0)) wake();
  }

  #hold(isHeld: boolean): void {
    if (this.isHeld === isHeld) return;
    this.isHeld = isHeld;
    this.#onHold(isHeld);
  }
}
