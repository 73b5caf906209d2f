// The client of a channel: calls, streams, events and answers over a connection that comes back.

import type {
  AskName,
  CallName,
  Contract,
  Events,
  Methods,
  NotificationName,
  ParamsArgument,
  ParamsIn,
  ParamsOut,
  ResultIn,
  ResultOut,
  StreamName,
  TellName,
  ValueOut,
} from "../contract/contract.js";
import {
  classify,
  encodeCall,
  encodeError,
  encodeNotification,
  encodeResult,
  type Frame,
  type Id,
  RPC_CODES,
} from "../contract/frames.js";
import { fillPath, type PathParams } from "../contract/path.js";
import { RpcError } from "../contract/rpc-error.js";
import {
  Connection,
  type ConnectionState,
  type TokenSource,
  type WebSocketConstructor,
} from "./connection.js";
import { StreamReader } from "./stream.js";

const DEFAULT_TIMEOUT_MS = 10_000;
const MOST_WAITING = 1_000;

/** What `connect` takes. */
export interface ConnectOptionsBase {
  /**
   * Where the server is: `wss://chat.example.com`. `http:` and `https:` will do too, and in a page `/`: where the page
   * came from. The contract has the path.
   */
  url: string | URL;
  /** A token, or a function that gets one; asked for each connection, and once more when the server says 4401. */
  token?: TokenSource;
  /** Milliseconds after which a call fails, time spent reconnecting included. Default 10,000. */
  timeout?: number;
  /** Default: the global one. Node before version 22 has none: pass that of the package `ws`. */
  WebSocket?: WebSocketConstructor;
}

export type ConnectOptions<C extends Contract> = ConnectOptionsBase &
  (keyof PathParams<C["path"]> extends never ? { params?: undefined } : { params: PathParams<C["path"]> });

export interface CallOptions {
  /** Cancels the call: it rejects with the signal's reason, and the server's `signal` fires. */
  signal?: AbortSignal;
  /** Milliseconds; default that of `connect`. */
  timeout?: number;
}

type CallArguments<P> = undefined extends P
  ? [params?: P, options?: CallOptions]
  : [params: P, options?: CallOptions];
type StreamArguments<P> = undefined extends P
  ? [params?: P, options?: Pick<CallOptions, "signal">]
  : [params: P, options?: Pick<CallOptions, "signal">];

interface Pending {
  text: string;
  /** Whether it has left: then it may have run. */
  sent: boolean;
  mayRepeat: boolean;
  resolve(result: unknown): void;
  reject(error: unknown): void;
  /** For a stream: takes its values. */
  next?: (value: unknown) => void;
}

/** A client of a channel. Made by {@link connect}. */
export class Client<C extends Contract> {
  readonly #contract: C;
  readonly #options: ConnectOptionsBase & { params?: Record<string, string> | undefined };
  readonly #connection: Connection;
  readonly #timeout: number;
  readonly #pending = new Map<Id, Pending>();
  readonly #listeners = new Map<string, Set<(params: never) => unknown>>();
  readonly #answers = new Map<string, (params: never) => unknown>();
  readonly #stateListeners = new Set<(state: ConnectionState) => void>();
  #notifications: string[] = [];
  #lastId = 0;

  /** @internal */
  constructor(contract: C, options: ConnectOptionsBase & { params?: Record<string, string> | undefined }) {
    this.#contract = contract;
    this.#timeout = options.timeout ?? DEFAULT_TIMEOUT_MS;
    this.#options = options;
    this.#connection = new Connection({
      token: options.token,
      onOpen: () => this.#opened(),
      onText: (text) => this.#receive(text),
      onDown: (code, refused) => this.#down(code, refused),
      onState: (state) => {
        for (const listener of this.#stateListeners) safely(() => listener(state));
      },
    });
  }

  /**
   * Connects; until then the client opens nothing and looks at no global, and what is called waits.
   * @internal
   */
  start(): void {
    const {
      url,
      params,
      WebSocket = (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket,
    } = this.#options;
    if (WebSocket === undefined) {
      throw new TypeError(
        'connect: this runtime has no WebSocket. Node has one from version 22 on; before, pass { WebSocket } from the package "ws".',
      );
    }
    this.#connection.start(addressOf(url, fillPath(this.#contract.path, params)), WebSocket);
  }

  get state(): ConnectionState {
    return this.#connection.state;
  }

  /** Once it is `closed`, why: 1000 by `close()`; 4401, 4403 and so on by the server. */
  get closeCode(): number | undefined {
    return this.#connection.closeCode;
  }

  /** Tells of each new state. @returns how to stop that. */
  onState(listener: (state: ConnectionState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => void this.#stateListeners.delete(listener);
  }

  /**
   * Calls a method. While the connection is away, the call waits.
   * @throws RpcError with a `reason`: `CONTRACT` (see `isContractError`), `INVALID_PARAMS`, `TIMEOUT`, `INTERNAL`, …;
   * `CONNECTION_LOST` if the connection broke when the call had left: it may have run; `CLOSED` after `close()`.
   */
  call<Name extends CallName<C>>(
    method: Name,
    ...[params, options = {}]: CallArguments<ParamsIn<Methods<C>[Name]>>
  ): Promise<ResultOut<Methods<C>[Name]>> {
    // The server validates; what comes back is of the contract's type because the server says so.
    return this.#request(method, params, options) as Promise<ResultOut<Methods<C>[Name]>>;
  }

  /** Sends a call and forgets it: nobody learns whether it worked. */
  notify<Name extends NotificationName<C>>(
    method: Name,
    ...[params]: ParamsArgument<ParamsIn<Methods<C>[Name]>>
  ): void {
    this.#refuseClosed();
    const text = encodeNotification(method, params);
    if (this.#connection.send(text)) return;
    if (this.#notifications.length >= MOST_WAITING) {
      throw new RpcError("UNAVAILABLE", `${MOST_WAITING} notifications wait for the connection already`);
    }
    this.#notifications.push(text);
  }

  /**
   * Reads a stream: `for await (const value of client.stream("ask", { … }))`. `break` ends it on the server too.
   * Begins with the first value that is asked for. Throws as `call`; a lost connection is `CONNECTION_LOST`.
   */
  stream<Name extends StreamName<C>>(
    method: Name,
    ...[params, options = {}]: StreamArguments<ParamsIn<Methods<C>[Name]>>
  ): AsyncIterableIterator<ValueOut<Methods<C>[Name]>> {
    const reader = new StreamReader<ValueOut<Methods<C>[Name]>>({
      start: (next) => {
        const { promise, id } = this.#begin(method, params, { next: next as (value: unknown) => void });
        return { ended: promise, id };
      },
      cancel: (id) => this.#cancel(id),
      signal: options.signal,
    });
    return reader;
  }

  /** Hears an event. @returns how to stop that. */
  on<Name extends TellName<C>>(
    event: Name,
    listener: (params: ParamsOut<Events<C>[Name]>) => void,
  ): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener as (params: never) => unknown));
    return () => void listeners.delete(listener as (params: never) => unknown);
  }

  /** Answers what the server asks; one handler an event. @returns how to stop that. */
  answer<Name extends AskName<C>>(
    event: Name,
    handler: (
      params: ParamsOut<Events<C>[Name]>,
    ) => ResultIn<Events<C>[Name]> | Promise<ResultIn<Events<C>[Name]>>,
  ): () => void {
    this.#answers.set(event, handler as (params: never) => unknown);
    return () => void (this.#answers.get(event) === handler && this.#answers.delete(event));
  }

  /** Gives the server a new token for the living connection. */
  async refresh(token: string): Promise<void> {
    await this.#request("$/refresh", { token }, {});
  }

  /** Ends the connection for good; what is open rejects with `CLOSED`. */
  close(code: number = 1000, reason: string = ""): void {
    this.#connection.close(code, reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #request(
    method: string,
    params: unknown,
    { signal, timeout = this.#timeout }: CallOptions,
  ): Promise<unknown> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const { promise, id } = this.#begin(method, params, {});
    const fail = (error: unknown): void => {
      const pending = this.#pending.get(id);
      this.#cancel(id);
      pending?.reject(error);
    };
    const timer = setTimeout(
      () => fail(new RpcError("TIMEOUT", `${method} was not answered within ${timeout} ms`)),
      timeout,
    );
    const abort = (): void => fail(signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    return promise.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    });
  }

  #begin(
    method: string,
    params: unknown,
    { next }: Pick<Pending, "next">,
  ): { promise: Promise<unknown>; id: number } {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const id = ++this.#lastId;
    if (this.#connection.state === "closed") {
      reject(this.#closed());
      return { promise, id };
    }
    const text = encodeCall(id, method, params);
    const mayRepeat = this.#contract.methods?.[method]?.idempotent === true && next === undefined;
    const pending: Pending = { text, sent: false, mayRepeat, resolve, reject };
    if (next) pending.next = next;
    this.#pending.set(id, pending);
    pending.sent = this.#connection.send(text);
    return { promise, id };
  }

  #cancel(id: number): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (pending?.sent) this.#connection.send(encodeNotification("$/cancel", { id }));
  }

  #opened(): void {
    for (const pending of this.#pending.values()) {
      if (!pending.sent) pending.sent = this.#connection.send(pending.text);
    }
    for (const text of this.#notifications.splice(0)) this.#connection.send(text);
  }

  #down(code: number, refused: boolean): void {
    const ended = this.#connection.state === "closed";
    const closed = (): RpcError => this.#closed();
    for (const [id, pending] of this.#pending) {
      if (!ended && !pending.sent) continue;
      // What broke the connection would break it again.
      const repeats = refused || (pending.mayRepeat && ![1002, 1003, 1007, 1009].includes(code));
      if (!ended && repeats) pending.sent = false;
      else {
        this.#pending.delete(id);
        const lost = new RpcError(
          "CONNECTION_LOST",
          `The connection broke (${code}) before an answer came; the call may have run`,
        );
        pending.reject(ended && (refused || !pending.sent) ? closed() : lost);
      }
    }
  }

  #receive(text: string): void {
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      return; // a server of harpia's sends none such
    }
    for (const frame of Array.isArray(parsed) ? parsed.map(classify) : [classify(parsed)])
      this.#handle(frame);
  }

  #handle(frame: Frame): void {
    if (frame.kind === "answer") {
      const pending = this.#pending.get(frame.id);
      this.#pending.delete(frame.id);
      if (frame.error) pending?.reject(RpcError.from(frame.error));
      else pending?.resolve(frame.result ?? undefined);
    } else if (frame.kind === "notification") {
      if (frame.method === "$/next") {
        const { id, value } = frame.params as { id: Id; value: unknown };
        this.#pending.get(id)?.next?.(value);
      }
      for (const listener of this.#listeners.get(frame.method) ?? [])
        safely(() => listener(frame.params as never));
    } else if (frame.kind === "call") void this.#asked(frame);
  }

  async #asked({ id, method, params }: Extract<Frame, { kind: "call" }>): Promise<void> {
    const handler = this.#answers.get(method);
    if (handler === undefined) {
      const message = `Nobody answers ${method} here`;
      this.#connection.send(encodeError(id, { code: RPC_CODES.METHOD_NOT_FOUND, message }));
      return;
    }
    try {
      this.#connection.send(encodeResult(id, await handler(params as never)));
    } catch (error) {
      this.#connection.send(
        encodeError(id, { code: RPC_CODES.INTERNAL, message: "The client failed to answer" }),
      );
      safely(() => {
        throw error;
      });
    }
  }

  #refuseClosed(): void {
    if (this.#connection.state === "closed") throw this.#closed();
  }

  #closed(): RpcError {
    return new RpcError("CLOSED", `The connection is closed (${this.closeCode})`);
  }
}

/**
 * Connects to a channel, and stays connected until `close()`.
 * @example
 * const client = connect(chat, { url: "wss://chat.example.com", token: () => session.token() });
 * const { at } = await client.call("say", { text: "hello" });
 * @throws TypeError for a URL that is none, a missing param, or a runtime without WebSocket.
 */
export function connect<const C extends Contract>(contract: C, options: ConnectOptions<C>): Client<C> {
  const client = new Client(contract, options);
  client.start();
  return client;
}

function addressOf(url: string | URL, path: string): string {
  const text = String(url);
  // Deno's `location` throws where there is none, so only those who need it look.
  const base = text.startsWith("/") ? pageUrl() : undefined;
  if (!URL.canParse(text, base) || !/^(ws|http)s?:$/.test(new URL(text, base).protocol)) {
    throw new TypeError(
      `connect: "url" must be like "wss://chat.example.com", or in a page like "/", and is ${JSON.stringify(text)}.`,
    );
  }
  const address = new URL(text, base);
  address.protocol = address.protocol.replace("http", "ws");
  address.pathname = `${address.pathname.replace(/\/$/, "")}${path}`;
  return address.href;
}

function pageUrl(): string | undefined {
  return (globalThis as { location?: { href: string } }).location?.href;
}

/** A listener's error is its owner's: it goes where uncaught errors go, and disturbs nobody else. */
function safely(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
