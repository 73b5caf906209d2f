// A WebSocket that comes back: states, reconnecting, the token, and finding out that the server is dead. The one file
// of the client that touches a WebSocket; it knows nothing of calls.

import { encodeCall, REFUSED, SUBPROTOCOL } from "../contract/frames.js";
import { backoff, verdict } from "./backoff.js";

/** `closed` is the end; all others lead to `open` sooner or later. */
export type ConnectionState = "connecting" | "open" | "reconnecting" | "closed";

/** A token, or where to get one; asked anew for each connection. */
export type TokenSource = string | (() => string | undefined | Promise<string | undefined>);

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
  /** It is open: everything that waits may go. */
  onOpen(): void;
  onText(text: string): void;
  /** It was open, and is not any more. `refused`: nothing that was sent has been read. */
  onDown(code: number, refused: boolean): void;
  onState(state: ConnectionState): void;
}

const CONNECT_TIMEOUT_MS = 15_000;
const STABLE_MS = 60_000;
const SILENCE_MS = 25_000;
const PONG_MS = 10_000;
const LONGER = 4;

/** A dead server, found by silence; no code of the wire. */
const DEAD = 1006;

/** The id of our pings; calls have numbers. */
export const PING_ID = "$ping";

export class Connection {
  state: ConnectionState = "connecting";
  /** What it was closed with, once it is. */
  closeCode: number | undefined;
  readonly #options: ConnectionOptions;
  #target: { url: string; WebSocket: WebSocketConstructor } | undefined;
  #socket: WebSocketLike | undefined;
  #attempt = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #stable: ReturnType<typeof setTimeout> | undefined;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #hadNewToken = false;
  readonly #wake = (): void => this.#wakeUp();

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** Dials, and goes on dialling until `close`. The first time counts. */
  start(url: string, WebSocket: WebSocketConstructor): void {
    if (this.#target !== undefined || this.state === "closed") return;
    this.#target = { url, WebSocket };
    if (typeof addEventListener === "function") {
      addEventListener("online", this.#wake);
      if (typeof document === "object") document.addEventListener("visibilitychange", this.#wake);
    }
    void this.#dial();
  }

  /** Sends, if it is open. @returns whether it did. */
  send(text: string): boolean {
    if (this.state !== "open") return false;
    this.#socket!.send(text);
    return true;
  }

  /** Ends it for good. */
  close(code: number, reason: string): void {
    if (this.state === "closed") return;
    this.#drop()?.close(code, reason);
    this.#end(code);
  }

  async #dial(): Promise<void> {
    let protocols: string[];
    try {
      const { token } = this.#options;
      const value = typeof token === "function" ? await token() : token;
      protocols = value === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, `bearer.${base64url(value)}`];
    } catch {
      // The network is down for the token as well, as a rule.
      return this.#again(DEAD);
    }
    if (this.state === "closed") return;
    const { url, WebSocket } = this.#target!;
    const socket = new WebSocket(url, protocols);
    this.#socket = socket;
    const giveUp = setTimeout(() => this.#lost(socket, DEAD), CONNECT_TIMEOUT_MS);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      clearTimeout(giveUp);
      // A refusal comes as an open and a close right behind it: see the protocol. So this is no success yet.
      this.#stable = setTimeout(() => (this.#attempt = 0), STABLE_MS);
      this.#heard();
      this.#enter("open");
      this.#options.onOpen();
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      if (socket !== this.#socket) return;
      this.#hadNewToken = false;
      this.#heard();
      this.#options.onText(String(data));
    };
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      clearTimeout(giveUp);
      this.#lost(socket, code, reason === REFUSED);
    };
    socket.onerror = () => {}; // `close` follows
  }

  #lost(socket: WebSocketLike, code: number, refused = false): void {
    if (socket !== this.#socket) return;
    this.#drop()?.close();
    const wasOpen = this.state === "open";
    const what = verdict(code);
    if (
      what === "end" ||
      (what === "new token" && (this.#hadNewToken || typeof this.#options.token !== "function"))
    ) {
      return this.#end(code, refused);
    }
    this.#enter("reconnecting");
    if (wasOpen) this.#options.onDown(code, refused);
    if (what === "again") return this.#again(code);
    this.#hadNewToken = true;
    void this.#dial();
  }

  #again(code: number): void {
    if (this.state === "closed") return;
    this.#enter("reconnecting");
    const wait = backoff(this.#attempt++, code) * (code >= 4400 ? LONGER : 1);
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      void this.#dial();
    }, wait);
  }

  /** Lets go of the socket, so that whatever it says later is not heard. */
  #drop(): WebSocketLike | undefined {
    const socket = this.#socket;
    this.#socket = undefined;
    clearTimeout(this.#retry);
    clearTimeout(this.#stable);
    clearTimeout(this.#silence);
    return socket;
  }

  #end(code: number, refused = false): void {
    if (typeof removeEventListener === "function") {
      removeEventListener("online", this.#wake);
      if (typeof document === "object") document.removeEventListener("visibilitychange", this.#wake);
    }
    this.closeCode = code;
    this.#enter("closed");
    this.#options.onDown(code, refused);
  }

  #enter(state: ConnectionState): void {
    if (this.state === state) return;
    this.state = state;
    this.#options.onState(state);
  }

  /** Back online, or looked at again: no reason to wait any longer. */
  #wakeUp(): void {
    if (this.#retry === undefined || (typeof document === "object" && document.visibilityState === "hidden"))
      return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    void this.#dial();
  }

  /** A browser cannot ping: after a while of silence we ask, and without an answer the server is dead. */
  #heard(): void {
    clearTimeout(this.#silence);
    const socket = this.#socket!;
    this.#silence = setTimeout(() => {
      this.send(encodeCall(PING_ID, "$/ping", undefined));
      this.#silence = setTimeout(() => this.#lost(socket, DEAD), PONG_MS);
    }, SILENCE_MS);
  }
}

function base64url(text: string): string {
  const binary = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
