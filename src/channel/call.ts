// One call or notification of a client that runs for longer than a moment, or waits for that. It is answered once, by
// whoever comes first: the method, its timeout, the client's `$/cancel`; the method is told of the others by its signal.

import type { Id, Request } from "../contract/frames.js";
import type { RpcError } from "../contract/rpc-error.js";
import { Context } from "./context.js";
import type { Gate } from "./stream.js";

/** Takes the answer to a call: to the client, or into a batch. */
export type Reply = (text: string, id: Id) => void;

export class Call {
  readonly request: Request;
  readonly reply: Reply;
  /** Once it runs. */
  readonly context: Context | undefined;
  /** UTF-16 units of its frame, while it waits. */
  readonly units: number;
  /** Whether it is not to be answered any more. */
  answered: boolean;
  /** Of a stream that runs. */
  gate: Gate | undefined = undefined;

  constructor(request: Request, reply: Reply, context: Context | undefined, units: number = 0) {
    this.request = request;
    this.reply = reply;
    this.context = context;
    this.units = units;
    this.answered = request.id === undefined;
  }

  /** `null` for a notification too. */
  get id(): Id {
    return this.request.id ?? null;
  }

  /** Tells its method that nobody waits for it any more, and why. */
  abort(reason: RpcError): void {
    if (this.context) Context.abort(this.context, reason);
  }
}
