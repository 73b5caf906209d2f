// What a client has asked and not yet been answered, in the order in which it was asked: what waits for a connection,
// what has left, and what becomes of both when the connection breaks.

import { encodeCall, encodeNotification, type ErrorObject, type Id } from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import type { Connection } from "./connection.js";

const MOST_NOTIFICATIONS = 1_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const TOO_BIG = 1009;

export interface CallOptions {
  /** Cancels the call: it rejects with the signal's reason, and the server's `signal` fires. */
  signal?: AbortSignal;
  /** Milliseconds; default that of `connect`. `Infinity` waits for ever. */
  timeout?: number;
}

interface Waiting {
  text: string;
  /** Whether it has left on this connection: then it may have run. */
  sent: boolean;
  /** Whether it may be sent again when it has. */
  mayRepeat: boolean;
  /** A notification has none. */
  resolve?(result: unknown): void;
  reject?(error: unknown): void;
  /** For a stream: takes its values. */
  next?: ((value: unknown) => void) | undefined;
  timer?: ReturnType<typeof setTimeout>;
}

type Way = Pick<Connection, "send" | "state" | "problem" | "closeCode">;

export class Calls {
  readonly #connection: Way;
  readonly #timeout: number;
  readonly #waiting = new Map<Id, Waiting>();
  #notifications = 0;
  #lastId = 0;

  constructor(connection: Way, timeout: number = 10_000) {
    checkTimeout(timeout);
    this.#connection = connection;
    this.#timeout = timeout;
  }

  async request(
    method: string,
    params: unknown,
    { signal, timeout }: CallOptions,
    mayRepeat = false,
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const { id, ended } = this.begin(method, params, { timeout, mayRepeat });
    if (!signal) return ended;
    const abort = (): void => this.#fail(id, signal.reason);
    signal.addEventListener("abort", abort);
    try {
      return await ended;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** Sends a call, or keeps it until there is a connection. With `next` it is a stream: its time ends when it leaves. */
  begin(
    method: string,
    params: unknown,
    {
      timeout = this.#timeout,
      mayRepeat = false,
      next,
    }: Partial<Pick<Waiting, "mayRepeat" | "next">> & { timeout?: number | undefined } = {},
  ): { id: number; ended: Promise<unknown> } {
    checkTimeout(timeout);
    const id = ++this.#lastId;
    const text = encodeCall(id, method, params);
    const ended = new Promise((resolve, reject) => {
      if (this.#connection.state === "closed") return reject(this.closed());
      const waiting: Waiting = { text, sent: false, mayRepeat, next, resolve, reject };
      if (timeout <= LONGEST_TIMER_MS) {
        waiting.timer = setTimeout(() => {
          if (next && waiting.sent) return;
          const { state } = this.#connection;
          this.#fail(
            id,
            this.#error("TIMEOUT", `${method} was not answered within ${timeout} ms (${state})`),
          );
        }, timeout);
      }
      this.#keep(id, waiting);
    });
    return { id, ended };
  }

  notify(method: string, params: unknown): void {
    const { state } = this.#connection;
    if (state === "closed") throw this.closed();
    const text = encodeNotification(method, params);
    if (state === "open" && this.#connection.send(text)) return;
    if (this.#notifications >= MOST_NOTIFICATIONS) {
      throw new RpcError("UNAVAILABLE", `${MOST_NOTIFICATIONS} notifications wait already`);
    }
    this.#notifications++;
    this.#keep(++this.#lastId, { text, sent: false, mayRepeat: false });
  }

  /** Lets go of a call, and tells the server. */
  cancel(id: number): void {
    if (this.#take(id)?.sent) this.#connection.send(encodeNotification("$/cancel", { id }));
  }

  answered(id: Id, result: unknown, error: ErrorObject | undefined): void {
    const waiting = this.#take(id);
    if (error) waiting?.reject?.(RpcError.from(error));
    else waiting?.resolve?.(result ?? undefined);
  }

  value(id: Id, value: unknown): void {
    this.#waiting.get(id)?.next?.(value);
  }

  /** There is a socket: what waits leaves. */
  leave(): void {
    for (const waiting of this.#waiting.values()) {
      if (!waiting.sent) waiting.sent = this.#connection.send(waiting.text);
    }
  }

  /** The server reads: notifications that have left are no longer ours. */
  arrived(): void {
    for (const [id, { sent, resolve }] of this.#waiting) if (sent && !resolve) this.#take(id);
  }

  /** The connection is no more. */
  down(code: number, refused: boolean): void {
    const ended = this.#connection.state === "closed";
    for (const [id, waiting] of this.#waiting) {
      const unread = refused || !waiting.sent;
      if (!ended && (unread || (waiting.mayRepeat && code !== TOO_BIG))) {
        waiting.sent = false;
        continue;
      }
      this.#take(id);
      waiting.reject?.(
        unread
          ? this.closed()
          : new RpcError(
              "CONNECTION_LOST",
              `The connection broke (${code}) before an answer came; the call may have run`,
            ),
      );
    }
  }

  closed(): RpcError {
    return this.#error("CLOSED", `The connection is closed (${this.#connection.closeCode})`);
  }

  /** With what is known of why there is no connection. */
  #error(reason: "CLOSED" | "TIMEOUT", message: string): RpcError {
    const { problem } = this.#connection;
    const error = new RpcError(reason, message);
    if (problem !== undefined) error.cause = problem;
    return error;
  }

  #fail(id: number, error: unknown): void {
    const waiting = this.#waiting.get(id);
    this.cancel(id);
    waiting?.reject?.(error);
  }

  #keep(id: number, waiting: Waiting): void {
    this.#waiting.set(id, waiting);
    waiting.sent = this.#connection.send(waiting.text);
  }

  #take(id: Id): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    clearTimeout(waiting?.timer);
    if (waiting && !waiting.resolve) this.#notifications--;
    return waiting;
  }
}

function checkTimeout(timeout: number): void {
  if (timeout > 0) return;
  throw new TypeError(`timeout must be milliseconds, and is ${String(timeout)}`);
}
