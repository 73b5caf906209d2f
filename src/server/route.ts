// A WebSocket route: its path, the types that follow from the path, and its handlers, checked once when
// it is registered. How a request becomes a connection is in handshake.ts, what then happens in life.ts.

import type { Hub } from "./connections.js";
import { HarpiaError, refuseUnknown, show } from "./errors.js";
import { compileOrigins, type Origins, type OriginTest } from "./origin.js";
import type { ServerWebSocket } from "./socket.js";

/** What `ws.data` always has: the request's full URL, and the token that the client presented, if it did. */
export interface ConnectionInfo {
  /** The full URL of the handshake request, `http:` or `https:`; query included. */
  url: string;
  /** From `Authorization: Bearer …`, else the subprotocol `bearer.<base64url>`, else `?token=`. Not verified. */
  token?: string;
}

/** `ws.data` of `app.ws<T>()`. A field of `T` named `url` or `token` replaces harpia's. */
export type ConnectionData<T> = T & Omit<ConnectionInfo, keyof T>;

/** `ws.data` of a route without a type argument and without `upgrade`: any field may be assigned. */
export type AnyData = ConnectionInfo & Record<string, unknown>;

/** `ws.data` as inferred from what `upgrade` returns. */
export type InferredData<Returned> = object extends Returned
  ? AnyData
  : [Accepted<Returned>] extends [never]
    ? AnyData
    : ConnectionData<Accepted<Returned>>;

type Accepted<Returned> = Exclude<Returned, Response | false | undefined | void>;

export type Awaitable<T> = T | Promise<T>;

/** What `upgrade` is given beside the request. */
export interface UpgradeContext<Params = Record<string, string>> {
  /** The path's params, percent-decoded. */
  readonly params: Params;
  /** The token that the client presented; see {@link ConnectionInfo.token}. Yours to verify. */
  readonly token: string | undefined;
  /** The client's address, through trusted proxies where `trustProxy` says so; empty on a unix socket. */
  readonly ip: string;
  /** The request's full URL as the client sees it, through trusted proxies where `trustProxy` says so. */
  readonly url: string;
  /** Set headers here (cookies, say) and they go out with the 101. */
  readonly headers: Headers;
}

/**
 * The handlers of a route. Each may be async; none is awaited before the next message's, except that no `message`
 * runs before `open` has settled. What a handler throws or rejects with goes to `error`; without an `error`
 * handler it is logged and the connection closes with 1011.
 */
export interface WebSocketHandlers<Data = AnyData, Params = Record<string, string>> {
  /** The connection is established. */
  open?(ws: ServerWebSocket<Data, Params>): void | Promise<void>;
  /** A message has come: a string for a text frame, a Buffer for a binary one. */
  message?(ws: ServerWebSocket<Data, Params>, message: string | Buffer<ArrayBuffer>): void | Promise<void>;
  /** The connection is over; runs exactly once, after `open`, with the true code (RFC 6455 section 7.4.1). */
  close?(ws: ServerWebSocket<Data, Params>, code: number, reason: string): void | Promise<void>;
  /** A handler failed, or the peer broke the protocol (`ProtocolError`). The connection stays unless you close it. */
  error?(ws: ServerWebSocket<Data, Params>, error: Error): void | Promise<void>;
  /** There is room again in the send buffer after backpressure. */
  drain?(ws: ServerWebSocket<Data, Params>): void | Promise<void>;
}

/** At most `messages` in any `per` milliseconds from one connection, with bursts up to `burst`. */
export interface RateLimit {
  /** How many messages, on average, in `per`. */
  messages: number;
  /** Milliseconds. */
  per: number;
  /** How many may come at once; default `messages`. */
  burst?: number;
  /** `true`: close with 1008 instead of reading more slowly (TCP backpressure). Default `false`. */
  close?: boolean;
}

/** What a route says beside its handlers. */
export interface RouteOptions {
  /** Subprotocols that the route speaks, best first. A client that offers only others is refused with 400. */
  protocols?: readonly string[];
  /** Refuse (400) a client that offers no subprotocol. Default `false`. */
  requireProtocol?: boolean;
  /** Origins that may connect to this route, instead of the app's. See `HarpiaOptions.origins`. */
  origins?: Origins;
  /** Async `message` handlers that may run at a time for one connection; then reading pauses. Default: no limit. */
  concurrency?: number;
  rateLimit?: RateLimit;
}

/** The third party of a route: whether the handshake is accepted. */
export interface UpgradeHook<Params, Returned> {
  /**
   * Decides on the handshake before the socket exists. Return an object: its own fields become `ws.data`. Return a
   * `Response`: it is sent as it is, and there is no connection. `false`: 403. `undefined`: accepted, no data.
   * Throwing is a 500 and a log line. Write it before the other handlers, so that they see its type.
   */
  upgrade?(
    request: Request,
    context: UpgradeContext<Params>,
  ): Awaitable<Returned | Response | false | undefined | void>;
}

/** All that `app.ws(path, …)` takes. */
export type WebSocketRoute<Data = AnyData, Params = Record<string, string>, Returned = object> = UpgradeHook<
  Params,
  Returned
> &
  WebSocketHandlers<Data, Params> &
  RouteOptions;

/** What a route remembers of a rate limit: tokens come back at `perMs` a millisecond, up to `burst`. */
export interface Bucket {
  readonly burst: number;
  readonly perMs: number;
  readonly close: boolean;
}

const HANDLERS = ["upgrade", "open", "message", "close", "error", "drain"] as const;
const OPTIONS = ["protocols", "requireProtocol", "origins", "concurrency", "rateLimit"] as const;
const KNOWN: readonly string[] = [...HANDLERS, ...OPTIONS];

/** A registered route. Its fields are read on every message, so it is a class with a fixed shape. */
export class Route {
  readonly path: string;
  readonly hasParams: boolean;
  readonly hub: Hub;
  readonly handlers: WebSocketRoute;
  readonly protocols: readonly string[] | undefined;
  readonly requireProtocol: boolean;
  readonly mayConnect: OriginTest | undefined;
  readonly concurrency: number;
  readonly bucket: Bucket | undefined;
  /** Whether messages must be counted before they are handed over. */
  readonly gated: boolean;
  /** A subprotocol whose clients are told of a refusal by a close code: a browser cannot see an HTTP status. */
  readonly closesFor: string | undefined;

  constructor(path: string, handlers: WebSocketRoute, hub: Hub, closesFor?: string) {
    const where = `app.${closesFor === undefined ? "ws" : "channel"}(${show(path)}, …)`;
    checkPath(path, where);
    if (typeof handlers !== "object" || handlers === null) {
      throw new HarpiaError(
        "INVALID_OPTION",
        `${where} takes an object of handlers, and got ${show(handlers)}.`,
        {
          value: handlers,
        },
      );
    }
    refuseUnknown(handlers, KNOWN, where);
    for (const name of HANDLERS) {
      const handler = handlers[name];
      if (handler === undefined || typeof handler === "function") continue;
      throw new HarpiaError(
        "INVALID_OPTION",
        `${where}: "${name}" must be a function, and is ${show(handler)}.`,
        {
          value: handler,
        },
      );
    }
    this.path = path;
    this.closesFor = closesFor;
    this.hasParams = /[:*]/.test(path);
    this.hub = hub;
    this.handlers = handlers;
    this.protocols = checkProtocols(handlers.protocols, where);
    this.requireProtocol = handlers.requireProtocol === true;
    this.mayConnect = handlers.origins === undefined ? undefined : compileOrigins(handlers.origins, where);
    this.concurrency = checkCount(handlers.concurrency, "concurrency", where) ?? Number.POSITIVE_INFINITY;
    this.bucket = compileRateLimit(handlers.rateLimit, where);
    this.gated = this.bucket !== undefined || this.concurrency !== Number.POSITIVE_INFINITY;
  }
}

/** The path with its param names left out: two paths of one shape match the same requests. */
export function shapeOf(path: string): string {
  return path.replace(/:[^/]+/g, ":");
}

function checkPath(path: unknown, where: string): void {
  const refuse = (why: string): never => {
    throw new HarpiaError("INVALID_PATH", `${where}: ${why}`, { value: path });
  };
  if (typeof path !== "string") return refuse('a path is a string such as "/chat" or "/room/:roomId".');
  if (!path.startsWith("/")) return refuse(`a path starts with "/": write ${show(`/${path}`)}.`);
  if (/[?#\s]/.test(path))
    return refuse("a path has no query, fragment or white space; read those from ws.data.url.");
  const names = new Set<string>();
  const segments = path.slice(1).split("/");
  for (const [index, segment] of segments.entries()) {
    if (segment.includes("*") && (segment !== "*" || index !== segments.length - 1)) {
      return refuse('"*" may only stand alone, as the last segment: "/files/*".');
    }
    if (!segment.includes(":")) continue;
    if (!/^:[A-Za-z_$][\w$]*$/.test(segment)) {
      return refuse(
        `${show(segment)} is no param: one is a whole segment, ":" and a name, as in "/room/:roomId".`,
      );
    }
    const name = segment.slice(1);
    if (names.has(name)) return refuse(`the param ":${name}" is there twice; give each its own name.`);
    names.add(name);
  }
}

function checkProtocols(protocols: unknown, where: string): readonly string[] | undefined {
  if (protocols === undefined) return undefined;
  // RFC 6455 section 4.1: a subprotocol is a token of RFC 9110 section 5.6.2.
  const valid =
    Array.isArray(protocols) &&
    protocols.length > 0 &&
    protocols.every((name) => typeof name === "string" && /^[\w!#$%&'*+.^`|~-]+$/.test(name));
  if (valid) return [...(protocols as string[])];
  throw new HarpiaError(
    "INVALID_OPTION",
    `${where}: "protocols" must be a list of subprotocol names such as ["chat.v2", "chat.v1"], and is ${show(protocols)}.`,
    { value: protocols },
  );
}

/** A whole number from 1, or throws `INVALID_OPTION`. */
export function checkCount(value: unknown, name: string, where: string): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 1) return value;
  throw new HarpiaError(
    "INVALID_OPTION",
    `${where}: "${name}" must be a whole number from 1, and is ${show(value)}.`,
    {
      value,
    },
  );
}

/** Checks a rate limit and turns it into a token bucket. */
export function compileRateLimit(limit: RateLimit | undefined, where: string): Bucket | undefined {
  if (limit === undefined) return undefined;
  if (typeof limit !== "object" || limit === null) {
    throw new HarpiaError(
      "INVALID_OPTION",
      `${where}: "rateLimit" must be like { messages: 20, per: 1_000 }, and is ${show(limit)}.`,
      { value: limit },
    );
  }
  refuseUnknown(limit, ["messages", "per", "burst", "close"], `${where}: "rateLimit"`);
  const messages = checkCount(limit.messages ?? Number.NaN, "rateLimit.messages", where)!;
  const burst = checkCount(limit.burst, "rateLimit.burst", where) ?? messages;
  if (typeof limit.per !== "number" || !(limit.per > 0) || limit.per > 3_600_000) {
    throw new HarpiaError(
      "INVALID_OPTION",
      `${where}: "rateLimit.per" must be milliseconds, more than 0 and at most an hour, and is ${show(limit.per)}.`,
      { value: limit.per },
    );
  }
  return { burst, perMs: messages / limit.per, close: limit.close === true };
}
