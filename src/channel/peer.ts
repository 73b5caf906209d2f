// One connection of a channel: its calls that run and wait, its streams, and what the server has asked it.
// Reads JSON-RPC frames and answers each of them; nothing that a client sends closes the connection.

import {
  classify,
  encodeCall,
  encodeError,
  encodeResult,
  type ErrorObject,
  type Frame,
  type Id,
  MOST_IN_BATCH,
  RPC_CODES,
} from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import { Tokens } from "../server/lane.js";
import type { ServerWebSocket } from "../server/socket.js";
import { type ChannelParts, internal, type Outcome, type RunningMethod, runMethod } from "./method.js";
import { Outbox } from "./outbox.js";
import { Gate, runStream } from "./stream.js";

const MOST_WAITING = 256;
const MOST_WAITING_UNITS = 1024 * 1024;
const MOST_STREAMS = 16;

type Call = Extract<Frame, { kind: "call" | "notification" }>;

/** Takes the answer to a call: to the client, or into a batch. */
type Reply = (text: string) => void;

interface Asked {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

export class Peer {
  readonly outbox: Outbox;
  readonly #ws: ServerWebSocket;
  readonly #channel: ChannelParts;
  /** Calls with an id that have not been answered. */
  readonly #open = new Map<Id, AbortController>();
  /** Of everything that runs: calls, notifications, streams. */
  readonly #running = new Set<AbortController>();
  readonly #asked = new Map<Id, Asked>();
  #waiting: { call: Call; reply: Reply; units: number }[] = [];
  #waitingUnits = 0;
  #slots = 0;
  /** By their controllers: an id may be used again before its stream has unwound. */
  readonly #streams = new Map<AbortController, Gate>();
  #paused = false;
  #lastAsk = 0;
  #tokens: Map<string, Tokens> | undefined;
  #gone = false;

  constructor(ws: ServerWebSocket, channel: ChannelParts) {
    this.#ws = ws;
    this.#channel = channel;
    this.outbox = new Outbox(ws);
  }

  /** A frame came. */
  receive(message: string | Buffer): void {
    const send: Reply = (text) => this.outbox.send(text);
    let parsed: unknown;
    try {
      if (typeof message !== "string") throw new TypeError("binary");
      parsed = JSON.parse(message);
    } catch {
      return send(encodeError(null, { code: RPC_CODES.PARSE_ERROR, message: "A frame is one JSON text" }));
    }
    if (!Array.isArray(parsed)) return this.#handle(classify(parsed), message.length, send);
    if (parsed.length === 0 || parsed.length > MOST_IN_BATCH) {
      return send(encodeError(null, invalid(`a batch has 1 to ${MOST_IN_BATCH} frames`)));
    }
    this.#batch(parsed.map(classify), message.length);
  }

  /** Asks the client. */
  ask(event: string, params: unknown, timeout: number): Promise<unknown> {
    const id = ++this.#lastAsk;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    if (this.#gone) reject(lost());
    else {
      this.#asked.set(id, { resolve, reject });
      this.outbox.send(encodeCall(id, event, params));
      // A call that awaits an answer gives up its slot, or both ends could wait for each other.
      this.#next();
    }
    const timer = setTimeout(
      () => reject(new RpcError("TIMEOUT", `${event} was not answered within ${timeout} ms`)),
      timeout,
    );
    return promise.finally(() => {
      clearTimeout(timer);
      this.#asked.delete(id);
    });
  }

  /** The connection is over: whatever runs is told, whatever waits is let go. */
  close(): void {
    this.#gone = true;
    this.#waiting = [];
    this.#open.clear();
    for (const { reject } of this.#asked.values()) reject(lost());
    for (const controller of this.#running) controller.abort(lost());
  }

  #batch(frames: Frame[], units: number): void {
    const answers: string[] = [];
    let left = frames.filter(({ kind }) => kind === "call" || kind === "invalid").length;
    const reply: Reply = (text) => {
      answers.push(text);
      if (--left === 0) this.outbox.send(`[${answers.join(",")}]`);
    };
    for (const frame of frames) {
      const streams = frame.kind === "call" && this.#channel.methods.get(frame.method)?.contract.stream;
      if (streams) reply(encodeError(frame.id, invalid("a stream cannot be part of a batch")));
      else this.#handle(frame, units / frames.length, reply);
    }
  }

  #handle(frame: Frame, units: number, reply: Reply): void {
    if (frame.kind === "invalid") return reply(encodeError(frame.id, invalid(frame.why)));
    if (frame.kind === "answer") return this.#answered(frame);
    if (frame.method.startsWith("$/")) return this.#own(frame, reply);
    if (frame.kind === "call") {
      if (this.#open.has(frame.id)) {
        return reply(encodeError(frame.id, invalid("a call with this id has not been answered yet")));
      }
      this.#open.set(frame.id, new AbortController());
    }
    this.#waiting.push({ call: frame, reply, units });
    this.#waitingUnits += units;
    this.#next();
    if (!this.#isFull() || this.#paused) return;
    // TCP tells the client to wait.
    this.#paused = true;
    this.#ws.pause();
    void this.outbox.drained().then(() => this.#next());
  }

  #isFull(): boolean {
    return (
      this.#waiting.length > MOST_WAITING ||
      this.#waitingUnits > MOST_WAITING_UNITS ||
      this.outbox.waiting > MOST_WAITING_UNITS
    );
  }

  /** Starts what waits, as far as there are slots and room for answers. */
  #next(): void {
    const { concurrency } = this.#channel;
    while (this.#slots - this.#asked.size < concurrency && this.outbox.waiting <= MOST_WAITING_UNITS) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      this.#waitingUnits -= next.units;
      this.#start(next.call, next.reply);
    }
    if (!this.#paused || this.#isFull()) return;
    this.#paused = false;
    this.#ws.resume();
  }

  #start(call: Call, reply: Reply): void {
    const id = call.kind === "call" ? call.id : null;
    const controller = call.kind === "call" ? this.#open.get(call.id) : new AbortController();
    if (controller === undefined) return; // cancelled while it waited
    const respond: Reply = (text) => {
      if (call.kind !== "call" || this.#open.get(call.id) !== controller) return; // cancelled, or gone
      this.#open.delete(call.id);
      reply(text);
    };
    const method = this.#channel.methods.get(call.method);
    if (method === undefined) {
      const message = `There is no method ${JSON.stringify(call.method.slice(0, 100))}`;
      return respond(encodeError(id, { code: RPC_CODES.METHOD_NOT_FOUND, message }));
    }
    if (!this.#takeToken(method)) {
      return respond(
        encodeError(id, { code: RPC_CODES.RATE_LIMITED, message: `Too many calls of ${method.name}` }),
      );
    }
    if (method.contract.stream) {
      if (call.kind === "call") this.#stream({ id, method, params: call.params }, controller, respond);
      return;
    }
    this.#run(id, method, call.params, controller, respond);
  }

  #run(id: Id, method: RunningMethod, params: unknown, controller: AbortController, respond: Reply): void {
    const release = this.#hold(controller);
    this.#slots++;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let over = false;
    const done = (outcome: Outcome): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      this.#slots--;
      release();
      respond(this.#encode(id, method, outcome));
    };
    if (method.timeout !== undefined) {
      timer = setTimeout(() => {
        const message = `${method.name} took longer than ${method.timeout} ms`;
        controller.abort(new RpcError("TIMEOUT", message));
        done({ error: { code: RPC_CODES.TIMEOUT, message } });
        this.#next();
      }, method.timeout);
    }
    const outcome = runMethod(this.#channel, this.#ws, method, params, controller.signal);
    if (!(outcome instanceof Promise)) return done(outcome);
    void outcome.then((outcome) => {
      done(outcome);
      this.#next();
    });
  }

  #stream(
    call: { id: Id; method: RunningMethod; params: unknown },
    controller: AbortController,
    respond: Reply,
  ): void {
    if (this.#streams.size >= MOST_STREAMS) {
      const message = `A connection may read ${MOST_STREAMS} streams at a time`;
      return respond(encodeError(call.id, { code: RPC_CODES.RATE_LIMITED, message }));
    }
    const gate = new Gate();
    this.#streams.set(controller, gate);
    const release = this.#hold(controller);
    void runStream(this.#channel, this.#ws, this.outbox, call, gate, controller.signal).then((outcome) => {
      this.#streams.delete(controller);
      release();
      respond(this.#encode(call.id, call.method, outcome));
    });
  }

  /** Notes that something runs, for `close` and for `app.stop()`. */
  #hold(controller: AbortController): () => void {
    const { work } = this.#ws.route.hub;
    this.#running.add(controller);
    work.running++;
    return () => {
      this.#running.delete(controller);
      work.done();
    };
  }

  #takeToken({ name, bucket }: RunningMethod): boolean {
    if (bucket === undefined) return true;
    this.#tokens ??= new Map();
    const tokens = this.#tokens.get(name) ?? new Tokens();
    this.#tokens.set(name, tokens);
    return tokens.take(bucket, performance.now()) === 0;
  }

  /** A result may be something that JSON cannot say: a BigInt, a circle. */
  #encode(id: Id, method: RunningMethod, outcome: Outcome): string {
    if ("error" in outcome) return encodeError(id, outcome.error);
    try {
      return encodeResult(id, outcome.result);
    } catch (error) {
      const { error: answer } = internal(this.#ws, method, error as Error) as { error: ErrorObject };
      return encodeError(id, answer);
    }
  }

  #answered({ id, result, error }: Extract<Frame, { kind: "answer" }>): void {
    const asked = this.#asked.get(id);
    if (error) asked?.reject(RpcError.from(error));
    else asked?.resolve(result);
  }

  /** harpia's own frames. They go past the queue. */
  #own(frame: Call, reply: Reply): void {
    const answer = (text: (id: Id) => string): void => {
      if (frame.kind === "call") reply(text(frame.id));
    };
    const refuse = (code: number, message: string): void =>
      answer((id) => encodeError(id, { code, message }));
    const params = (frame.params ?? {}) as Record<string, unknown>;
    switch (frame.method) {
      case "$/ping":
        return answer((id) => encodeResult(id, "pong"));
      case "$/cancel":
        this.#cancel(params.id as Id);
        return answer((id) => encodeResult(id, null));
      case "$/pause":
      case "$/resume": {
        const controller = this.#open.get(params.id as Id);
        const gate = controller && this.#streams.get(controller);
        if (frame.method === "$/pause") gate?.pause();
        else gate?.resume();
        return answer((id) => encodeResult(id, null));
      }
      case "$/refresh": {
        const { refresh } = this.#channel;
        if (typeof params.token !== "string")
          return refuse(RPC_CODES.INVALID_PARAMS, '"token" must be a string');
        if (refresh === undefined) return refuse(RPC_CODES.FORBIDDEN, "This channel takes no new tokens");
        const token = params.token;
        void (async () => {
          try {
            await refresh(token, { ws: this.#ws });
            answer((id) => encodeResult(id, true));
          } catch {
            refuse(RPC_CODES.FORBIDDEN, "The token was not accepted");
          }
        })();
        return;
      }
      default:
        return refuse(
          RPC_CODES.METHOD_NOT_FOUND,
          `There is no ${JSON.stringify(frame.method.slice(0, 100))}`,
        );
    }
  }

  #cancel(id: Id): void {
    const controller = this.#open.get(id);
    if (controller === undefined) return;
    this.#open.delete(id);
    this.outbox.send(encodeError(id, { code: RPC_CODES.CANCELLED, message: "Cancelled" }));
    controller.abort(new RpcError("CANCELLED", "The client cancelled the call"));
  }
}

function invalid(why: string): ErrorObject {
  return { code: RPC_CODES.INVALID_REQUEST, message: `Invalid request: ${why}` };
}

function lost(): RpcError {
  return new RpcError("CONNECTION_LOST", "The connection has closed");
}
