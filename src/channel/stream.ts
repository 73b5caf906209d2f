// One stream: a method's values, one frame each, held back while the reader is behind or says so, and ended when it
// has enough.

import { encodeNotification } from "../contract/frames.js";
import { validate } from "../contract/schema.js";
import type { ServerWebSocket } from "../server/socket.js";
import {
  type ChannelParts,
  failure,
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

/** Sends a stream's values until it ends, fails or is aborted; resolves with how to answer its call. Never rejects. */
export async function runStream(
  channel: ChannelParts,
  ws: ServerWebSocket,
  outbox: Outbox,
  call: { id: string | number | null; method: RunningMethod; params: unknown },
  gate: Gate,
  signal: AbortSignal,
): Promise<Outcome> {
  const { id, method, params } = call;
  let iterator: AsyncIterator<unknown> | Iterator<unknown> | undefined;
  const orAborted = untilAborted(signal);
  try {
    const checked = await validate(method.contract.params, params);
    if (checked.issues) return { error: invalidParams(checked.issues) };
    const iterable = await invoke(channel, ws, method, checked.value, signal);
    iterator = iterate(iterable);
    for (let count = 1; ; count++) {
      while (gate.opens && (await orAborted(gate.opens)) !== "aborted");
      if (signal.aborted) return { result: null };
      const step = await orAborted(iterator.next());
      if (step === "aborted") return { result: null };
      if (step.done) {
        iterator = undefined;
        return { result: null };
      }
      const valid = channel.validateResults
        ? await validate(method.contract.stream, step.value)
        : { value: step.value };
      if (valid.issues) return internal(ws, method, mismatch(`a value of ${method.name}`, valid.issues));
      if (signal.aborted) return { result: null };
      outbox.send(encodeNotification("$/next", { id, value: valid.value }));
      // The next value is not asked for before there is room for it.
      if (!(await outbox.drained())) return { result: null };
      if (count % TURN === 0) await new Promise(setImmediate);
    }
  } catch (error) {
    iterator = undefined;
    return await failure(ws, method, error);
  } finally {
    // Not awaited: a generator that waits for something ends only once that has come.
    void Promise.resolve(iterator?.return?.()).catch((error: unknown) => void failure(ws, method, error));
  }
}

function iterate(values: unknown): AsyncIterator<unknown> | Iterator<unknown> {
  const source = values as Partial<AsyncIterable<unknown> & Iterable<unknown>> | null | undefined;
  const iterator = source?.[Symbol.asyncIterator]?.() ?? source?.[Symbol.iterator]?.();
  if (iterator) return iterator;
  throw new TypeError("a streaming method must return an iterable: write it as async *method() { … }");
}

/** Awaits a promise, but no longer than the signal. Not `Promise.race`, which adds to the signal's promise each time. */
function untilAborted(
  signal: AbortSignal,
): <T>(promise: T | PromiseLike<T>) => Promise<Awaited<T> | "aborted"> {
  let abort: (() => void) | undefined;
  signal.addEventListener("abort", () => abort?.(), { once: true });
  return (promise) =>
    new Promise((resolve, reject) => {
      abort = () => resolve("aborted");
      if (signal.aborted) abort();
      Promise.resolve(promise).then(resolve, reject);
    });
}
