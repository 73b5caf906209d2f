// What a server gives for a contract: the types of its methods and hooks. The running of them is in peer.ts.

import type {
  AskName,
  Contract,
  ErrorsOf,
  Events,
  MethodName,
  Methods,
  ParamsArgument,
  ParamsIn,
  ParamsOut,
  ResultIn,
  ResultOut,
  TellName,
  ValueIn,
} from "../contract/contract.js";
import type { PathParams } from "../contract/path.js";
import type { InputOf, Schema } from "../contract/schema.js";
import type { Awaitable, ConnectionData, RateLimit, RouteOptions, UpgradeHook } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";

/** A connection of a channel. */
export type ChannelSocket<C extends Contract = Contract, Data = object> = ServerWebSocket<
  ConnectionData<Data>,
  PathParams<C["path"]>
>;

/** What a method gets beside its params. */
export interface MethodContext<M, Ws> {
  readonly ws: Ws;
  /** Fires when the client cancels or leaves, and at the method's `timeout`. */
  readonly signal: AbortSignal;
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

/** What a server gives for a contract: each of its methods. */
export type Implementation<C extends Contract, Ws> = keyof Methods<C> extends never
  ? { methods?: Record<never, never> }
  : {
      /** A function for each method of the contract, or an object with `run` and limits of its own. */
      methods: MethodImplementations<C, Ws>;
    };

/** A channel that is still to be implemented: what `app.channel` returns. */
export interface Channel<C extends Contract, Ws = ChannelSocket<C>> {
  /** Registers the channel with all that its contract asks for. */
  implement(implementation: Implementation<C, Ws>): Live<C, Ws>;
}

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
  /** Tells all clients of the channel. */
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
}
