// One connection's life: which handler runs when, what happens to what it throws, and when messages are held back.
// `received` is the hot path: while nothing holds, a message costs one comparison more than on raw Bun.

import { REFUSED as REFUSED_REASON } from "../contract/frames.js";
import { HarpiaError, ProtocolError, toError } from "./errors.js";
import { Lane, type Message } from "./lane.js";
import type { ServerWebSocket } from "./socket.js";
import { BUSY, LEFT, LIMITED, type NativeSocket, OPENING, PAUSED, REFUSED, SHUT } from "./socket.js";

// A held connection is read from once more to see whether the client lives, unless this much waits already.
const PROBE_BYTES = 256 * 1024;

// Above one read of Bun's (512 KiB) and one whole message, what is held can only come from compression.
const HELD_BYTES = 4 * 1024 * 1024;

export function opened(native: NativeSocket): void {
  const ws = native.data;
  const { hub, handlers } = ws.route;
  if (ws.state === REFUSED) return void native.close(ws.seen, REFUSED_REASON);
  ws.native = native;
  hub.enter(ws);
  if (handlers.open === undefined) return;
  ws.state = OPENING;
  let result: unknown;
  try {
    result = handlers.open(ws);
  } catch (error) {
    fail(ws, error, "open");
  }
  if (!isPromise(result)) return settleOpen(ws);
  native.pause();
  const { handshakeTimeout } = hub.settings;
  const timer = setTimeout(() => {
    const message = `open on ${ws.route.path} did not settle within handshakeTimeout (${handshakeTimeout} ms)`;
    report(ws, new HarpiaError("OPEN_TIMEOUT", message), "error");
    ws.close(1011, "Open timeout");
    settleOpen(ws);
  }, handshakeTimeout);
  watch(ws, result, "open", () => {
    clearTimeout(timer);
    settleOpen(ws);
  });
}

export function received(native: NativeSocket, message: Message): void {
  const ws = native.data;
  const route = ws.route;
  ws.seen = route.hub.tick;
  if (ws.state !== 0) hold(ws, message);
  else if (route.gated) admit(ws, message);
  else run(ws, message);
}

/** A ping or a pong came: the client lives. */
export function heard(native: NativeSocket): void {
  native.data.seen = native.data.route.hub.tick;
}

export function drained(native: NativeSocket): void {
  const ws = native.data;
  if (ws.state === REFUSED) return;
  const { hub, handlers } = ws.route;
  hub.tellRoom(ws);
  if (handlers.drain === undefined) return;
  try {
    const result: unknown = handlers.drain(ws);
    if (isPromise(result)) watch(ws, result, "drain");
  } catch (error) {
    fail(ws, error, "drain");
  }
}

export function closed(native: NativeSocket, code: number, reason: string): void {
  const ws = native.data;
  if (ws.state === REFUSED) return;
  ws.state = (ws.state | LEFT) & ~PAUSED;
  ws.route.hub.leave(ws);
  const lane = ws.lane;
  if (lane !== undefined) {
    // What we closed is over; what was above the rate limit was never let in.
    if (ws.state & (SHUT | LIMITED)) lane.clear();
    if (ws.state & LIMITED) clearTimeout(lane.timer);
    ws.state &= ~LIMITED;
  }
  if (!(ws.state & OPENING) && !lane?.size) return finish(ws, code, reason);
  laneOf(ws).end = { code, reason };
  pump(ws);
}

/** For `ws.resume()`. */
export function resume(ws: ServerWebSocket<unknown, unknown>): void {
  release(ws as ServerWebSocket, PAUSED);
}

/** The sweep found a connection silent for half of `idleTimeout`, or for all of it. */
export function silent(ws: ServerWebSocket, since: "half" | "gone"): void {
  const held = ws.state !== 0;
  if (held && (ws.lane?.bytes ?? 0) >= PROBE_BYTES) return;
  if (since === "half") {
    ws.native.ping();
    // A paused socket reads neither pong nor FIN. The first message that comes instead pauses it again.
    if (held) ws.native.resume();
    return;
  }
  const { idleTimeout } = ws.route.hub.settings.limits;
  const message = `Nothing was heard from the client for idleTimeout (${idleTimeout} s), pings were not answered`;
  report(ws, new HarpiaError("IDLE_TIMEOUT", message), "debug");
  ws.terminate();
}

function settleOpen(ws: ServerWebSocket): void {
  release(ws, OPENING);
}

function hold(ws: ServerWebSocket, message: Message): void {
  if (ws.state & SHUT) return;
  const lane = laneOf(ws);
  lane.push(message);
  ws.native.pause();
  if (lane.bytes <= HELD_BYTES + ws.route.hub.settings.limits.maxPayloadLength) return;
  ws.close(1008, "Too much sent while messages were held back");
}

/** Lets a message through the route's rate limit and `concurrency`, or holds it. */
function admit(ws: ServerWebSocket, message: Message): void {
  const { bucket, concurrency } = ws.route;
  const lane = laneOf(ws);
  const wait = bucket === undefined ? 0 : lane.tokens.take(bucket, performance.now());
  if (wait > 0) return overLimit(ws, lane, message, wait);
  const result = run(ws, message, lane);
  if (!result || lane.running < concurrency) return;
  ws.state |= BUSY;
  if (!(ws.state & LEFT)) ws.native.pause();
}

function overLimit(ws: ServerWebSocket, lane: Lane, message: Message, wait: number): void {
  if (ws.state & LEFT) return lane.clear();
  if (ws.route.bucket!.close) return ws.close(1008, "Rate limit exceeded");
  ws.state |= LIMITED;
  lane.unshift(message);
  ws.native.pause();
  lane.timer = setTimeout(() => release(ws, LIMITED), wait);
}

/** Runs `message`. @returns whether it is async. */
function run(ws: ServerWebSocket, message: Message, lane?: Lane): boolean {
  const { handlers } = ws.route;
  if (handlers.message === undefined) return false;
  let result: unknown;
  try {
    result = handlers.message(ws, message);
  } catch (error) {
    fail(ws, error, "message");
    return false;
  }
  if (result === undefined || !isPromise(result)) return false;
  if (lane === undefined) {
    watch(ws, result, "message");
    return true;
  }
  lane.running++;
  watch(ws, result, "message", () => {
    lane.running--;
    release(ws, BUSY);
  });
  return true;
}

/** Takes back one reason for holding; hands over what waits when none is left. */
function release(ws: ServerWebSocket, reason: number): void {
  if (!(ws.state & reason)) return;
  ws.state &= ~reason;
  pump(ws);
}

function pump(ws: ServerWebSocket): void {
  const lane = ws.lane;
  const holds = OPENING | PAUSED | BUSY | LIMITED;
  if (lane !== undefined) {
    if (lane.pumping) return;
    lane.pumping = true;
    while (!(ws.state & holds)) {
      const message = lane.shift();
      if (message === undefined) break;
      if (ws.route.gated) admit(ws, message);
      else run(ws, message);
    }
    lane.pumping = false;
  }
  if (ws.state & holds && !(lane?.end && lane.size === 0 && !(ws.state & OPENING))) return;
  if (lane?.end) return finish(ws, lane.end.code, lane.end.reason);
  if (ws.state !== 0) return;
  ws.seen = ws.route.hub.tick;
  ws.native.resume();
}

/** The last handler of a connection. */
function finish(ws: ServerWebSocket, code: number, reason: string): void {
  const { handlers } = ws.route;
  if (ws.lane !== undefined) ws.lane.end = undefined;
  const violation = violationOf(code, reason);
  if (violation) report(ws, violation, "debug");
  if (handlers.close === undefined) return;
  try {
    const result: unknown = handlers.close(ws, violation?.code ?? code, reason);
    if (isPromise(result)) watch(ws, result, "close");
  } catch (error) {
    fail(ws, error, "close");
  }
}

/** Bun reports a violation as 1006 with a sentence, while the peer is told the code that the sentence stands for. */
function violationOf(code: number, reason: string): ProtocolError | undefined {
  if (code !== 1006 || !reason.startsWith("Received ")) return undefined;
  if (reason === "Received invalid UTF-8") return new ProtocolError(1007, reason);
  if (reason === "Received too big message") return new ProtocolError(1009, reason);
  return new ProtocolError(1002, reason);
}

/** A handler failed: its connection stays if there is an `error` handler to decide, else it closes with 1011. */
function fail(ws: ServerWebSocket, thrown: unknown, during: string): void {
  const error = toError(thrown);
  if (report(ws, error, undefined)) return;
  const { hub, path } = ws.route;
  hub.settings.logger.error(`the ${during} handler failed; closing the connection with 1011`, {
    route: path,
    connection: ws.id,
    error,
  });
  ws.close(1011, "Internal error");
}

/** Hands an error to the route's `error` handler. @returns whether there is one; else it is logged at `level`. */
function report(ws: ServerWebSocket, error: Error, level: "debug" | "error" | undefined): boolean {
  const { hub, handlers, path } = ws.route;
  hub.counters.errors++;
  if (handlers.error === undefined) {
    if (level) hub.settings.logger[level]?.(error.message, { route: path, connection: ws.id, error });
    return false;
  }
  try {
    const result: unknown = handlers.error(ws, error);
    if (isPromise(result)) watch(ws, result, "error");
  } catch (thrown) {
    failTwice(ws, thrown);
  }
  return true;
}

/** An error in the `error` handler itself. */
function failTwice(ws: ServerWebSocket, thrown: unknown): void {
  const { hub, path } = ws.route;
  const fields = { route: path, connection: ws.id, error: toError(thrown) };
  hub.settings.logger.error("the error handler itself failed; closing the connection with 1011", fields);
  ws.close(1011, "Internal error");
}

/** Keeps an async handler in `stop`'s sight, and its rejection from ending the process. */
function watch(
  ws: ServerWebSocket,
  promise: PromiseLike<unknown>,
  during: string,
  settled?: () => void,
): void {
  const { work } = ws.route.hub;
  work.running++;
  const done = (): void => {
    settled?.();
    work.done();
  };
  promise.then(done, (error: unknown) => {
    if (during === "error") failTwice(ws, error);
    else fail(ws, error, during);
    done();
  });
}

function laneOf(ws: ServerWebSocket): Lane {
  return (ws.lane ??= new Lane());
}

/** Whether there is something to await. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  if (value instanceof Promise) return true;
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
