// A plain WebSocket for tests: what comes is kept, and awaited one by one. Bun's own client does the protocol.

import type { Sendable } from "../server/socket.js";
import { TestError, WAIT_MS, within } from "./test-error.js";

/** What `t.socket` takes beside the path. */
export interface TestSocketOptions {
  /** Subprotocols to offer, best first. */
  protocols?: string | string[];
  /** Sent with the handshake: `{ authorization: "Bearer …", origin: "https://…" }`. */
  headers?: Record<string, string>;
  /** Milliseconds that the handshake may take. Default 4,000. */
  timeout?: number;
}

export interface WaitOptions {
  /** Milliseconds. Default 4,000. */
  timeout?: number;
}

/** How a connection ended: 1006 if there was no close frame. */
export interface Closed {
  code: number;
  reason: string;
}

/** Made by `t.socket(path)`. */
export class TestSocket implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #path: string;
  readonly #opened = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<Closed>();
  readonly #messages: (string | Buffer)[] = [];
  #received = 0;
  #last: string | Buffer | undefined;
  #closed: Closed | undefined;
  #wake = Promise.withResolvers<void>();

  /** @internal */
  constructor(url: URL, { protocols, headers = {} }: TestSocketOptions) {
    this.#path = `${url.pathname}${url.search}`;
    // Bun's WebSocket takes headers; the DOM's type knows of none.
    const options = { headers, ...(protocols === undefined ? {} : { protocols }) } as never;
    const socket = new WebSocket(url, options);
    socket.binaryType = "nodebuffer" as BinaryType; // Bun's own: a Buffer
    socket.onopen = () => this.#opened.resolve();
    socket.onmessage = ({ data }: MessageEvent<string | Buffer>) => {
      this.#messages.push(data);
      this.#received++;
      this.#last = data;
      this.#stir();
    };
    socket.onclose = ({ code, reason }) => {
      this.#closed = { code, reason };
      this.#opened.reject(new TestError("REFUSED", `t.socket: ${this.#path} was refused.`));
      this.#ended.resolve(this.#closed);
      this.#stir();
    };
    // `close` follows. Bun says why, the handshake's status included; after `open` nobody asks.
    socket.onerror = (event) => {
      const { message } = event as ErrorEvent;
      this.#opened.reject(new TestError("REFUSED", `t.socket: ${this.#path} was refused: ${message}`));
    };
    this.#socket = socket;
  }

  /** @internal */
  opened(timeout: number = WAIT_MS): Promise<void> {
    return within(
      this.#opened.promise,
      timeout,
      () =>
        new TestError("TIMEOUT", `t.socket: no answer to the handshake on ${this.#path} in ${timeout} ms.`),
    );
  }

  /** The subprotocol that the server chose, or "". */
  get protocol(): string {
    return this.#socket.protocol;
  }

  /** Messages that have come and that `next` has not handed out. */
  get unread(): number {
    return this.#messages.length;
  }

  /** Sends a message. @throws TestError `CLOSED` when the connection has ended: nobody would get it. */
  send(message: Sendable): void {
    if (this.#closed !== undefined) {
      throw new TestError("CLOSED", `send: the socket on ${this.#path} has closed with ${this.#how()}.`);
    }
    this.#socket.send(message as string);
  }

  /**
   * The next message, in the order in which they came: a string, or a Buffer for a binary one. Those that came before
   * the end are handed out after it too.
   * @throws TestError `TIMEOUT`, `CLOSED`.
   */
  async next({ timeout = WAIT_MS }: WaitOptions = {}): Promise<string | Buffer> {
    const deadline = performance.now() + timeout;
    while (this.#messages.length === 0) {
      if (this.#closed !== undefined) {
        throw new TestError(
          "CLOSED",
          `next(): the socket on ${this.#path} closed with ${this.#how()} instead of a message; ${this.#before()}.`,
        );
      }
      await within(
        this.#wake.promise,
        deadline - performance.now(),
        () =>
          new TestError(
            "TIMEOUT",
            `next(): no message on ${this.#path} within ${timeout} ms; the socket is open, and ${this.#before()}.`,
          ),
      );
    }
    return this.#messages.shift()!;
  }

  /** How the connection ended, once it has. Messages stay for `next`. @throws TestError `TIMEOUT`. */
  closed({ timeout = WAIT_MS }: WaitOptions = {}): Promise<Closed> {
    return within(
      this.#ended.promise,
      timeout,
      () =>
        new TestError(
          "TIMEOUT",
          `closed(): the socket on ${this.#path} was still open after ${timeout} ms; ${this.#before()}, ${this.unread} of them unread.`,
        ),
    );
  }

  /** Closes with a close frame, as a page does. `closed()` tells when it is done. */
  close(code: number = 1000, reason: string = ""): void {
    this.#socket.close(code, reason);
  }

  /** Closes, and waits for the end; a server that does not answer is left after a second. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed !== undefined) return;
    this.close();
    const timer = setTimeout(() => this.#terminate(), 1_000);
    await this.#ended.promise;
    clearTimeout(timer);
  }

  #terminate(): void {
    // Bun's own: ends without waiting for an answer.
    (this.#socket as unknown as { terminate(): void }).terminate();
  }

  #how(): string {
    const { code, reason } = this.#closed!;
    return reason === "" ? String(code) : `${code} ${JSON.stringify(reason)}`;
  }

  #before(): string {
    if (this.#received === 0) return "no message came before";
    const count = this.#received === 1 ? "1 message" : `${this.#received} messages`;
    return `${count} came before, the last ${excerpt(this.#last!)}`;
  }

  #stir(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}

function excerpt(message: string | Buffer): string {
  if (typeof message !== "string") return `of ${message.length} bytes`;
  return JSON.stringify(message.length > 80 ? `${message.slice(0, 80)}…` : message);
}
