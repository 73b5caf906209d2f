// One call or notification of a client, from its frame to its answer. It is answered once, by whoever comes first: the
// method, its timeout, the client's `$/cancel`; the method is told of the others by its signal.

import type { Frame, Id } from "../contract/frames.js";
import type { RpcError } from "../contract/rpc-error.js";
import type { ServerWebSocket } from "../server/socket.js";
import type { ChannelParts, RunningMethod } from "./method.js";
import type { Gate } from "./stream.js";
import { Slot, type Slots } from "./slots.js";

export type CallFrame = Extract<Frame, { kind: "call" | "notification" }>;

/** Takes the answer to a call: to the client, or into a batch. */
export type Reply = (text: string, id: Id) => void;

export class Call {
  readonly channel: ChannelParts;
  readonly ws: ServerWebSocket;
  readonly name: string;
  readonly params: unknown;
  /** `null` for a notification too. */
  readonly id: Id;
  /** UTF-16 units of its frame. */
  readonly units: number;
  readonly reply: Reply;
  readonly slot: Slot;
  /** Set when it starts. */
  method!: RunningMethod;
  /** Whether it is not to be answered any more. */
  answered: boolean;
  /** Of a stream that runs. */
  gate: Gate | undefined = undefined;
  timer: ReturnType<typeof setTimeout> | undefined = undefined;
  #controller: AbortController | undefined = undefined;
  #reason: RpcError | undefined = undefined;

  constructor(
    channel: ChannelParts,
    ws: ServerWebSocket,
    slots: Slots,
    frame: CallFrame,
    units: number,
    reply: Reply,
  ) {
    this.channel = channel;
    this.ws = ws;
    this.name = frame.method;
    this.params = frame.params;
    this.id = frame.kind === "call" ? frame.id : null;
    this.answered = frame.kind === "notification";
    this.units = units;
    this.reply = reply;
    this.slot = new Slot(slots);
  }

  /** Made when first asked for: most methods never do, and it costs more than the rest of a small call. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  /** Why nobody waits for it any more. */
  get reason(): RpcError | undefined {
    return this.#reason;
  }

  abort(reason: RpcError): void {
    if (this.#reason) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
  }
}
