// What a connection of a channel has still to be sent: nothing is dropped. A frame that Bun refuses waits, in order,
// until there is room; one that waits too long closes the connection.

import { type ErrorObject, RPC_CODES } from "../contract/frames.js";
import type { ServerWebSocket } from "../server/socket.js";

/** UTF-16 units that are gathered for one write. As much as Bun does: above it a corked socket writes as well. */
const ONE_WRITE = 16 * 1024;

export class Outbox {
  /** @internal A frame that has waited this long ends the connection with 1013. Changed by tests alone. */
  static longestWaitMs = 30_000;
  readonly #ws: ServerWebSocket;
  #queue: { text: string; since: number }[] = [];
  #bytes = 0;
  #soon: string[] = [];
  #soonUnits = 0;
  /** Until nothing waits any more. */
  #delivery: Promise<void> = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #onBehind: () => void;
  readonly #onEmpty: () => void;

  /**
   * @param onBehind Called when a first frame has to wait.
   * @param onEmpty Called when nothing waits any more.
   */
  constructor(ws: ServerWebSocket, onBehind: () => void, onEmpty: () => void) {
    this.#ws = ws;
    this.#onBehind = onBehind;
    this.#onEmpty = onEmpty;
  }

  /** UTF-16 units that wait. */
  get waiting(): number {
    return this.#bytes;
  }

  /** Whether the reader is not behind. */
  get hasRoom(): boolean {
    return this.#queue.length === 0 && this.#ws.readyState === 1 && this.#ws.hasRoom();
  }

  /** Whether a frame is small enough to be sent: what a channel takes is what it gives, `maxPayloadLength`. */
  fits(text: string, beside = 0): boolean {
    const most = this.#ws.route.hub.settings.limits.maxPayloadLength - beside;
    // A UTF-16 unit is at most 3 bytes of UTF-8.
    return text.length * 3 <= most || Buffer.byteLength(text) <= most;
  }

  /** What is to be said of a frame that does not fit. */
  tooLarge(what: string): ErrorObject {
    const { maxPayloadLength } = this.#ws.route.hub.settings.limits;
    const message = `${what} is larger than the server's maxPayloadLength, ${maxPayloadLength} bytes`;
    return { code: RPC_CODES.TOO_LARGE, message };
  }

  send(text: string): void {
    if (this.#soon.length > 0) this.#flush();
    this.#send(text);
  }

  /** Sends in this turn of the event loop, in order, but together with what else comes: a write costs more than a frame. */
  sendSoon(text: string): void {
    this.#soon.push(text);
    this.#soonUnits += text.length;
    if (this.#soonUnits >= ONE_WRITE) this.#flush();
    else if (this.#soon.length === 1) setImmediate(() => this.#flush());
  }

  /** Resolves when the reader has caught up: `true`, or `false` if it has gone. */
  async drained(): Promise<boolean> {
    for (;;) {
      // Not a look at the queue in a loop: while Bun refuses and yet has room, that would never leave the microtasks.
      await this.#delivery;
      if (!(await this.#ws.drained())) return false;
      if (this.#queue.length === 0) return true;
    }
  }

  #flush(): void {
    const texts = this.#soon;
    this.#soon = [];
    this.#soonUnits = 0;
    if (texts.length === 1) this.#send(texts[0]!);
    else if (texts.length > 1) this.#ws.cork(() => texts.forEach((text) => this.#send(text)));
  }

  #send(text: string): void {
    if (this.#queue.length === 0 && this.#sent(text)) return;
    if (this.#ws.readyState !== 1) return;
    this.#queue.push({ text, since: performance.now() });
    this.#bytes += text.length;
    if (this.#queue.length > 1) return;
    this.#onBehind();
    this.#delivery = this.#deliver();
  }

  /** Not `ws.send`: that would count a drop, or close the connection for it. */
  #sent(text: string): boolean {
    return this.#ws.raw.send(text, this.#ws.route.hub.settings.limits.perMessageDeflate) !== 0;
  }

  async #deliver(): Promise<void> {
    // What waits is sent before `app.stop()` closes the connection.
    const { work } = this.#ws.route.hub;
    work.running++;
    this.#watchAge();
    while (this.#queue.length > 0 && (await this.#ws.drained())) {
      let sent = 0;
      for (; sent < this.#queue.length; sent++) {
        const { text } = this.#queue[sent]!;
        if (!this.#sent(text)) break;
        this.#bytes -= text.length;
      }
      this.#queue.splice(0, sent);
      // Bun may refuse while there is room, in a burst: then a turn of the event loop, not of the microtasks.
      if (sent === 0) await new Promise(setImmediate);
    }
    clearTimeout(this.#timer);
    this.#queue = [];
    this.#bytes = 0;
    work.done();
    this.#onEmpty();
  }

  #watchAge(): void {
    const [oldest] = this.#queue;
    if (oldest === undefined) return;
    const age = performance.now() - oldest.since;
    if (age >= Outbox.longestWaitMs) return this.#ws.close(1013, "Reading too slowly");
    this.#timer = setTimeout(() => this.#watchAge(), Outbox.longestWaitMs - age + 1);
  }
}
