// What a server gives for a contract: the types of its methods and hooks. The running of them is in peer.ts.

import type {
  AskName,
  Contract,
  ErrorsOf,
  Events,
  InfoIn,
  InfoOut,
  MessageIn,
  MessageOut,
  MethodName,
  Methods,
  ParamsArgument,
  ParamsIn,
  ParamsOut,
  ResultIn,
  ResultOut,
  TellName,
  TopicName,
  Topics,
  ValueIn,
} from "../contract/contract.js";
import type { PathParams } from "../contract/path.js";
import type { InputOf, Schema } from "../contract/schema.js";
import type { TopicParams } from "../contract/topic.js";
import type { Position } from "../broker/broker.js";
import type { Awaitable, ConnectionData, RateLimit, RouteOptions, UpgradeHook } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";

/** A connection of a channel. */
export type ChannelSocket<C extends Contract = Contract, Data = object> = ServerWebSocket<
  ConnectionData<Data>,
  PathParams<C["path"]>
>;

/**
 * What a method gets beside its params. A class, so that the compiler knows that `{ ...context }` has no `signal`: it is
 * made when first asked for. Hand it on by name: `{ ...context, signal: context.signal }`.
 */
export declare abstract class MethodContext<M, Ws> {
  readonly ws: Ws;
  /** Fires when the client cancels or leaves, and at the method's `timeout`. */
  get signal(): AbortSignal;
  /** Makes one of the contract's errors for this method, to be thrown. */
  readonly error: <Name extends keyof ErrorsOf<M> & string>(
    name: Name,
    data: InputOf<ErrorsOf<M>[Name]>,
  ) => Error;
}

type Run<M, Ws> = M extends { stream: Schema }
  ? (params: ParamsOut<M>, context: MethodContext<M, Ws>) => AsyncIterable<ValueIn<M>>
  : (params: ParamsOut<M>, context: MethodContext<M, Ws>) => Awaitable<ResultIn<M>>;

/** A method: a function, or one with limits of its own. */
export type MethodImplementation<M, Ws> =
  | Run<M, Ws>
  | {
      run: Run<M, Ws>;
      /** Milliseconds after which the call fails with TIMEOUT, and `signal` fires. */
      timeout?: number;
      /** Calls of this method, of one connection; above it they fail with RATE_LIMITED. */
      rateLimit?: Omit<RateLimit, "close">;
    };

export type MethodImplementations<C extends Contract, Ws> = {
  [Name in MethodName<C>]: MethodImplementation<Methods<C>[Name], Ws>;
};

/** What stands around a channel's methods: all optional. */
export type ChannelHooks<C extends Contract, Returned extends object = object> = UpgradeHook<
  PathParams<C["path"]>,
  Returned
> &
  Pick<RouteOptions, "origins" | "rateLimit"> & {
    open?(ws: ChannelSocket<C, Returned>): Awaitable<void>;
    close?(ws: ChannelSocket<C, Returned>, code: number, reason: string): Awaitable<void>;
    /** A client sends a new token on its living connection: take it, or throw. Without it, FORBIDDEN. */
    refresh?(token: string, context: { ws: ChannelSocket<C, Returned> }): Awaitable<void>;
    /** Runs around every method: for metrics, tracing, permissions. Return what `call()` returns. */
    before?(
      call: () => Promise<unknown>,
      context: { method: MethodName<C>; params: unknown; ws: ChannelSocket<C, Returned> },
    ): Promise<unknown>;
    /** Calls that run at a time, for one connection; more wait. Default 64. */
    concurrency?: number;
    /** Whether results and stream values are validated. Default `true`. */
    validateResults?: boolean;
  };

/** What a topic's hooks get beside its params. */
export interface TopicContext<T, Ws> {
  readonly ws: Ws;
  /** Makes one of the contract's errors for this topic, to be thrown. */
  readonly error: <Name extends keyof ErrorsOf<T> & string>(
    name: Name,
    data: InputOf<ErrorsOf<T>[Name]>,
  ) => Error;
}

type InfoHook<Template extends string, T, Ws> = (
  params: TopicParams<Template>,
  context: { readonly ws: Ws },
) => Awaitable<InfoIn<T> | undefined>;

/** Who a subscriber is to the others: its info, or its info and more. `undefined`: it is not a member. */
export type PresenceImplementation<Template extends string, T, Ws> =
  | InfoHook<Template, T, Ws>
  | {
      info: InfoHook<Template, T, Ws>;
      /** Connections of one key are one member. Default: each connection its own. A user's id merges their tabs. */
      key?(params: TopicParams<Template>, context: { readonly ws: Ws }): string;
      /** Members that clients are told of; beyond it only their number. Default 1,000. */
      max?: number;
    };

/** A topic: who may subscribe, and who they are to the others. */
export type TopicImplementation<Template extends string, T, Ws> = {
  /**
   * Decides on a subscription: `true` lets in; anything else is FORBIDDEN, and so is an `error(…)` that it throws, with
   * a name. `"public"` lets in whoever has the connection.
   */
  subscribe: "public" | ((params: TopicParams<Template>, context: TopicContext<T, Ws>) => Awaitable<boolean>);
} & (T extends { presence: Schema } ? { presence: PresenceImplementation<Template, T, Ws> } : unknown);

export type TopicImplementations<C extends Contract, Ws> = {
  [Name in TopicName<C>]: TopicImplementation<Name, Topics<C>[Name], Ws>;
};

/** What a server gives for a contract: each of its methods and topics. */
export type Implementation<C extends Contract, Ws> = (keyof Methods<C> extends never
  ? { methods?: Record<never, never> }
  : {
      /** A function for each method of the contract, or an object with `run` and limits of its own. */
      methods: MethodImplementations<C, Ws>;
    }) &
  (keyof Topics<C> extends never
    ? { topics?: Record<never, never> }
    : {
        /** For each topic of the contract, who may subscribe: no topic is open by omission. */
        topics: TopicImplementations<C, Ws>;
      });

/** A channel that is still to be implemented: what `app.channel` returns. */
export interface Channel<C extends Contract, Ws = ChannelSocket<C>> {
  /** Registers the channel with all that its contract asks for. */
  implement(implementation: Implementation<C, Ws>): Live<C, Ws>;
}

/** What `publish` resolves with: where the publication stands, if its topic has a history. */
export type Published<T> = T extends { history: object } ? Position : void;

/** A part of a topic's log. */
export interface HistoryPage<Message> extends Position {
  /** Whether nothing is missing between the position asked for and `messages`. */
  readonly recovered: boolean;
  /** Oldest first. */
  readonly messages: readonly { readonly offset: number; readonly data: Message }[];
  /** Whether there is no more in that direction. */
  readonly complete: boolean;
}

/** What to read of a topic's history: what came after or before a position, or the newest. */
export type HistoryRange =
  { after: Position; limit?: number } | { before: Position; limit?: number } | { last: number };

/** One topic of a running channel. What `live.topic(…)` returns: cheap, to be made anew each time. */
export interface TopicHandle<T, Ws> {
  /** The topic's name on the wire. */
  readonly name: string;
  /**
   * Publishes to every subscriber, on every process. Resolves when it is stored (with history) or handed to the broker.
   * @param options.idempotencyKey A repeat with it, within the history's `ttl`, resolves with the first position and
   * reaches nobody. Needs `history`.
   * @param options.except A connection that is not to get it now. With history, it comes to it as part of the past.
   * @throws An Error if the data does not match the contract; RpcError `TOO_LARGE`; BrokerError, when it is not known
   * whether it was stored: repeat it with the same `idempotencyKey`.
   */
  publish(data: MessageIn<T>, options?: { idempotencyKey?: string; except?: Ws }): Promise<Published<T>>;
  /** Reads the log: one page of up to 1,000 messages and 1 MiB. Throws a BrokerError when the broker is away. */
  history(range: HistoryRange): Promise<HistoryPage<MessageOut<T>>>;
  /** Who is there, on all processes: each key once. */
  members(): Promise<{ key: string; info: InfoOut<T> }[]>;
  /** Connections of this process that are subscribed. */
  subscribers(): number;
}

type TopicArguments<Name extends string> = keyof TopicParams<Name> extends never
  ? [params?: undefined]
  : [params: TopicParams<Name>];

/** A running channel: how the server speaks first. What `app.channel(…).implement(…)` returns. */
export interface Live<C extends Contract, Ws = ChannelSocket<C>> {
  /** The channel's open connections. */
  readonly connections: ReadonlySet<Ws>;
  /** Tells one client something. A rejection: the params do not match the contract. */
  emit<Name extends TellName<C>>(
    ws: Ws,
    event: Name,
    ...params: ParamsArgument<ParamsIn<Events<C>[Name]>>
  ): Promise<void>;
  /**
   * Tells all clients of the channel, on every process that shares the app's broker. Rejects with a BrokerError if others
   * could not be told.
   */
  broadcast<Name extends TellName<C>>(
    event: Name,
    ...params: ParamsArgument<ParamsIn<Events<C>[Name]>>
  ): Promise<void>;
  /**
   * Asks one client, and awaits its answer.
   * @param options.timeout Milliseconds, 10,000 by default.
   * @throws RpcError `TIMEOUT`; `CONNECTION_LOST` when the client goes; `METHOD_NOT_FOUND` when it has no answer for
   * this; what the client answered otherwise.
   */
  ask<Name extends AskName<C>>(
    ws: Ws,
    event: Name,
    params: ParamsIn<Events<C>[Name]>,
    options?: { timeout?: number },
  ): Promise<ResultOut<Events<C>[Name]>>;
  /** Closes the connection with 4401 at a time (a `Date`, or milliseconds since 1970), unless set anew before. */
  expire(ws: Ws, at: Date | number): void;
  /** One topic, to publish to it or to look at it. Throws a TypeError for params that are missing or too long. */
  topic<Name extends TopicName<C>>(
    name: Name,
    ...params: TopicArguments<Name>
  ): TopicHandle<Topics<C>[Name], Ws>;
  /**
   * Ends a subscription: that of one connection, or those of all connections of a member, on every process that shares
   * the app's broker. The client is told, and does not come back by itself.
   * @param whom A connection of this process, or a member's presence key.
   * @param reason A sentence for the client. Default "Removed from the topic".
   * @returns whether there was one on this process. Rejects with a BrokerError if others could not be told.
   */
  kick<Name extends TopicName<C>>(
    whom: Ws | { key: string },
    name: Name,
    params: TopicParams<Name>,
    reason?: string,
  ): Promise<boolean>;
}
