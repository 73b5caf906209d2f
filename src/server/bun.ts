// The one file that speaks to Bun.serve: the routes and the websocket object that it is given, starting it, and
// turning its failures into errors that say what to do.

import { lstatSync, unlinkSync } from "node:fs";
import type { BunRequest, WebSocketHandler } from "bun";
import type { Limits } from "./connections.js";
import { HarpiaError, show } from "./errors.js";
import { type BunServer, handshake } from "./handshake.js";
import { closed, drained, heard, opened, received } from "./life.js";
import type { Route } from "./route.js";
import type { ListenOptions } from "./options.js";
import type { ServerWebSocket } from "./socket.js";

/** The oldest Bun that harpia's tests have passed on. */
const MIN_BUN = "1.4.5";

/** A route as Bun's router takes it: any method, so that the handshake can say what is wrong with the others. */
export type BunRoute = (
  request: BunRequest,
  server: BunServer,
) => Response | undefined | Promise<Response | undefined>;

/** Throws `BUN_REQUIRED` anywhere but on a Bun that is new enough. */
export function requireBun(): void {
  const found = process.versions?.bun;
  if (found === undefined) {
    throw new HarpiaError(
      "BUN_REQUIRED",
      `harpia's server runs on Bun ${MIN_BUN} or later, and this is ${process.release?.name ?? "another runtime"} ${process.version ?? ""}. Install it with "npm install bun" and start with "npx bun server.ts".`,
    );
  }
  if (Bun.semver.order(found, MIN_BUN) >= 0) return;
  throw new HarpiaError(
    "BUN_REQUIRED",
    `harpia needs Bun ${MIN_BUN} or later, and this is ${found}. Run "bun upgrade".`,
    {
      value: found,
    },
  );
}

export function bunRoute(route: Route, meet: (server: BunServer) => void): BunRoute {
  return (request, server) => {
    meet(server);
    return handshake(route, request, server);
  };
}

/** The `websocket` object for Bun.serve. One for all routes: a connection knows its own. */
export function websocketHandler(limits: Limits): WebSocketHandler<ServerWebSocket> {
  return {
    maxPayloadLength: limits.maxPayloadLength,
    backpressureLimit: limits.backpressureLimit,
    // closeOnBackpressureLimit is harpia's own: Bun's reports such a close like a reset, so it could not be counted.
    perMessageDeflate: limits.perMessageDeflate,
    // Bun takes what we send for a sign of life, so its own timer would never find a dead client.
    idleTimeout: 0,
    sendPings: false,
    open: opened,
    message: received,
    drain: drained,
    close: closed,
    ping: heard,
    pong: heard,
  };
}

/** What Bun.serve is given, beside the caller's own options. */
export interface ServeParts {
  routes: Record<string, unknown>;
  websocket: WebSocketHandler<ServerWebSocket>;
  fetch: NonNullable<ListenOptions["fetch"]>;
  development: unknown;
  reusePort: boolean;
}

/** Starts the server, or throws a HarpiaError that says why it could not start. */
export function serve(options: object, parts: ServeParts): BunServer {
  const all = { ...options, ...parts } as Bun.Serve.Options<ServerWebSocket>;
  let server: BunServer;
  try {
    server = start(all);
  } catch (cause) {
    throw startError(cause, all);
  }
  if ("tls" in options && options.tls !== undefined && server.url.protocol !== "https:") {
    void server.stop(true);
    throw new HarpiaError("INVALID_TLS", "app.listen({ tls }): Bun started without TLS; check key and cert.");
  }
  return server;
}

/** Replaces all routes of a running server; open sockets stay. */
export function reload(server: BunServer, options: object, parts: ServeParts): void {
  server.reload({ ...options, ...parts } as Bun.Serve.Options<ServerWebSocket>);
}

function start(options: Bun.Serve.Options<ServerWebSocket>): BunServer {
  try {
    return Bun.serve(options);
  } catch (error) {
    const { unix } = options as { unix?: string };
    if (codeOf(error) !== "EADDRINUSE" || unix === undefined) throw error;
    if (!lstatSync(unix).isSocket() || isAlive(unix)) throw error;
    // Left behind by a process that was killed: nobody listens there.
    unlinkSync(unix);
    return Bun.serve(options);
  }
}

/** Whether somebody answers on a unix socket. `listen` is synchronous, so another process asks. */
function isAlive(unix: string): boolean {
  const script = `require("net").connect(process.argv[1]).on("connect", () => process.exit(0)).on("error", () => process.exit(1))`;
  const env = { ...process.env, BUN_BE_BUN: "1" };
  return Bun.spawnSync([process.execPath, "-e", script, unix], { env, timeout: 5_000 }).exitCode !== 1;
}

function startError(cause: unknown, options: object): HarpiaError {
  const { port, hostname, unix } = options as { port?: string | number; hostname?: string; unix?: string };
  const code = codeOf(cause);
  const wanted = port ?? process.env.BUN_PORT ?? process.env.PORT ?? process.env.NODE_PORT ?? 3000;
  const address =
    unix === undefined ? `port ${wanted}${hostname ? ` on ${hostname}` : ""}` : `socket ${unix}`;
  if (code === "EADDRINUSE") {
    const other =
      unix === undefined ? "listen on another port, or port: 0 for any free one" : "listen on another path";
    return new HarpiaError(
      "PORT_IN_USE",
      `app.listen: ${address} is taken by another process. Stop that one, or ${other}.`,
      {
        value: unix ?? wanted,
        cause,
      },
    );
  }
  if (code === "EACCES" || code === "EPERM") {
    return new HarpiaError(
      "PERMISSION_DENIED",
      `app.listen: this user may not listen on ${address}. Ports below 1024 need root or CAP_NET_BIND_SERVICE: use a higher one behind a proxy.`,
      { value: unix ?? wanted, cause },
    );
  }
  const why = cause instanceof Error ? cause.message : show(cause);
  return new HarpiaError("LISTEN_FAILED", `app.listen: Bun could not start on ${address}: ${why}`, { cause });
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}
