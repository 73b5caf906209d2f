// What all connections of one app share: the set of open ones, the counters, the clock by which the silent are
// found, and the count of handlers still running. One Hub an app; a connection's own state is in socket.ts.

import type { Broker } from "../broker/broker.js";
import { HarpiaError } from "./errors.js";
import type { BunServer } from "./handshake.js";
import type { Logger } from "./logger.js";
import type { OriginTest } from "./origin.js";
import type { ProxyReader } from "./proxy.js";
import { Relay } from "./relay.js";
import { SHUT, type ServerWebSocket } from "./socket.js";

/** Numbers since the app was made. They only grow. */
export interface Counters {
  /** Connections established. */
  opened: number;
  /** Connections ended. */
  closed: number;
  /** Handshakes refused, by harpia or by `upgrade`. */
  refused: number;
  /** Messages that `send` or `publish` did not take for want of room (they returned 0). */
  dropped: number;
  /** Connections closed because `closeOnBackpressureLimit` was reached. */
  slowClosed: number;
  /** Errors: thrown by handlers, protocol violations, connections that fell silent. */
  errors: number;
}

/** The limits in force, all set. Sizes in bytes, times in seconds as Bun counts them. */
export interface Limits {
  maxPayloadLength: number;
  backpressureLimit: number;
  closeOnBackpressureLimit: boolean;
  idleTimeout: number;
  perMessageDeflate: boolean;
}

/** The app's settings as the handshake and the connections read them. */
export interface Settings {
  readonly logger: Logger;
  readonly mayConnect: OriginTest | undefined;
  readonly readProxy: ProxyReader | undefined;
  readonly handshakeTimeout: number;
  maxConnections: number;
  limits: Limits;
}

// A connection that was silent for more than half of TICKS is pinged, for more than TICKS terminated.
const TICKS = 8;

/** How often `drained()` looks by itself: under constant load Bun may never say "drain". */
const ROOM_POLL_MS = 50;

/** A Set that only its owner changes: `app.websocket.connections`. */
export class Connections extends Set<ServerWebSocket> {
  /** @internal */
  static readonly enter = Set.prototype.add;
  /** @internal */
  static readonly leave = Set.prototype.delete;

  override add(): never {
    return readOnly();
  }
  override delete(): never {
    return readOnly();
  }
  override clear(): never {
    return readOnly();
  }
}

function readOnly(): never {
  throw new HarpiaError(
    "READ_ONLY",
    "app.websocket.connections is read-only: a connection enters when it opens and leaves when it closes (ws.close()).",
  );
}

/** Counts handlers that have not settled, and tells when there are none. */
export class Work {
  running = 0;
  #waiting: (() => void)[] = [];

  done(): void {
    if (--this.running > 0) return;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  idle(): Promise<void> {
    if (this.running === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

export class Hub {
  readonly connections = new Connections();
  readonly counters: Counters = { opened: 0, closed: 0, refused: 0, dropped: 0, slowClosed: 0, errors: 0 };
  readonly settings: Settings;
  /** Advances with each sweep; connections note it with each sign of life. */
  tick = 0;
  /** Set by `stop`: no new connection from here on. */
  draining = false;
  /** Handshakes whose `upgrade` has not settled. */
  handshakes = 0;
  /** Handlers that have not settled; `stop` begins a new count to tell those before from those after. */
  work = new Work();
  /** To the processes that share the app's broker. */
  readonly relay: Relay;
  /** Bun's server, once it is known. */
  server: BunServer | undefined = undefined;
  #onSilent: (ws: ServerWebSocket, silent: "half" | "gone") => void;
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #waitingForRoom = new Map<ServerWebSocket, ((room: boolean) => void)[]>();
  #roomPoll: ReturnType<typeof setInterval> | undefined;
  #lastFullWarning = Number.NEGATIVE_INFINITY;

  constructor(
    settings: Settings,
    broker: Broker,
    onSilent: (ws: ServerWebSocket, silent: "half" | "gone") => void,
  ) {
    this.settings = settings;
    this.relay = new Relay(this, broker);
    this.#onSilent = onSilent;
  }

  enter(ws: ServerWebSocket): void {
    Connections.enter.call(this.connections, ws);
    this.counters.opened++;
    ws.seen = this.tick;
    if (this.#sweeper !== undefined || this.settings.limits.idleTimeout === 0) return;
    this.#sweeper = setInterval(() => this.#sweep(), (this.settings.limits.idleTimeout * 1000) / TICKS);
    this.#sweeper.unref();
  }

  leave(ws: ServerWebSocket): void {
    Connections.leave.call(this.connections, ws);
    this.counters.closed++;
    if (this.#waitingForRoom.size > 0) this.tellRoom(ws);
    if (this.connections.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }

  /** Whether there is no room for one more; says so in the log once a minute. */
  isFull(): boolean {
    const { maxConnections, logger } = this.settings;
    if (this.connections.size + this.handshakes < maxConnections) return false;
    if (performance.now() - this.#lastFullWarning > 60_000) {
      this.#lastFullWarning = performance.now();
      logger.warn("maxConnections reached, refusing handshakes with 503", { maxConnections });
    }
    return true;
  }

  /** `ws.send` returned 0: counts the message, and closes the socket if the app wants that. */
  dropped(ws: ServerWebSocket): void {
    this.counters.dropped++;
    if (this.settings.limits.closeOnBackpressureLimit) this.#closeSlow(ws);
  }

  /** A publication to `others` subscribers returned 0, for Bun does not say which of them had no room. */
  publicationDropped(others: number): void {
    if (others <= 0) return;
    this.counters.dropped++;
    const { closeOnBackpressureLimit, backpressureLimit } = this.settings.limits;
    if (!closeOnBackpressureLimit) return;
    for (const ws of this.connections) if (ws.bufferedAmount >= backpressureLimit) this.#closeSlow(ws);
  }

  // Not at once: a `close` handler must not run inside somebody's `send`.
  #closeSlow(ws: ServerWebSocket): void {
    if (ws.state & SHUT) return;
    ws.state |= SHUT;
    this.counters.slowClosed++;
    queueMicrotask(() => ws.terminate());
  }

  waitForRoom(ws: ServerWebSocket): Promise<boolean> {
    return new Promise((resolve) => {
      const waiting = this.#waitingForRoom.get(ws);
      if (waiting) waiting.push(resolve);
      else this.#waitingForRoom.set(ws, [resolve]);
      this.#roomPoll ??= setInterval(() => {
        for (const waiter of this.#waitingForRoom.keys()) this.tellRoom(waiter);
      }, ROOM_POLL_MS);
    });
  }

  /** Resolves what waits in `ws.drained()`, if there is room now or never will be. */
  tellRoom(ws: ServerWebSocket): void {
    const waiting = this.#waitingForRoom.get(ws);
    if (!waiting) return;
    const open = ws.readyState === 1;
    if (open && !ws.hasRoom()) return;
    this.#waitingForRoom.delete(ws);
    if (this.#waitingForRoom.size === 0) {
      clearInterval(this.#roomPoll);
      this.#roomPoll = undefined;
    }
    for (const resolve of waiting) resolve(open);
  }

  // Counted in sweeps, not in seconds: a process that was suspended or blocked must not find everybody dead.
  #sweep(): void {
    const now = ++this.tick;
    for (const ws of this.connections) {
      const silent = now - ws.seen;
      if (silent > TICKS) this.#onSilent(ws, "gone");
      else if (silent === TICKS / 2 + 1) this.#onSilent(ws, "half");
    }
  }
}
