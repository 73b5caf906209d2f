// A WebSocket that comes back: states, reconnecting, the token, and finding out that the server is dead. The one file
// of the client that touches a WebSocket; it knows nothing of calls.

import { encodeCall, REFUSED, SUBPROTOCOL } from "../contract/frames.js";
import { backoff, verdict } from "./backoff.js";

/** `open`: the server has said something. `closed` is the end; all others lead to `open` sooner or later. */
export type ConnectionState = "connecting" | "open" | "reconnecting" | "closed";

/** A token, or where to get one; asked anew for each connection. None (`undefined`, `null`, `""`) connects without. */
export type TokenSource =
  string | null | (() => string | null | undefined | Promise<string | null | undefined>);

/** The part of the standard WebSocket that is used: a browser's, Bun's, Deno's, Node's from 22 on, or the one of `ws`. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

export interface ConnectionOptions {
  token: TokenSource | undefined;
  /** There is a socket: everything that waits may go, but may turn out to have been refused. */
  onSocket(): void;
  /** The server has said something on this socket: it reads what it is sent. */
  onOpen(): void;
  onText(text: string): void;
  /** It is no more. `refused`: nothing that was sent on it has been read. */
  onDown(code: number, refused: boolean): void;
  onState(state: ConnectionState): void;
}

const CONNECT_TIMEOUT_MS = 15_000;
const STABLE_MS = 60_000;
const SILENCE_MS = 25_000;
const PONG_MS = 10_000;

const OPEN = 1;

/** A dead server, found by silence; no code of the wire. */
const DEAD = 1006;

/** Its id is no number, so that it is no call's. */
const PING = encodeCall("$ping", "$/ping", undefined);

export class Connection {
  state: ConnectionState = "connecting";
  /** What it was closed with, once it is. */
  closeCode: number | undefined;
  /** Counts sockets: what was asked on one must not be answered on another. */
  socketNumber = 0;
  /** Why there is no connection, where it is not the network: what `token` or the constructor threw. */
  problem: unknown;
  readonly #options: ConnectionOptions;
  #target: { url: string; WebSocket: WebSocketConstructor } | undefined;
  #socket: WebSocketLike | undefined;
  #attempt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #hadNewToken = false;
  /** One at a time: for a socket, for a word of the server, or for the next attempt. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  #waits = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** Dials, and goes on dialling until `close`. The first time counts. */
  start(url: string, WebSocket: WebSocketConstructor): void {
    if (this.#target !== undefined || this.state === "closed") return;
    this.#target = { url, WebSocket };
    // Browsers have both, their workers the first, other runtimes neither.
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    void this.#dial();
  }

  /** Sends, if there is a socket. @returns whether it did. */
  send(text: string): boolean {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  /** Ends it for good. */
  close(code: number, reason: string): void {
    if (this.state === "closed") return;
    this.#drop()?.close(code, reason);
    this.#end(code);
  }

  async #dial(): Promise<void> {
    const number = ++this.socketNumber;
    const isOver = (): boolean => number !== this.socketNumber;
    this.#wait(CONNECT_TIMEOUT_MS, () => {
      if (!this.#socket) this.problem = new Error("token() has not settled");
      this.#lost(DEAD);
    });
    const { url, WebSocket } = this.#target!;
    const { token } = this.#options;
    const protocols = [SUBPROTOCOL];
    try {
      const value = typeof token === "function" ? await token() : token;
      if (value) protocols.push(`bearer.${base64url(value)}`);
      if (!isOver()) this.problem = undefined;
    } catch (error) {
      if (isOver()) return;
      this.problem = error;
      // The network is down for the token as well, as a rule.
      return this.#lost(DEAD);
    }
    if (isOver()) return;
    try {
      this.#socket = new WebSocket(url, protocols);
    } catch (error) {
      // A page that may not connect there, an address that is none: nothing will be better the next time.
      this.problem = error;
      this.#drop();
      return this.#end(DEAD);
    }
    const socket = this.#socket;
    socket.onopen = () => {
      socket.onerror = () => {}; // from now on `close` follows, with a code
      if (isOver()) return;
      // A refusal comes as an open and a close right behind it (docs/protocol.md), so this is no success yet: an
      // answer is.
      this.#ping(CONNECT_TIMEOUT_MS);
      this.#options.onSocket();
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      if (isOver()) return;
      this.#heardAt = performance.now();
      if (this.state !== "open") this.#opened();
      if (!isOver()) this.#options.onText(String(data));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      if (!isOver()) this.#lost(code, reason === REFUSED);
    };
    // Node 22 tells of a connection that failed by this alone; elsewhere `close` follows, and always with 1006.
    socket.onerror = () => {
      if (!isOver()) this.#lost(DEAD);
    };
  }

  #opened(): void {
    this.#hadNewToken = false;
    this.#openedAt = this.#heardAt;
    this.#wait(SILENCE_MS, () => this.#watch());
    this.#enter("open");
    this.#options.onOpen();
  }

  #lost(code: number, refused = false): void {
    this.#drop()?.close();
    if (this.state === "open" && performance.now() - this.#openedAt >= STABLE_MS) this.#attempt = 0;
    const next = verdict(code);
    const canRenew = typeof this.#options.token === "function" && !this.#hadNewToken;
    if (next === "end" || (next === "new token" && !canRenew)) return this.#end(code, refused);
    this.#enter("reconnecting");
    this.#options.onDown(code, refused);
    if (this.state === "closed") return; // by a listener
    if (next === "new token") {
      this.#hadNewToken = true;
      return void this.#dial();
    }
    this.#wait(backoff(this.#attempt++, code), () => void this.#dial());
    this.#waits = true;
  }

  #end(code: number, refused = false): void {
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    this.closeCode = code;
    this.#enter("closed");
    this.#options.onDown(code, refused);
  }

  #enter(state: ConnectionState): void {
    if (this.state === state) return;
    this.state = state;
    this.#options.onState(state);
  }

  /** Lets go of the socket, so that whatever it says later is not heard. */
  #drop(): WebSocketLike | undefined {
    const socket = this.#socket;
    this.#socket = undefined;
    this.socketNumber++;
    clearTimeout(this.#timer);
    this.#waits = false;
    return socket;
  }

  #wait(ms: number, then: () => void): void {
    clearTimeout(this.#timer);
    this.#waits = false;
    this.#timer = setTimeout(then, ms);
  }

  /** Back online, or looked at again: no reason to wait any longer, and every reason to doubt an old socket. */
  readonly #wake = ({ type }: { type: string }): void => {
    if (type !== "online" && document.visibilityState === "hidden") return;
    if (this.#waits) void this.#dial();
    else if (this.state === "open") this.#ping(PONG_MS);
  };

  /** A browser cannot ping: after a while of silence we ask, and without an answer the server is dead. */
  #watch(): void {
    const left = this.#heardAt + SILENCE_MS - performance.now();
    if (left > 0) this.#wait(left, () => this.#watch());
    else this.#ping(PONG_MS);
  }

  #ping(ms: number): void {
    const asked = performance.now();
    this.send(PING);
    this.#wait(ms, () => (this.#heardAt < asked ? this.#lost(DEAD) : this.#watch()));
  }
}

/** @throws TypeError for what is no string. */
function base64url(token: string): string {
  if (typeof token !== "string") throw new TypeError(`token must be a string, and is ${String(token)}`);
  const binary = String.fromCharCode(...new TextEncoder().encode(token));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
