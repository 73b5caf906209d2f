// The calls of one connection: those that wait for a slot, those that run, and the streams. When too much waits, reading
// from the connection pauses.

import {
  encodeError,
  encodeResult,
  type ErrorObject,
  type Id,
  type Request,
  RPC_CODES,
} from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import { toError } from "../server/errors.js";
import { Tokens } from "../server/lane.js";
import type { ServerWebSocket } from "../server/socket.js";
import { Call, type Reply } from "./call.js";
import { Context } from "./context.js";
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
  add(request: Request, units: number, reply: Reply): void {
    if (this.#waiting.size === 0 && this.#mayStart()) return this.#start(request, reply);
    const call = new Call(request, reply, undefined, units);
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
      this.#start(call.request, call.reply);
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
    if (!this.#waiting.delete(call)) return;
    this.#units -= call.units;
    if (this.#open.get(call.id) === call) this.#open.delete(call.id);
  }

  #start(request: Request, reply: Reply): void {
    const { method: name, params } = request;
    const method = this.#channel.methods[name];
    if (method === undefined) {
      const message = `There is no method ${JSON.stringify(name.slice(0, 100))}`;
      return this.#reply(request, reply, { error: { code: RPC_CODES.METHOD_NOT_FOUND, message } });
    }
    if (!this.#takeToken(method)) {
      const message = `Too many calls of ${name}`;
      return this.#reply(request, reply, { error: { code: RPC_CODES.RATE_LIMITED, message } });
    }
    const context = new Context(this.#ws, this.#slots);
    if (method.contract.stream) return this.#stream(method, context, request, reply);
    this.#slots.take();
    // What a method awaits is told whose call it is part of. One that has never awaited anything is spared that, which
    // is a twentieth of a small call. If it does so after all, then the first such call, alone, does not lend its slot.
    const outcome =
      method.mayLast === false && !Slot.isWithin
        ? runMethod(method, context, params)
        : Slot.within(context, runMethod, method, context, params);
    if (!(outcome instanceof Promise)) {
      Context.end(context);
      return this.#reply(request, reply, outcome);
    }
    const call = new Call(request, reply, context);
    const end = this.#hold(method, call);
    void outcome.then((outcome) => {
      this.#answer(call, outcome);
      Context.end(context);
      end();
      this.next();
    });
  }

  #stream(method: RunningMethod, context: Context, request: Request, reply: Reply): void {
    if (request.id === undefined) return; // a notification: there is no id to send values for
    if (this.#streams >= MOST_STREAMS) {
      const message = `A connection may read ${MOST_STREAMS} streams at a time`;
      return this.#reply(request, reply, { error: { code: RPC_CODES.RATE_LIMITED, message } });
    }
    this.#streams++;
    const call = new Call(request, reply, context);
    const end = this.#hold(method, call);
    const gate = (call.gate = new Gate());
    const stream = { method, context, request, gate, outbox: this.#outbox };
    void Slot.within(undefined, runStream, stream).then(async ({ outcome, ended }) => {
      this.#answer(call, outcome);
      await ended;
      this.#streams--;
      end();
    });
  }

  /** Notes that something runs, for `close`, `$/cancel` and `app.stop()`. @returns what to do when it has ended. */
  #hold({ name, timeout }: RunningMethod, call: Call): () => void {
    const { work } = this.#ws.route.hub;
    work.running++;
    this.#running.add(call);
    if (this.#gone) call.abort(new RpcError("CONNECTION_LOST", "The connection has closed"));
    else if (!call.answered) this.#open.set(call.id, call);
    const timer =
      timeout &&
      setTimeout(() => this.#giveUp(call, "TIMEOUT", `${name} took longer than ${timeout} ms`), timeout);
    return () => {
      clearTimeout(timer);
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

  /** Answers a call that waited, or ran for a while, unless somebody has. */
  #answer(call: Call, outcome: Outcome): void {
    if (call.answered) return;
    call.answered = true;
    if (this.#open.get(call.id) === call) this.#open.delete(call.id);
    this.#reply(call.request, call.reply, outcome);
  }

  #reply(request: Request, reply: Reply, outcome: Outcome): void {
    const { id } = request;
    if (id !== undefined && !this.#gone) reply(this.#encode(request, id, outcome), id);
  }

  /** A result may be something that JSON cannot say: a BigInt, a circle. */
  #encode({ method: name }: Request, id: Id, outcome: Outcome): string {
    try {
      const text = outcome.error ? encodeError(id, outcome.error) : encodeAnswer(id, outcome.value);
      if (this.#outbox.fits(text)) return text;
      return encodeError(id, this.#outbox.tooLarge(`The answer to ${name}`));
    } catch (error) {
      const method = this.#channel.methods[name]!; // else it had an error, which JSON can say
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
