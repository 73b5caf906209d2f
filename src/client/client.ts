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
  InfoOut,
  MessageOut,
  ParamsOut,
  ResultIn,
  ResultOut,
  StreamName,
  TellName,
  TopicName,
  Topics as TopicsOf,
  ValueOut,
} from "../contract/contract.js";
import {
  encodeError,
  encodeNotification,
  encodeResult,
  type ErrorObject,
  type Id,
  RPC_CODES,
} from "../contract/frames.js";
import { fillPath, type PathParams } from "../contract/path.js";
import { topicName, type TopicParams } from "../contract/topic.js";
import { type CallOptions, Calls } from "./calls.js";
import {
  Connection,
  type ConnectionState,
  type TokenSource,
  type WebSocketConstructor,
} from "./connection.js";
import { Listeners, report } from "./listeners.js";
import { StreamReader } from "./stream.js";
import type { Subscription } from "./subscription.js";
import { type SubscribeOptions, Topics } from "./topics.js";

/** What `connect` takes. */
export interface ConnectOptionsBase {
  /**
   * Where the server is: `wss://chat.example.com`. `http:` and `https:` will do too, and in a page `/`: where the page
   * came from. A path before the contract's own and a query are kept.
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

type CallArguments<P> = undefined extends P
  ? [params?: P, options?: CallOptions]
  : [params: P, options?: CallOptions];
type StreamArguments<P> = undefined extends P
  ? [params?: P, options?: Pick<CallOptions, "signal">]
  : [params: P, options?: Pick<CallOptions, "signal">];

type SubscribeArguments<Name extends string> = keyof TopicParams<Name> extends never
  ? [params?: Record<never, never>, options?: SubscribeOptions]
  : [params: TopicParams<Name>, options?: SubscribeOptions];

/** A client of a channel. Made by {@link connect}. */
export class Client<C extends Contract> {
  readonly #contract: C;
  readonly #options: ConnectOptionsBase & { params?: Record<string, string> | undefined };
  readonly #connection: Connection;
  readonly #calls: Calls;
  readonly #topics: Topics;
  readonly #listeners = new Listeners<Record<string, unknown>>();
  readonly #answers = new Map<string, (params: never) => unknown>();
  readonly #stateListeners = new Listeners<{ state: ConnectionState }>();

  /** @internal */
  constructor(contract: C, options: ConnectOptionsBase & { params?: Record<string, string> | undefined }) {
    this.#contract = contract;
    this.#options = options;
    this.#connection = new Connection({
      token: options.token,
      onSocket: () => {
        this.#calls.leave();
        this.#topics.connected();
      },
      onOpen: () => this.#calls.arrived(),
      onText: (text) => this.#receive(text),
      onDown: (code, refused) => {
        this.#topics.disconnected();
        this.#calls.down(code, refused);
      },
      onState: (state) => {
        if (state === "closed") this.#ended();
        // A listener may have changed it: then the others have heard what it is now, and must not hear what it was.
        this.#stateListeners.tell("state", state, () => state === this.state);
      },
    });
    this.#calls = new Calls(this.#connection, options.timeout);
    this.#topics = new Topics({ calls: this.#calls, send: (text) => this.#connection.send(text) });
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
      throw new TypeError('connect: no WebSocket here; before Node 22 pass that of the package "ws"');
    }
    this.#connection.start(addressOf(url, this.#contract.path, params), WebSocket);
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
    return this.#stateListeners.on("state", listener);
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
    const mayRepeat = this.#contract.methods?.[method]?.idempotent === true;
    // The server validates; what comes back is of the contract's type because the server says so.
    return this.#calls.request(method, params, options, mayRepeat) as Promise<ResultOut<Methods<C>[Name]>>;
  }

  /** Sends a call and forgets it: nobody learns whether it worked. */
  notify<Name extends NotificationName<C>>(
    method: Name,
    ...[params]: ParamsArgument<ParamsIn<Methods<C>[Name]>>
  ): void {
    this.#calls.notify(method, params);
  }

  /**
   * Reads a stream: `for await (const value of client.stream("ask", { … }))`. `break` ends it on the server too.
   * Begins with the first value that is asked for. Throws as `call`; a lost connection is `CONNECTION_LOST`.
   */
  stream<Name extends StreamName<C>>(
    method: Name,
    ...[params, options = {}]: StreamArguments<ParamsIn<Methods<C>[Name]>>
  ): AsyncIterableIterator<ValueOut<Methods<C>[Name]>> {
    return new StreamReader<ValueOut<Methods<C>[Name]>>({
      // As with `call`: the server has validated the values.
      start: (next) => this.#calls.begin(method, params, { next: next as (value: unknown) => void }),
      cancel: (id) => this.#calls.cancel(id),
      hold: (id, held) =>
        void this.#connection.send(encodeNotification(held ? "$/pause" : "$/resume", { id })),
      signal: options.signal,
    });
  }

  /** Hears an event. @returns how to stop that. */
  on<Name extends TellName<C>>(
    event: Name,
    listener: (params: ParamsOut<Events<C>[Name]>) => void,
  ): () => void {
    return this.#listeners.on(event, listener as (params: unknown) => void); // of the contract's type: the server says so
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

  /**
   * Subscribes to a topic: with `for await`, or `on("message", …)`. It lives through reconnects: with a history nothing
   * is lost, doubled or out of order, or a `reset` says that the past is gone.
   * @throws TypeError for params that are missing or too long. What the server refuses ends the subscription: see
   * `state` and `error`.
   * @example
   * const room = client.subscribe("room/:room", { room: "lobby" }, { last: 50 });
   * room.on("message", ({ data, offset }) => show(data));
   */
  subscribe<Name extends TopicName<C>>(
    name: Name,
    ...[params, options = {}]: SubscribeArguments<Name>
  ): Subscription<MessageOut<TopicsOf<C>[Name]>, InfoOut<TopicsOf<C>[Name]>> {
    const { last, after } = options;
    const coalesce = this.#contract.topics?.[name]?.coalesce === true;
    const subscription = this.#topics.subscribe(topicName(name, params), { last, after, coalesce });
    if (this.state === "closed") this.#ended();
    // Of the contract's types: the server says so.
    return subscription as unknown as Subscription<MessageOut<TopicsOf<C>[Name]>, InfoOut<TopicsOf<C>[Name]>>;
  }

  /** Gives the server a new token for the living connection. */
  async refresh(token: string): Promise<void> {
    await this.#calls.request("$/refresh", { token }, {});
  }

  /**
   * Ends the connection for good. What waits rejects with `CLOSED`, what had left with `CONNECTION_LOST`.
   * @param code 1000, or 3000 to 4999, as in browsers (https://websockets.spec.whatwg.org/#dom-websocket-close).
   * @param reason At most 123 bytes.
   * @throws RangeError for another code, or a longer reason.
   */
  close(code: number = 1000, reason: string = ""): void {
    if ((code !== 1000 && !(code >= 3000 && code < 5000)) || new TextEncoder().encode(reason).length > 123) {
      throw new RangeError(
        `close(${code}, …): a code is 1000 or 3000 to 4999, a reason has at most 123 bytes`,
      );
    }
    this.#connection.close(code, reason);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #receive(text: string): void {
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      return; // a server of harpia's sends none such
    }
    for (const frame of Array.isArray(parsed) ? parsed : [parsed])
      this.#handle((frame ?? {}) as Received, text.length);
  }

  #handle({ id, method, params, result, error }: Received, size: number): void {
    if (method === undefined) return this.#calls.answered(id ?? null, result, error);
    if (id !== undefined) return void this.#asked(id, method, params);
    if (method === "$/next") {
      const { id, value } = (params ?? {}) as { id: Id; value: unknown };
      return this.#calls.value(id, value);
    }
    if (method.startsWith("$/"))
      this.#topics.receive(method, (params ?? {}) as Record<string, unknown>, size);
    else this.#listeners.tell(method, params);
  }

  /** Subscriptions end with the connection: by `close()` without an error. */
  #ended(): void {
    this.#topics.end(this.closeCode === 1000 ? undefined : this.#calls.closed());
  }

  async #asked(id: Id, method: string, params: unknown): Promise<void> {
    const { socketNumber } = this.#connection;
    const answer = (text: string): void => {
      // On another connection this id is another question's.
      if (socketNumber === this.#connection.socketNumber) this.#connection.send(text);
    };
    const handler = this.#answers.get(method);
    if (handler === undefined) {
      const message = `Nobody answers ${method} here`;
      return answer(encodeError(id, { code: RPC_CODES.METHOD_NOT_FOUND, message }));
    }
    try {
      answer(encodeResult(id, await handler(params as never)));
    } catch (error) {
      answer(encodeError(id, { code: RPC_CODES.INTERNAL, message: "The client failed to answer" }));
      report(error);
    }
  }
}

/** A frame of the server, which is taken to be one: what it is shows in what it has. */
interface Received {
  id?: Id;
  method?: string;
  params?: unknown;
  result?: unknown;
  error?: ErrorObject;
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

function addressOf(url: string | URL, path: string, params?: Record<string, string>): string {
  const filled = fillPath(path, params);
  // A URL swallows them, however they are encoded: the connection would be another one.
  if (/\/\.\.?(\/|$)/.test(filled)) throw new TypeError(`connect: a param of ${path} cannot be "." or ".."`);
  let address: URL | undefined;
  try {
    // Deno's `location` throws where there is none, so only those who need it look.
    address = new URL(url, String(url).startsWith("/") ? globalThis.location.href : undefined);
    address.protocol = address.protocol.replace("http", "ws");
  } catch {}
  if (!/^wss?:/.test(address?.protocol ?? "")) {
    throw new TypeError(
      `connect: "url" must be like "wss://chat.example.com", in a page also "/", and is "${String(url)}"`,
    );
  }
  address!.pathname = address!.pathname.replace(/\/$/, "") + filled;
  address!.hash = "";
  return address!.href;
}
