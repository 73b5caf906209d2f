// One direction of one connection through the fault proxy: bytes are read from one socket and written to another, as
// fast as the faults allow. Reading stops when writing does, so that backpressure reaches the sender.

import type { Socket } from "node:net";

/** At a limited rate, bytes pass in pieces of this many milliseconds' worth. */
const PIECE_MS = 20;

const NOTHING = Buffer.alloc(0);

export class Pipe {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #onPassed: (bytes: number) => void;
  /** Read, and not allowed to go yet: at most what one read gives. */
  #held: Buffer = NOTHING;
  /** How the sender ended: a FIN comes after its bytes, a reset overtakes them. */
  #end: "fin" | "reset" | undefined;
  #full = false;
  #frozen: boolean;
  #rate: number;
  /** When the next piece may go, at a limited rate. */
  #next = 0;
  /** Bytes until the cut, and what cuts. */
  #left = Infinity;
  #cut: () => void = () => {};
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    from: Socket,
    to: Socket,
    options: { frozen: boolean; rate: number; onPassed: (bytes: number) => void },
  ) {
    this.#from = from;
    this.#to = to;
    this.#frozen = options.frozen;
    this.#rate = options.rate;
    this.#onPassed = options.onPassed;
    from.on("data", (chunk: Buffer) => {
      this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
      this.#pump();
    });
    from.on("end", () => this.#ended("fin"));
    from.on("error", () => this.#ended("reset"));
    to.on("drain", () => {
      this.#full = false;
      this.#pump();
    });
    this.#pump();
  }

  freeze(): void {
    this.#frozen = true;
    this.#pump();
  }

  thaw(): void {
    this.#frozen = false;
    this.#pump();
  }

  slow(bytesPerSecond: number): void {
    this.#rate = bytesPerSecond;
    this.#next = 0;
    this.#pump();
  }

  /** Passes exactly so many more bytes, then calls `cut`. */
  cutAfter(bytes: number, cut: () => void): void {
    if (bytes === 0) return cut();
    this.#left = bytes;
    this.#cut = cut;
  }

  /** Passes nothing any more. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#frozen = true;
    this.#held = NOTHING;
  }

  #ended(how: "fin" | "reset"): void {
    if (this.#end !== "reset") this.#end = how;
    this.#pump();
  }

  #pump(): void {
    clearTimeout(this.#timer);
    if (this.#frozen || this.#to.destroyed) return void this.#from.pause();
    if (this.#end === "reset") return reset(this.#to);
    while (this.#held.length > 0 && !this.#full) {
      const now = performance.now();
      if (this.#next > now) {
        this.#timer = setTimeout(() => this.#pump(), this.#next - now);
        break;
      }
      const most = Math.max(1, Math.floor((this.#rate * PIECE_MS) / 1000));
      if (!this.#pass(Math.min(this.#held.length, this.#left, most))) return;
      // From now, not from when it was due: never faster than the rate, also after a late timer.
      if (this.#rate !== Infinity) this.#next = now + (most / this.#rate) * 1000;
    }
    if (this.#held.length > 0 || this.#full) this.#from.pause();
    else if (this.#end === "fin") this.#to.end();
    else this.#from.resume();
  }

  /** Writes the next bytes. @returns whether more may follow. */
  #pass(bytes: number): boolean {
    const piece = this.#held.subarray(0, bytes);
    this.#held = this.#held.subarray(bytes);
    this.#left -= bytes;
    this.#onPassed(bytes);
    if (this.#left > 0) {
      this.#full = !this.#to.write(piece);
      return true;
    }
    this.stop();
    this.#from.pause();
    // Once the kernel has them: from there they arrive, whatever follows.
    this.#to.write(piece, () => this.#cut());
    return false;
  }
}

/** Ends with a TCP reset; one that still connects, as soon as it has. */
export function reset(socket: Socket): void {
  if (!socket.destroyed) socket.resetAndDestroy();
}
