// From a request to a connection: every reason to refuse, in the order of docs/handshake.md, then the upgrade.
// Nothing is awaited before `server.upgrade` unless the route's own `upgrade` hook is async.

import type { BunRequest, Server } from "bun";
import { chooseProtocol, offeredProtocols, redactUrl, tokenOf } from "./credential.js";
import { HarpiaError, show, toError } from "./errors.js";
import { isLoopbackPair, isSameHost } from "./origin.js";
import type { ConnectionInfo, Route } from "./route.js";
import { REFUSED, ServerWebSocket } from "./socket.js";

export type BunServer = Server<ServerWebSocket>;

type Params = Record<string, string>;

/** A handshake that has passed harpia's own checks. */
interface Offer {
  readonly request: Request;
  readonly server: BunServer;
  readonly params: Params;
  readonly ip: string;
  readonly url: string;
  readonly token: string | undefined;
  /** The subprotocol to answer with, `""` for none; `undefined` if none was offered. */
  readonly protocol: string | undefined;
}

/** Answers a request for a WebSocket route. `undefined`: it has become a connection, or its client is gone. */
export function handshake(
  route: Route,
  request: BunRequest,
  server: BunServer,
): Response | undefined | Promise<Response | undefined> {
  const notOne = refuseMalformed(request);
  if (notOne) return refused(route, request, notOne);
  const full = refuseFull(route);
  if (full) return refused(route, request, full, server);

  const { headers } = request;
  const { readProxy } = route.hub.settings;
  const peer = server.requestIP(request)?.address ?? "";
  const forwarded = readProxy?.(headers, peer);
  const host = forwarded?.host ?? headers.get("host") ?? "";
  const foreign = refuseOrigin(route, headers.get("origin"), host, readProxy !== undefined);
  if (foreign) return refused(route, request, foreign, server);

  const offered = offeredProtocols(headers.get("sec-websocket-protocol"));
  const protocol = chooseProtocol(offered, route.protocols, route.requireProtocol);
  if (protocol === undefined) return refused(route, request, refuseProtocol(route, offered));

  const url = forwarded ? publicUrl(request.url, forwarded.host, forwarded.proto) : request.url;
  const offer: Offer = {
    request,
    server,
    params: route.hasParams ? request.params : NO_PARAMS,
    ip: forwarded?.ip ?? peer,
    url,
    token: tokenOf(headers.get("authorization"), offered, url),
    protocol: offered.length === 0 ? undefined : protocol,
  };
  if (route.handlers.upgrade === undefined) return accept(route, offer, undefined, undefined);
  return decide(route, offer);
}

/** Asks the route's `upgrade` hook. */
function decide(route: Route, offer: Offer): Response | undefined | Promise<Response | undefined> {
  const { request, params, token, ip, url } = offer;
  const headers = new Headers();
  let answer: unknown;
  try {
    answer = route.handlers.upgrade!(request, { params, token, ip, url, headers });
  } catch (error) {
    return failed(route, offer, error);
  }
  if (!(answer instanceof Promise)) return conclude(route, offer, headers, answer);
  return decideLater(route, offer, headers, answer);
}

async function decideLater(
  route: Route,
  offer: Offer,
  headers: Headers,
  pending: Promise<unknown>,
): Promise<Response | undefined> {
  const { hub } = route;
  const { handshakeTimeout } = hub.settings;
  const { promise: late, resolve: giveUp } = Promise.withResolvers<typeof TOO_LATE>();
  const timer = setTimeout(() => giveUp(TOO_LATE), handshakeTimeout);
  hub.handshakes++;
  try {
    const answer = await Promise.race([pending, late]);
    if (answer === TOO_LATE) {
      hub.settings.logger.warn(
        `upgrade did not settle within handshakeTimeout (${handshakeTimeout} ms); refused with 503`,
        { route: route.path, url: redactUrl(offer.url) },
      );
      pending.catch(() => {}); // nobody is left to hear of it
      return refused(
        route,
        offer.request,
        text(503, "The server took too long to decide on this connection.", RETRY),
        offer.server,
      );
    }
    if (hub.draining) return refused(route, offer.request, stopping(), offer.server);
    return conclude(route, offer, headers, answer);
  } catch (error) {
    return failed(route, offer, error);
  } finally {
    clearTimeout(timer);
    hub.handshakes--;
  }
}

/** One for all connections of routes without params: Bun would make one for each. */
const NO_PARAMS: Params = Object.freeze({});

const TOO_LATE = Symbol("too late");

/** Does what the `upgrade` hook has answered. */
function conclude(route: Route, offer: Offer, headers: Headers, answer: unknown): Response | undefined {
  if (answer instanceof Response) return refused(route, offer.request, answer, offer.server);
  if (answer === false) {
    return refused(route, offer.request, text(403, "This connection is not allowed."), offer.server);
  }
  if (answer === undefined || (typeof answer === "object" && answer !== null && !Array.isArray(answer))) {
    return accept(route, offer, headers, answer);
  }
  const message = `upgrade on ${route.path} returned ${show(answer)}: return an object (it becomes ws.data), undefined (accepted, no data), false (403) or a Response (refused with it)`;
  return failed(route, offer, new HarpiaError("INVALID_UPGRADE_RESULT", message, { value: answer }));
}

function accept(
  route: Route,
  offer: Offer,
  headers: Headers | undefined,
  answer: object | undefined,
): Response | undefined {
  const { request, server, url, token, protocol } = offer;
  const info: ConnectionInfo = token === undefined ? { url } : { url, token };
  const data = answer === undefined ? info : { ...info, ...answer };
  const ws = new ServerWebSocket(
    route,
    data as ServerWebSocket["data"],
    offer.params,
    url,
    protocol ?? "",
    offer.ip,
  );
  // Left alone, Bun answers with the first subprotocol that was offered; an empty header means none.
  if (protocol !== undefined) (headers ??= new Headers()).set("sec-websocket-protocol", protocol);
  const upgraded = headers
    ? server.upgrade(request, { data: ws, headers })
    : server.upgrade(request, { data: ws });
  if (upgraded || request.signal.aborted) return undefined;
  return refused(route, request, text(400, "The WebSocket handshake is not valid."));
}

/** RFC 6455 section 4.2.1, as far as Bun is more lenient. */
function refuseMalformed(request: Request): Response | undefined {
  const { headers, method } = request;
  // With such a Host Bun leaves the request's URL at its path, which no handler could read.
  if (!URL.canParse(request.url)) return text(400, "The Host header is not valid.");
  const upgrade = headers.get("upgrade");
  if (upgrade === null || !isWebSocket(upgrade)) {
    const { host, pathname } = new URL(request.url);
    const scheme = request.url.startsWith("https:") ? "wss" : "ws";
    const hint = `This address speaks WebSocket: connect to it with new WebSocket("${scheme}://${host}${pathname}").`;
    return text(426, hint, { upgrade: "websocket", connection: "Upgrade" });
  }
  if (method !== "GET") return text(405, "A WebSocket handshake is a GET request.", { allow: "GET" });
  if (headers.get("sec-websocket-version") !== "13") {
    return text(426, "Only version 13 of the WebSocket protocol is spoken here.", {
      "sec-websocket-version": "13",
    });
  }
  const key = headers.get("sec-websocket-key");
  // 16 bytes in base64 are 22 characters, the last of which has four spare bits, and two of padding.
  if (key !== null && /^[A-Za-z0-9+/]{21}[AQgw]==$/.test(key)) return undefined;
  return text(400, "Sec-WebSocket-Key must be 16 bytes in base64.");
}

function isWebSocket(upgrade: string): boolean {
  if (upgrade === "websocket") return true;
  return upgrade.split(",").some((name) => name.trim().toLowerCase() === "websocket");
}

function refuseFull({ hub }: Route): Response | undefined {
  if (hub.draining) return stopping();
  return hub.isFull() ? text(503, "The server has as many connections as it takes.", RETRY) : undefined;
}

function refuseOrigin(
  route: Route,
  origin: string | null,
  host: string,
  proxied: boolean,
): Response | undefined {
  if (origin === null || isSameHost(origin, host)) return undefined;
  const mayConnect = route.mayConnect ?? route.hub.settings.mayConnect;
  if (mayConnect?.(origin)) return undefined;
  if (process.env.NODE_ENV !== "production" && isLoopbackPair(origin, host)) return undefined;
  const allow = `Allow it with harpia({ origins: [${JSON.stringify(origin)}] }).`;
  const proxy = proxied
    ? ""
    : " If a proxy stands in front, let it pass the Host header on, or set trustProxy and let it send X-Forwarded-Host.";
  return text(403, `The origin ${origin} may not connect to ${host}. ${allow}${proxy}`);
}

function refuseProtocol(route: Route, offered: readonly string[]): Response {
  const spoken = route.protocols?.join(", ") ?? "any";
  const got = offered.length === 0 ? "none was offered" : `offered: ${offered.join(", ")}`;
  return text(400, `A subprotocol is needed (spoken here: ${spoken}; ${got}).`);
}

function stopping(): Response {
  return text(503, "The server is stopping.", RETRY);
}

function failed(route: Route, { request, server }: Offer, thrown: unknown): Response | undefined {
  const { hub, path } = route;
  hub.counters.errors++;
  hub.settings.logger.error("upgrade failed; refused with 500", {
    route: path,
    url: redactUrl(request.url),
    error: toError(thrown),
  });
  return refused(route, request, text(500, "The server failed to decide on this connection."), server);
}

/** Notes a refusal. With `server`, a client that would not see the response is told by a close code instead. */
function refused(
  route: Route,
  request: Request,
  response: Response,
  server?: BunServer,
): Response | undefined {
  const { hub, path, closesFor } = route;
  hub.counters.refused++;
  hub.settings.logger.debug?.("handshake refused", {
    route: path,
    status: response.status,
    url: redactUrl(request.url),
  });
  if (closesFor === undefined || server === undefined) return response;
  if (!offeredProtocols(request.headers.get("sec-websocket-protocol")).includes(closesFor)) return response;
  const ws = new ServerWebSocket(route, { url: request.url }, NO_PARAMS, request.url, closesFor, "");
  ws.state = REFUSED;
  ws.seen = response.status === 503 ? TRY_AGAIN_LATER : 4000 + response.status;
  const headers = new Headers({ "sec-websocket-protocol": closesFor });
  return server.upgrade(request, { data: ws, headers }) || request.signal.aborted ? undefined : response;
}

const RETRY = { "retry-after": "5" };

/** In the IANA registry of close codes: "Try Again Later". */
const TRY_AGAIN_LATER = 1013;

function text(status: number, line: string, headers: Record<string, string> = {}): Response {
  return new Response(`${line}\n`, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", ...headers },
  });
}

function publicUrl(url: string, host: string | undefined, proto: string | undefined): string {
  const seen = new URL(url);
  if (proto === "https" || proto === "wss") seen.protocol = "https:";
  else if (proto === "http" || proto === "ws") seen.protocol = "http:";
  if (host !== undefined && URL.canParse(`http://${host}`)) {
    seen.port = "";
    seen.host = host;
  }
  return seen.href;
}
