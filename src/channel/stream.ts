// One stream: a method's values, one frame each, held back while the reader is behind, and ended when it has enough.

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

/** Sends a stream's values until it ends, fails or is aborted; resolves with how to answer its call. Never rejects. */
export async function runStream(
  channel: ChannelParts,
  ws: ServerWebSocket,
  outbox: Outbox,
  call: { id: string | number | null; method: RunningMethod; params: unknown },
  signal: AbortSignal,
): Promise<Outcome> {
  const { id, method, params } = call;
  let iterator: AsyncIterator<unknown> | Iterator<unknown> | undefined;
  const aborted = new Promise<"aborted">((resolve) =>
    signal.addEventListener("abort", () => resolve("aborted"), { once: true }),
  );
  try {
    const checked = await validate(method.contract.params, params);
    if (checked.issues) return { error: invalidParams(checked.issues) };
    const iterable = await invoke(channel, ws, method, checked.value, signal);
    iterator = iterate(iterable);
    for (;;) {
      if (signal.aborted) return { result: null };
      const step = await Promise.race([iterator.next(), aborted]);
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
