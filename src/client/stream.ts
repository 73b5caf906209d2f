// The reader of one stream: values come when they come, and are handed out one by one.

interface Source<T> {
  /** Starts the call. `ended` settles with the stream's end. */
  start(next: (value: T) => void): { id: number; ended: Promise<unknown> };
  cancel(id: number): void;
  signal: AbortSignal | undefined;
}

export class StreamReader<T> implements AsyncIterableIterator<T> {
  readonly #source: Source<T>;
  #id: number | undefined;
  #values: T[] = [];
  #end: { error?: unknown } | undefined;
  #wake = Promise.withResolvers<void>();

  constructor(source: Source<T>) {
    this.#source = source;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    this.#begin();
    while (this.#values.length === 0 && this.#end === undefined) await this.#wake.promise;
    if (this.#values.length > 0) return { done: false, value: this.#values.shift()! };
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
    const abort = (): void => this.#stop({ error: signal!.reason });
    signal?.addEventListener("abort", abort, { once: true });
    const { id, ended } = this.#source.start((value) => {
      this.#values.push(value);
      this.#stir();
    });
    this.#id = id;
    const finish = (end: { error?: unknown }): void => {
      signal?.removeEventListener("abort", abort);
      this.#end ??= end;
      this.#stir();
    };
    ended.then(
      () => finish({}),
      (error: unknown) => finish({ error }),
    );
  }

  #stop(end: { error?: unknown }): void {
    this.#values = [];
    if (this.#end !== undefined) return;
    this.#end = end;
    if (this.#id !== undefined) this.#source.cancel(this.#id);
    this.#stir();
  }

  #stir(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}
