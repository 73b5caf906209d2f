// The options of `harpia()` and `listen()`: their types, defaults and checks. What cannot work is refused here,
// before anything is bound, with the option's name.

import { readFileSync } from "node:fs";
import type { Serve } from "bun";
import type { Broker } from "../broker/broker.js";
import type { Limits, Settings } from "./connections.js";
import { HarpiaError, refuseUnknown, show } from "./errors.js";
import { consoleLogger, type Logger, silentLogger } from "./logger.js";
import { compileOrigins, type Origins } from "./origin.js";
import { compileTrustProxy, type TrustProxy } from "./proxy.js";
import type { ServerWebSocket } from "./socket.js";

/** Limits on every connection, for `harpia({ ws })` and `listen({ ws })`; the latter wins, field by field. */
export interface WebSocketLimits {
  /** The largest message taken, in bytes, after decompression. Larger: closed with 1009. Default 1 MiB. */
  maxPayloadLength?: number;
  /** Bytes buffered for a client that reads slowly, above which messages are dropped. Default 1 MiB. */
  backpressureLimit?: number;
  /** Close such a client (1006) instead of dropping messages. Default `false`. */
  closeOnBackpressureLimit?: boolean;
  /**
   * Seconds of silence after which a connection is terminated; at half of it, it is pinged. 0: never.
   * harpia's own heartbeat: Bun's counts what we send as a sign of life. Default 60.
   */
  idleTimeout?: number;
  /** Compress messages (RFC 7692), with one shared compressor. Default `false`. */
  perMessageDeflate?: boolean;
}

/** What `harpia()` takes. */
export interface HarpiaOptions {
  /**
   * Origins of web pages that may connect, beside the server's own host. Browsers do not protect WebSockets from
   * other sites, so everything else is refused (403); clients that send no `Origin` are not browsers. In development
   * (`NODE_ENV` is not `production`) pages on loopback may connect to loopback. Default: none.
   */
  origins?: Origins;
  /** Proxies in front, whose X-Forwarded-For, -Host and -Proto are believed. Default `false`: none. */
  trustProxy?: TrustProxy;
  /** Connections at a time, handshakes included; more get 503. Default: 90 % of the open-file limit. */
  maxConnections?: number;
  /** Milliseconds that `upgrade` may take (then 503), and `open` (then 1011). Default 10,000. */
  handshakeTimeout?: number;
  /**
   * Where the publications of topics are numbered and kept. Default: in this process' memory. `sqlite(path)` of
   * `harpia/sqlite` keeps them through restarts, `redis(…)` of `harpia/redis` shares them among processes. The app
   * closes it when it stops.
   */
  broker?: Broker;
  /** Limits on every connection. */
  ws?: WebSocketLimits;
  /** Where log lines go; `false`: nowhere. Default: warnings and errors to the console. */
  logger?: Logger | false;
}

/**
 * What `app.listen()` takes: all that `Bun.serve` takes except `websocket`, and `ws`.
 * See https://bun.com/docs/runtime/http/server.
 */
export type ListenOptions<R extends string = string> = DistributiveOmit<
  Serve.Options<ServerWebSocket, R>,
  "websocket" | "fetch" | "routes"
> & {
  /** Limits on every connection; they win over those of `harpia({ ws })`. */
  ws?: WebSocketLimits;
  /** Answers what matches no route: a plain function, a Hono or Elysia app's `fetch`. Default: 404. */
  fetch?: Serve.FetchOrRoutes<ServerWebSocket, R>["fetch"];
  /** Bun's routes beside the WebSocket ones: https://bun.com/docs/runtime/http/routing. */
  routes?: Serve.Routes<ServerWebSocket, R>;
};

type DistributiveOmit<T, Keys extends PropertyKey> = T extends unknown ? Omit<T, Keys> : never;

const MIB = 1024 * 1024;

export const DEFAULT_LIMITS: Limits = {
  maxPayloadLength: MIB,
  backpressureLimit: MIB,
  closeOnBackpressureLimit: false,
  idleTimeout: 60,
  perMessageDeflate: false,
};

const LISTEN_OPTIONS =
  "port hostname unix tls ws routes fetch error development reusePort ipv6Only idleTimeout maxRequestBodySize id http1 http2 http3".split(
    " ",
  );

/** Checks `harpia(options)` and fills in the defaults. */
export function settingsOf(options: HarpiaOptions): Settings {
  const where = "harpia(options)";
  if (typeof options !== "object" || options === null) {
    throw invalid(where, "options", "an object", options);
  }
  refuseUnknown(
    options,
    ["origins", "trustProxy", "maxConnections", "handshakeTimeout", "broker", "ws", "logger"],
    where,
  );
  const { broker } = options as { broker: Partial<Broker> | undefined };
  if (broker !== undefined && typeof broker?.publish !== "function")
    throw invalid(where, "broker", "what sqlite(…) or redis(…) returns", broker);
  return {
    logger: loggerOf(options.logger, where),
    mayConnect: options.origins === undefined ? undefined : compileOrigins(options.origins, where),
    readProxy: compileTrustProxy(options.trustProxy),
    handshakeTimeout: range(
      options.handshakeTimeout,
      10_000,
      1,
      3_600_000,
      where,
      "handshakeTimeout",
      "milliseconds",
    ),
    maxConnections: range(
      options.maxConnections,
      Number.POSITIVE_INFINITY,
      1,
      100_000_000,
      where,
      "maxConnections",
      "connections",
    ),
    limits: limitsOf(options.ws, DEFAULT_LIMITS, "harpia({ ws })"),
  };
}

/** Checks a `ws` option and lays it over `base`. */
export function limitsOf(given: WebSocketLimits | undefined, base: Limits, where: string): Limits {
  if (given === undefined) return base;
  if (typeof given !== "object" || given === null) throw invalid(where, "ws", "an object of limits", given);
  refuseUnknown(given, Object.keys(DEFAULT_LIMITS), where);
  return {
    maxPayloadLength: range(
      given.maxPayloadLength,
      base.maxPayloadLength,
      1,
      2 ** 31 - 1,
      where,
      "maxPayloadLength",
      "bytes",
    ),
    backpressureLimit: range(
      given.backpressureLimit,
      base.backpressureLimit,
      1024,
      2 ** 31 - 1,
      where,
      "backpressureLimit",
      "bytes",
    ),
    closeOnBackpressureLimit: flag(
      given.closeOnBackpressureLimit,
      base.closeOnBackpressureLimit,
      where,
      "closeOnBackpressureLimit",
    ),
    idleTimeout: range(
      given.idleTimeout,
      base.idleTimeout,
      0,
      86_400,
      where,
      "idleTimeout",
      "seconds",
      false,
    ),
    perMessageDeflate: flag(given.perMessageDeflate, base.perMessageDeflate, where, "perMessageDeflate"),
  };
}

/** Checks what `listen` is given as far as Bun would accept nonsense, or refuse it in words that help nobody. */
export function checkListen(options: ListenOptions): void {
  const where = "app.listen(options)";
  if (typeof options !== "object" || options === null) {
    throw invalid(where, "options", "an object such as { port: 3000 }", options);
  }
  if ("websocket" in options) {
    throw new HarpiaError(
      "UNKNOWN_OPTION",
      `${where} does not take "websocket", which is harpia's own: handlers go to app.ws(path, handlers), limits into "ws".`,
      { value: "websocket" },
    );
  }
  refuseUnknown(options, LISTEN_OPTIONS, where);
  const { port, hostname, unix, fetch, routes } = options as Record<string, unknown>;
  if (port !== undefined && !/^\d{1,5}$/.test(String(port))) throw invalidPort(where, port);
  if (Number(port ?? 0) > 65_535) throw invalidPort(where, port);
  if (hostname !== undefined && (typeof hostname !== "string" || hostname === "")) {
    throw invalid(where, "hostname", 'a host name or an address such as "0.0.0.0"', hostname);
  }
  if (unix !== undefined && (typeof unix !== "string" || unix === "")) {
    throw invalid(where, "unix", "the path of a socket file", unix);
  }
  if (unix !== undefined && (port !== undefined || hostname !== undefined)) {
    throw new HarpiaError("INVALID_OPTION", `${where}: give "unix", or "port" and "hostname", not both.`, {
      value: unix,
    });
  }
  if (fetch !== undefined && typeof fetch !== "function") {
    throw invalid(where, "fetch", "a function (for Hono and Elysia: app.fetch)", fetch);
  }
  if (routes !== undefined && (typeof routes !== "object" || routes === null)) {
    throw invalid(where, "routes", "an object of paths", routes);
  }
  checkTls(options.tls);
}

/** 90 % of the files that this process may open: with the limit reached, accepting connections spins a core. */
export function defaultMaxConnections(): number {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    if (soft !== undefined) return Math.max(1, Math.floor(Number(soft) * 0.9));
  } catch {
    // Not Linux: macOS and Windows have no such file.
  }
  return 9_000;
}

/** Bun starts a plaintext server for `tls: {}` and its like, and one that fails every handshake for a key alone. */
function checkTls(tls: unknown): void {
  if (tls === undefined) return;
  const entries = Array.isArray(tls) ? tls : [tls];
  if (entries.length === 0) throw invalidTls("an empty list", tls);
  for (const entry of entries as unknown[]) {
    if (typeof entry !== "object" || entry === null) throw invalidTls(show(entry), tls);
    const { key, cert, serverName } = entry as Record<string, unknown>;
    if (isMissing(key) || isMissing(cert)) {
      const missing = isMissing(key)
        ? isMissing(cert)
          ? "neither"
          : `a "cert" and no "key"`
        : `a "key" and no "cert"`;
      throw invalidTls(missing, tls);
    }
    if (entries.length > 1 && typeof serverName !== "string") {
      throw invalidTls(`a list in which an entry has no "serverName"`, tls);
    }
    for (const file of [key, cert].flat()) checkFile(file);
  }
}

function isMissing(value: unknown): boolean {
  return (
    value === undefined || value === null || value === "" || (Array.isArray(value) && value.length === 0)
  );
}

function checkFile(file: unknown): void {
  if (!(file instanceof Blob) || !("name" in file) || typeof file.name !== "string") return;
  try {
    readFileSync(file.name);
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
    throw new HarpiaError(
      "TLS_FILE_MISSING",
      `app.listen({ tls }): cannot read ${show(file.name)} (${why}). Check the path (it is relative to ${process.cwd()}) and the permissions.`,
      { value: file.name, cause },
    );
  }
}

function invalidTls(got: string, value: unknown): HarpiaError {
  return new HarpiaError(
    "INVALID_TLS",
    `app.listen({ tls }): TLS needs both "key" and "cert", as in { key: Bun.file("key.pem"), cert: Bun.file("cert.pem") }, or a list of such with "serverName"; got ${got}. Leave "tls" out for plaintext.`,
    { value },
  );
}

function invalidPort(where: string, port: unknown): HarpiaError {
  return invalid(where, "port", "a whole number from 0 (any free port) to 65535", port);
}

function loggerOf(logger: unknown, where: string): Logger {
  if (logger === undefined) return consoleLogger;
  if (logger === false) return silentLogger;
  const valid =
    typeof logger === "object" &&
    logger !== null &&
    typeof (logger as Partial<Logger>).warn === "function" &&
    typeof (logger as Partial<Logger>).error === "function";
  if (valid) return logger as Logger;
  throw invalid(where, "logger", "false, or an object with the functions warn and error", logger);
}

function range(
  value: unknown,
  fallback: number,
  min: number,
  max: number,
  where: string,
  name: string,
  unit: string,
  whole = true,
): number {
  if (value === undefined) return fallback;
  if (typeof value === "number" && value >= min && value <= max && (!whole || Number.isInteger(value)))
    return value;
  throw invalid(where, name, `${unit}, ${whole ? "a whole number " : ""}from ${min} to ${max}`, value);
}

function flag(value: unknown, fallback: boolean, where: string, name: string): boolean {
  if (value === undefined) return fallback;
  if (typeof value === "boolean") return value;
  throw invalid(where, name, "true or false", value);
}

function invalid(where: string, name: string, expected: string, value: unknown): HarpiaError {
  return new HarpiaError(
    "INVALID_OPTION",
    `${where}: "${name}" must be ${expected}, and is ${show(value)}.`,
    { value },
  );
}
