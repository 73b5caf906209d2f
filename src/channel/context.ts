// What a method gets beside its params. Behind it, and out of sight, what its running needs: its slot, and why nobody
// waits for it any more. Not a literal with a getter, which makes two more objects for each call.

import type { RpcError } from "../contract/rpc-error.js";
import type { ServerWebSocket } from "../server/socket.js";
import { Slot, type Slots } from "./slots.js";

export class Context {
  readonly ws: ServerWebSocket;
  readonly error = contractError;
  /** Until its method has returned. */
  #slots: Slots | undefined;
  #slot: Slot | undefined = undefined;
  #controller: AbortController | undefined = undefined;
  #reason: RpcError | undefined = undefined;

  constructor(ws: ServerWebSocket, slots: Slots) {
    this.ws = ws;
    this.#slots = slots;
  }

  /** Made when first asked for: most methods never do, and it costs more than the rest of a small call. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  // The rest is for us, and static, so that no method finds it.

  static abort(context: Context, reason: RpcError): void {
    if (context.#reason) return;
    context.#reason = reason;
    context.#controller?.abort(reason);
  }

  static reasonOf(context: Context): RpcError | undefined {
    return context.#reason;
  }

  /** Made when first asked for: most methods never ask their client. `undefined` once the method has returned. */
  static slotOf(context: Context): Slot | undefined {
    if (context.#slots === undefined) return undefined;
    return (context.#slot ??= new Slot(context.#slots));
  }

  /** The method has returned. */
  static end(context: Context): void {
    const slots = context.#slots;
    context.#slots = undefined;
    if (context.#slot) context.#slot.release();
    else slots?.release(false);
  }
}

/** A contract's error on its way from a method or a hook to the client. */
export class ContractError extends Error {
  readonly data: unknown;

  constructor(name: string, data: unknown) {
    super(name);
    this.name = name;
    this.data = data;
  }
}

/** What `error` is in a context. */
export function contractError(name: string, data: unknown): ContractError {
  return new ContractError(name, data);
}
