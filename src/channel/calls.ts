// The calls of one connection: those that wait for a slot, those that run, and the streams. When too much waits, reading
// from the connection pauses.

import { encodeError, encodeResult, type ErrorObject, type Id, RPC_CODES } from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import { toError } from "../server/errors.js";
import { Tokens } from "../server/lane.js";
import type { ServerWebSocket } from "../server/socket.js";
import { Call, type CallFrame, type Reply } from "./call.js";
import { type ChannelParts, internal, type Outcome, type RunningMethod, runMethod } from "./method.js";
import type { Outbox } from "./outbox.js";
import { Slot, Slots } from "./slots.js";
import { Gate, runStream } from "./stream.js";

const MOST_WAITING = 256;
const MOST_WAITING_UNITS = 1024 * 1024;
const MOST_STREAMS = 16;

export class Calls {
  readonly #ws: ServerWebSocket;
  readonly #channel: ChannelParts;
  readonly #outbox: Outbox;
  readonly #slots: Slots;
  readonly #waiting = new Set<Call>();
  /** Calls with an id that wait, or run and have not been answered. */
  readonly #open = new Map<Id, Call>();
  /** What runs for longer than a moment: calls, notifications, streams. */
  readonly #running = new Set<Call>();
  #units = 0;
  #streams = 0;
  #paused = false;
  #tokens: Map<string, Tokens> | undefined;
  #gone = false;

  constructor(ws: ServerWebSocket, channel: ChannelParts, outbox: Outbox) {
    this.#ws = ws;
    this.#channel = channel;
    this.#outbox = outbox;
    this.#slots = new Slots(channel.concurrency, () => this.next());
  }

  /** Whether a call with this id has not been answered. */
  has(id: Id): boolean {
    return this.#open.has(id);
  }

  /** Starts a call, or lets it wait. */
  add(frame: CallFrame, units: number, reply: Reply): void {
    const call = new Call(this.#channel, this.#ws, this.#slots, frame, units, reply);
    if (this.#waiting.size === 0 && this.#mayStart()) return this.#start(call);
    if (!call.answered) this.#open.set(call.id, call);
    this.#waiting.add(call);
    this.#units += units;
  }

  cancel(id: Id): void {
    const call = this.#open.get(id);
    if (call === undefined) return;
    this.#unqueue(call);
    this.#giveUp(call, "CANCELLED", "The client cancelled the call");
  }

  /** What holds back a stream, for the client to close and open. */
  gateOf(id: Id): Gate | undefined {
    return this.#open.get(id)?.gate;
  }

  /** Counts what is kept in memory for a client that could have it later; negative when it has gone out. */
  keep(units: number): void {
    this.#units += units;
  }

  /** Starts what waits, as far as there are slots and room for answers. */
  next(): void {
    for (const call of this.#waiting) {
      if (!this.#mayStart()) break;
      this.#unqueue(call);
      this.#start(call);
    }
    if (!this.#paused || this.#isFull()) return;
    this.#paused = false;
    this.#ws.resume();
  }

  /** Lets TCP tell the client to wait, if too much waits here. */
  pauseIfFull(): void {
    if (this.#gone || !this.#isFull()) return;
    this.#paused = true;
    this.#ws.pause();
  }

  /** The connection is over: whatever runs is told, whatever waits is let go. */
  close(why: RpcError): void {
    this.#gone = true;
    this.#waiting.clear();
    this.#open.clear();
    for (const call of this.#running) call.abort(why);
    this.#slots.close();
  }

  #mayStart(): boolean {
    return this.#slots.areFree && this.#outbox.waiting <= MOST_WAITING_UNITS;
  }

  #isFull(): boolean {
    return (
      this.#waiting.size > MOST_WAITING ||
      this.#units > MOST_WAITING_UNITS ||
      this.#outbox.waiting > MOST_WAITING_UNITS
    );
  }

  #unqueue(call: Call): void {
    if (this.#waiting.delete(call)) this.#units -= call.units;
  }

  #start(call: Call): void {
    const method = this.#channel.methods.get(call.name);
    if (method === undefined) {
      const message = `There is no method ${JSON.stringify(call.name.slice(0, 100))}`;
      return this.#answer(call, { error: { code: RPC_CODES.METHOD_NOT_FOUND, message } });
    }
    call.method = method;
    if (!this.#takeToken(method)) {
      const message = `Too many calls of ${method.name}`;
      return this.#answer(call, { error: { code: RPC_CODES.RATE_LIMITED, message } });
    }
    if (method.contract.stream) return this.#stream(call);
    const outcome = this.#slots.run(call.slot, runMethod, call);
    if (!(outcome instanceof Promise)) {
      call.slot.release();
      return this.#answer(call, outcome);
    }
    const end = this.#hold(call);
    void outcome.then((outcome) => {
      this.#answer(call, outcome);
      call.slot.release();
      end();
      this.next();
    });
  }

  #stream(call: Call): void {
    if (call.answered) return; // a notification: there is no id to send values for
    if (this.#streams >= MOST_STREAMS) {
      const message = `A connection may read ${MOST_STREAMS} streams at a time`;
      return this.#answer(call, { error: { code: RPC_CODES.RATE_LIMITED, message } });
    }
    this.#streams++;
    const end = this.#hold(call);
    const gate = (call.gate = new Gate());
    void Slot.outside(() => runStream(call, this.#outbox, gate)).then(async ({ outcome, ended }) => {
      this.#answer(call, outcome);
      await ended;
      this.#streams--;
      end();
    });
  }

  /** Notes that something runs, for `close`, `$/cancel` and `app.stop()`. @returns what to do when it has ended. */
  #hold(call: Call): () => void {
    const { work } = this.#ws.route.hub;
    const { method } = call;
    work.running++;
    this.#running.add(call);
    if (this.#gone) call.abort(new RpcError("CONNECTION_LOST", "The connection has closed"));
    else if (!call.answered) this.#open.set(call.id, call);
    if (method.timeout !== undefined) {
      const message = `${method.name} took longer than ${method.timeout} ms`;
      call.timer = setTimeout(() => this.#giveUp(call, "TIMEOUT", message), method.timeout);
    }
    return () => {
      clearTimeout(call.timer);
      this.#running.delete(call);
      work.done();
    };
  }

  /** Answers a call whose method may still run, and tells the method. */
  #giveUp(call: Call, reason: "TIMEOUT" | "CANCELLED", message: string): void {
    this.#answer(call, { error: { code: RPC_CODES[reason], message } });
    call.abort(new RpcError(reason, message));
    this.next();
  }

  #answer(call: Call, outcome: Outcome): void {
    if (call.answered || this.#gone) return;
    call.answered = true;
    if (this.#open.get(call.id) === call) this.#open.delete(call.id);
    call.reply(this.#encode(call, outcome), call.id);
  }

  /** A result may be something that JSON cannot say: a BigInt, a circle. */
  #encode(call: Call, outcome: Outcome): string {
    const { id, method } = call;
    try {
      const text = "error" in outcome ? encodeError(id, outcome.error) : encodeAnswer(id, outcome.result);
      if (this.#outbox.fits(text)) return text;
      return encodeError(id, this.#outbox.tooLarge(`The answer to ${call.name}`));
    } catch (error) {
      const { error: answer } = internal(this.#ws, method, toError(error)) as { error: ErrorObject };
      return encodeError(id, answer);
    }
  }

  #takeToken({ name, bucket }: RunningMethod): boolean {
    if (bucket === undefined) return true;
    this.#tokens ??= new Map();
    const tokens = this.#tokens.get(name) ?? new Tokens();
    this.#tokens.set(name, tokens);
    return tokens.take(bucket, performance.now()) === 0;
  }
}

function encodeAnswer(id: Id, result: unknown): string {
  // In one piece where it is sure that there will be a result: a seventh of a small call less than putting the text together.
  if (typeof result === "object" && result !== null && !("toJSON" in result))
    return JSON.stringify({ jsonrpc: "2.0", id, result });
  return encodeResult(id, result);
}
