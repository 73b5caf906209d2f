// A TCP proxy in front of any server, with the faults that networks have. It knows nothing of what it carries; bytes
// are never changed, only late, or never there.

import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { HarpiaError, show } from "../server/errors.js";
import { Pipe, reset } from "./pipe.js";

/** `up`: from the client to the server. `down`: from the server to the client. */
export type Direction = "up" | "down";

/** Where a proxy passes connections on to. */
export interface Target {
  port: number;
  /** Default `127.0.0.1`. */
  host?: string;
}

export interface CutOptions {
  /**
   * End with a TCP reset, as of a crashed machine or a firewall. Default `false`: with a FIN, as when a process ends
   * (a side that is sending just then gets a reset all the same, from its kernel).
   */
  reset?: boolean;
}

/** The faults of a network: of one proxy's, or of all that a {@link TestApp} has. */
export interface Faults {
  /** Ends every open connection at once, with no close frame; what is on its way is lost. Later ones are whole. */
  cut(options?: CutOptions): void;
  /**
   * Lets exactly so many more bytes through in one direction, then cuts. Counts for each open connection from now; if
   * there is none, for the next one from its first byte (the handshake's).
   * @param bytes A whole number; 0 cuts at once.
   * @param direction Default `down`.
   */
  cutAfter(bytes: number, direction?: Direction, options?: CutOptions): void;
  /**
   * Nothing passes any more, not even the end of a connection: as with a pulled plug, neither side is told. Holds for
   * later connections too, until `thaw`. Nobody reads what is sent, so the sender's buffers fill up for real.
   * @param direction Default: both.
   */
  freeze(direction?: Direction): void;
  /** What was held back passes, then all else. @param direction Default: both. */
  thaw(direction?: Direction): void;
  /**
   * No more than so many bytes a second pass, in each direction of each connection. Holds for later ones too.
   * @param bytesPerSecond `Infinity`: as fast as ever.
   * @param direction Default: both.
   */
  slow(bytesPerSecond: number, direction?: Direction): void;
}

interface Link {
  client: Socket;
  server: Socket;
  up: Pipe;
  down: Pipe;
}

const BOTH = ["up", "down"] as const;

/** Made by {@link faultProxy}. */
export class FaultProxy implements Faults, AsyncDisposable {
  /** On 127.0.0.1; the same for as long as the proxy lives. */
  readonly port: number;
  /** May be changed at any time, for connections to come; `undefined`: they are reset, as if no server ran. */
  target: Target | undefined;
  /** Bytes that have passed, over all connections. */
  readonly passed: Readonly<Record<Direction, number>>;
  readonly #passed = { up: 0, down: 0 };
  readonly #server: Server;
  readonly #links = new Set<Link>();
  readonly #frozen = { up: false, down: false };
  readonly #rate = { up: Infinity, down: Infinity };
  #cutNext: Parameters<FaultProxy["cutAfter"]> | undefined;
  #closed: Promise<void> | undefined;
  #idle = Promise.withResolvers<void>();

  /** @internal */
  constructor(target: Target | undefined, like?: FaultProxy) {
    this.target = target;
    if (like) {
      Object.assign(this.#frozen, like.#frozen);
      Object.assign(this.#rate, like.#rate);
    }
    this.passed = this.#passed;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client));
    this.#server.listen(0, "127.0.0.1");
    // Bun binds before `listen` returns, so the port is known without waiting.
    const address = this.#server.address() as AddressInfo | null;
    if (address === null) {
      this.#server.on("error", () => {});
      throw new HarpiaError(
        "LISTEN_FAILED",
        "faultProxy: no free port on 127.0.0.1. Are too many files open?",
      );
    }
    this.port = address.port;
  }

  /** How many connections go through it now. */
  get connections(): number {
    return this.#links.size;
  }

  cut(options: CutOptions = {}): void {
    this.#refuseClosed("cut");
    for (const link of this.#links) this.#end(link, options);
  }

  cutAfter(bytes: number, direction: Direction = "down", options: CutOptions = {}): void {
    this.#refuseClosed("cutAfter");
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw invalid("cutAfter(bytes)", "bytes", "a whole number from 0 on", bytes);
    }
    directionsOf(direction, "cutAfter(bytes, direction)");
    this.#cutNext = this.#links.size === 0 ? [bytes, direction, options] : undefined;
    for (const link of this.#links) this.#endAfter(link, bytes, direction, options);
  }

  freeze(direction?: Direction): void {
    this.#refuseClosed("freeze");
    for (const way of directionsOf(direction, "freeze(direction)")) {
      this.#frozen[way] = true;
      for (const link of this.#links) link[way].freeze();
    }
  }

  thaw(direction?: Direction): void {
    this.#refuseClosed("thaw");
    for (const way of directionsOf(direction, "thaw(direction)")) {
      this.#frozen[way] = false;
      for (const link of this.#links) link[way].thaw();
    }
  }

  slow(bytesPerSecond: number, direction?: Direction): void {
    this.#refuseClosed("slow");
    if (typeof bytesPerSecond !== "number" || !(bytesPerSecond > 0)) {
      throw invalid(
        "slow(bytesPerSecond)",
        "bytesPerSecond",
        "a number above 0 (freeze() stops all)",
        bytesPerSecond,
      );
    }
    for (const way of directionsOf(direction, "slow(bytesPerSecond, direction)")) {
      this.#rate[way] = bytesPerSecond;
      for (const link of this.#links) link[way].slow(bytesPerSecond);
    }
  }

  /** Resolves when no connection goes through it; at once if none does. */
  idle(): Promise<void> {
    return this.#links.size === 0 ? Promise.resolve() : this.#idle.promise;
  }

  /** Resets what is left, and frees the port. Idempotent. */
  close(): Promise<void> {
    return (this.#closed ??= new Promise((resolve) => {
      for (const link of this.#links) this.#end(link, { reset: true });
      this.#server.close(() => resolve());
    }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #accept(client: Socket): void {
    // A reset is one of the ways to end; `close` follows.
    client.on("error", () => {});
    if (this.target === undefined || this.#closed) return reset(client);
    const { host = "127.0.0.1", port } = this.target;
    const server = connect({ host, port, allowHalfOpen: true, noDelay: true });
    server.on("error", () => {});
    const pipe = (way: Direction): Pipe =>
      new Pipe(way === "up" ? client : server, way === "up" ? server : client, {
        frozen: this.#frozen[way],
        rate: this.#rate[way],
        onPassed: (bytes) => void (this.#passed[way] += bytes),
      });
    const link: Link = { client, server, up: pipe("up"), down: pipe("down") };
    this.#links.add(link);
    for (const socket of [client, server]) {
      socket.on("close", () => {
        if (client.destroyed && server.destroyed) this.#gone(link);
      });
    }
    if (this.#cutNext === undefined) return;
    const [bytes, direction, options] = this.#cutNext;
    this.#cutNext = undefined;
    this.#endAfter(link, bytes, direction!, options!);
  }

  #endAfter(link: Link, bytes: number, direction: Direction, options: CutOptions): void {
    link[direction].cutAfter(bytes, () => this.#end(link, options));
  }

  #end(link: Link, options: CutOptions): void {
    for (const way of BOTH) link[way].stop();
    for (const socket of [link.client, link.server]) {
      if (options.reset === true) reset(socket);
      else socket.destroy();
    }
  }

  #gone(link: Link): void {
    for (const way of BOTH) link[way].stop();
    if (!this.#links.delete(link) || this.#links.size > 0) return;
    this.#idle.resolve();
    this.#idle = Promise.withResolvers();
  }

  #refuseClosed(what: string): void {
    if (this.#closed) throw new HarpiaError("STOPPED", `${what}(): this proxy is closed. Make a new one.`);
  }
}

/**
 * Starts a proxy on a free port of 127.0.0.1. Put it in front of whatever you want to lose: a server, a Redis.
 * @example
 * await using proxy = faultProxy({ port: 6379 });
 * const redis = createClient({ url: `redis://127.0.0.1:${proxy.port}` });
 * proxy.freeze();
 * @param target `undefined`: connections are reset until `proxy.target` is set.
 * @throws HarpiaError `INVALID_OPTION`, `LISTEN_FAILED`.
 */
export function faultProxy(target: Target | undefined): FaultProxy {
  if (target !== undefined && !(Number.isInteger(target?.port) && target.port > 0 && target.port < 65_536)) {
    throw invalid("faultProxy({ port })", "port", "a number from 1 to 65535", target?.port);
  }
  return new FaultProxy(target);
}

function directionsOf(direction: Direction | undefined, where: string): readonly Direction[] {
  if (direction === undefined) return BOTH;
  if (direction === "up" || direction === "down") return [direction];
  throw invalid(where, "direction", '"up" (client to server) or "down" (server to client)', direction);
}

function invalid(where: string, name: string, wanted: string, value: unknown): HarpiaError {
  return new HarpiaError("INVALID_OPTION", `${where}: "${name}" must be ${wanted}, and is ${show(value)}.`, {
    value,
  });
}
