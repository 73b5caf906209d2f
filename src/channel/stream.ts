// One stream: a method's values, one frame each, held back while the reader is behind or says so, and ended when it
// has enough.

import { encodeNotification, type Request } from "../contract/frames.js";
import { validate } from "../contract/schema.js";
import type { Context } from "./context.js";
import {
  failed,
  internal,
  invalidParams,
  invoke,
  mismatch,
  type Outcome,
  type RunningMethod,
} from "./method.js";
import type { Outbox } from "./outbox.js";

/** After so many values everybody else has a turn: a generator that waits for nothing would keep the thread. */
const TURN = 64;

/** What the client has said of a stream: `$/pause`, `$/resume`. */
export class Gate {
  #closed: PromiseWithResolvers<void> | undefined;

  /** Pending while it is paused. */
  get opens(): Promise<void> | undefined {
    return this.#closed?.promise;
  }

  pause(): void {
    this.#closed ??= Promise.withResolvers();
  }

  resume(): void {
    this.#closed?.resolve();
    this.#closed = undefined;
  }
}

interface Stream {
  method: RunningMethod;
  context: Context;
  request: Request;
  gate: Gate;
  outbox: Outbox;
}

export interface StreamEnd {
  /** How to answer the call. */
  outcome: Outcome;
  /** Resolves when the generator has ended too: one that waits for something ends only once that has come. */
  ended: Promise<void>;
}

/** Sends a stream's values until it ends, fails or is aborted. Never rejects. */
export async function runStream(stream: Stream): Promise<StreamEnd> {
  const { method, context } = stream;
  const values = new Values(context.signal);
  let outcome: Outcome;
  try {
    outcome = await sendAll(stream, values);
  } catch (error) {
    outcome = await failed(error, method, context);
  }
  const ended = values.end().catch(async (error: unknown) => void (await failed(error, method, context)));
  return { outcome, ended };
}

async function sendAll(stream: Stream, values: Values): Promise<Outcome> {
  const { method, context, request, gate, outbox } = stream;
  const { ws, signal } = context;
  const checked = await validate(method.contract.params, request.params);
  if (checked.issues) return { error: invalidParams(checked.issues) };
  values.open(await invoke(method, context, checked.value));
  for (let sent = 1; ; sent++) {
    while (gate.opens && !signal.aborted) await values.orAborted(gate.opens);
    const step = await values.next();
    if (step.done) return { value: null };
    let { value } = step;
    if (method.validateResults) {
      const valid = await validate(method.contract.stream, value);
      if (valid.issues) return internal(ws, method, mismatch(`a value of ${method.name}`, valid.issues));
      value = valid.value;
    }
    if (signal.aborted) return { value: null };
    const text = encodeNotification("$/next", { id: request.id, value: value ?? null });
    if (!outbox.fits(text)) return { error: outbox.tooLarge(`A value of ${method.name}`) };
    outbox.sendSoon(text);
    // The next value is not asked for before there is room for it.
    if (!outbox.hasRoom && !(await outbox.drained())) return { value: null };
    if (sent % TURN === 0) await new Promise(setImmediate);
  }
}

/** What a streaming method returned, read until it or the signal says that this is all. */
class Values {
  readonly #signal: AbortSignal;
  #iterator: AsyncIterator<unknown> | Iterator<unknown> | undefined;
  /** Ends the wait for a value. One listener for the whole stream: a race a value would be kept until its end. */
  #stop: (() => void) | undefined;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", () => this.#stop?.(), { once: true });
  }

  open(values: unknown): void {
    const source = values as Partial<AsyncIterable<unknown> & Iterable<unknown>> | null | undefined;
    // A string can be iterated over, but nobody means that.
    const iterator =
      typeof source === "object"
        ? (source?.[Symbol.asyncIterator]?.() ?? source?.[Symbol.iterator]?.())
        : undefined;
    if (iterator === undefined)
      throw new TypeError("a streaming method must return an iterable: write it as async *method() { … }");
    this.#iterator = iterator;
  }

  async next(): Promise<IteratorResult<unknown>> {
    if (this.#signal.aborted) return DONE;
    try {
      const step = await this.orAborted(this.#iterator!.next());
      if (step === undefined) return DONE;
      if (step.done) this.#iterator = undefined;
      return step;
    } catch (error) {
      this.#iterator = undefined;
      throw error;
    }
  }

  /** Awaits a promise, but no longer than the signal: then it is `undefined`. */
  orAborted<T>(promise: T | PromiseLike<T>): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      this.#stop = () => resolve(undefined);
      Promise.resolve(promise).then(resolve, reject);
    });
  }

  async end(): Promise<void> {
    await this.#iterator?.return?.();
  }
}

const DONE: IteratorResult<unknown> = { done: true, value: undefined };
