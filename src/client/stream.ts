// The reader of one stream: values come when they come, and are handed out one by one. Too many that nobody has read
// hold the server back.

import { Unread } from "./unread.js";

/** More unread values than this ask the server to pause; fewer than `RESUME_BELOW` let it go on. */
const PAUSE_ABOVE = 64;
const RESUME_BELOW = 16;

interface Source<T> {
  /** Starts the call. `ended` settles with the stream's end. */
  start(next: (value: T) => void): { id: number; ended: Promise<unknown> };
  cancel(id: number): void;
  hold(id: number, held: boolean): void;
  signal: AbortSignal | undefined;
}

interface End {
  error?: unknown;
}

export class StreamReader<T> implements AsyncIterableIterator<T> {
  readonly #source: Source<T>;
  #id: number | undefined;
  readonly #unread = new Unread<T>(PAUSE_ABOVE, RESUME_BELOW, (isHeld) => {
    if (this.#end === undefined) this.#source.hold(this.#id!, isHeld);
  });
  #end: End | undefined;

  constructor(source: Source<T>) {
    this.#source = source;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    this.#begin();
    while (this.#unread.size === 0 && this.#end === undefined) await this.#unread.wait();
    if (this.#unread.size > 0) return { done: false, value: this.#unread.take()! };
    const end = this.#end!;
    if (!("error" in end)) return { done: true, value: undefined };
    this.#end = {};
    throw end.error;
  }

  /** What `break` calls: the server's generator ends too. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.#stop({});
    return Promise.resolve({ done: true, value: undefined });
  }

  #begin(): void {
    if (this.#id !== undefined || this.#end !== undefined) return;
    const { signal } = this.#source;
    if (signal?.aborted) return void (this.#end = { error: signal.reason });
    const { id, ended } = this.#source.start((value) => this.#unread.push(value));
    this.#id = id;
    signal?.addEventListener("abort", this.#abort);
    ended.then(
      () => this.#finish({}),
      (error: unknown) => this.#finish({ error }),
    );
  }

  readonly #abort = (): void => this.#stop({ error: this.#source.signal!.reason });

  /** The reader has enough. */
  #stop(end: End): void {
    if (this.#end === undefined && this.#id !== undefined) this.#source.cancel(this.#id);
    this.#finish(end);
    this.#unread.clear();
  }

  #finish(end: End): void {
    this.#source.signal?.removeEventListener("abort", this.#abort);
    this.#end ??= end;
    this.#unread.wake();
  }
}
