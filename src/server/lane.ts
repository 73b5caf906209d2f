// The messages of one connection that are held back: a queue in order, with the counts that say why. Reading is
// paused meanwhile, so what gathers here is at most what Bun had read already.

import type { Bucket } from "./route.js";

export type Message = string | Buffer<ArrayBuffer>;

export class Lane {
  /** Bytes (UTF-16 units for text) that wait. */
  bytes = 0;
  /** Handlers that run, where the route limits `concurrency`. */
  running = 0;
  /** How the connection ended, while its `close` handler has to wait for the queue. */
  end: { code: number; reason: string } | undefined = undefined;
  /** Whether the queue is being handed over right now. */
  pumping = false;
  timer: ReturnType<typeof setTimeout> | undefined = undefined;
  readonly tokens = new Tokens();
  #queue: Message[] = [];
  #head = 0;

  get size(): number {
    return this.#queue.length - this.#head;
  }

  push(message: Message): void {
    this.#queue.push(message);
    this.bytes += message.length;
  }

  /** Puts a message back at the front. */
  unshift(message: Message): void {
    if (this.#head > 0) this.#queue[--this.#head] = message;
    else this.#queue.unshift(message);
    this.bytes += message.length;
  }

  /** Takes the oldest message. */
  shift(): Message | undefined {
    if (this.#head === this.#queue.length) return undefined;
    const message = this.#queue[this.#head++]!;
    this.bytes -= message.length;
    if (this.#head === this.#queue.length) this.clear();
    return message;
  }

  clear(): void {
    this.#queue = [];
    this.#head = 0;
    this.bytes = 0;
  }
}

/** What is left of a rate limit: a token bucket. */
export class Tokens {
  #tokens = Number.POSITIVE_INFINITY;
  #refilledAt = 0;

  /** Takes a token of the rate limit. @returns 0, or the milliseconds until there is one. */
  take(bucket: Bucket, now: number): number {
    const refill = (now - this.#refilledAt) * bucket.perMs;
    this.#tokens = Math.min(bucket.burst, this.#tokens + refill);
    this.#refilledAt = now;
    if (this.#tokens < 1) return (1 - this.#tokens) / bucket.perMs;
    this.#tokens -= 1;
    return 0;
  }
}
