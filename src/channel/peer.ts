// One connection of a channel: reads JSON-RPC frames, answers each of them, and asks. Nothing that a client sends
// closes the connection. What becomes of calls is in calls.ts.

import {
  classify,
  encodeCall,
  encodeError,
  encodeResult,
  type ErrorObject,
  type Id,
  isRequest,
  MOST_IN_BATCH,
  type Other,
  type Request,
  RPC_CODES,
} from "../contract/frames.js";
import { RpcError } from "../contract/rpc-error.js";
import { toError } from "../server/errors.js";
import type { ServerWebSocket } from "../server/socket.js";
import type { Reply } from "./call.js";
import { Calls } from "./calls.js";
import type { ChannelParts } from "./method.js";
import { Outbox } from "./outbox.js";
import { Slot } from "./slots.js";
import { Subscriptions, TOPIC_METHODS } from "./subscriptions.js";
import type { Topics } from "./topics.js";

interface Asked {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

export class Peer {
  readonly outbox: Outbox;
  /** Made for the first frame about a topic: most connections of a channel without topics never need it. */
  #subscriptions: Subscriptions | undefined;
  readonly #topics: Topics;
  readonly #ws: ServerWebSocket;
  readonly #channel: ChannelParts;
  readonly #calls: Calls;
  readonly #asked = new Map<Id, Asked>();
  #refreshing = false;
  #lastAsk = 0;
  #gone = false;
  readonly #send: Reply;

  constructor(ws: ServerWebSocket, channel: ChannelParts, topics: Topics) {
    this.#ws = ws;
    this.#channel = channel;
    this.outbox = new Outbox(
      ws,
      () => this.#subscriptions?.fellBehind(),
      () => this.#calls.next(),
    );
    this.#topics = topics;
    this.#calls = new Calls(ws, channel, this.outbox);
    this.#send = (text) => this.outbox.send(text);
  }

  /** A frame came. */
  receive(message: string | Buffer): void {
    let parsed: unknown;
    try {
      if (typeof message !== "string") throw new TypeError("binary");
      parsed = JSON.parse(message);
    } catch {
      const error = { code: RPC_CODES.PARSE_ERROR, message: "A frame is one JSON text" };
      this.outbox.send(encodeError(null, error));
      return this.#calls.pauseIfFull();
    }
    if (Array.isArray(parsed)) this.#batch(parsed, message.length);
    else this.#handle(parsed, message.length, this.#send);
    this.#calls.pauseIfFull();
  }

  /** Sends an event. */
  tell(event: string, text: string): void {
    if (!this.outbox.fits(text)) throw RpcError.from(this.outbox.tooLarge(`The event ${event}`));
    this.outbox.send(text);
  }

  /** Asks the client. */
  ask(event: string, params: unknown, timeout: number): Promise<unknown> {
    if (this.#gone) return Promise.reject(lost());
    const id = ++this.#lastAsk;
    const text = encodeCall(id, event, params);
    if (!this.outbox.fits(text))
      return Promise.reject(RpcError.from(this.outbox.tooLarge(`The event ${event}`)));
    return Slot.lentWhile(async () => {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      const timer = setTimeout(
        () => reject(new RpcError("TIMEOUT", `${event} was not answered within ${timeout} ms`)),
        timeout,
      );
      this.#asked.set(id, { resolve, reject });
      this.outbox.send(text);
      try {
        return await promise;
      } finally {
        clearTimeout(timer);
        this.#asked.delete(id);
      }
    });
  }

  /** Ends a subscription from here. @returns whether there was one. */
  async kick(topic: string, reason: string): Promise<boolean> {
    return (await this.#subscriptions?.kick(topic, reason)) ?? false;
  }

  /** The connection is over: whatever runs is told, whatever waits is let go. */
  close(): void {
    this.#gone = true;
    this.#subscriptions?.close();
    this.#topics.forget(this.#ws);
    for (const { reject } of this.#asked.values()) reject(lost());
    this.#calls.close(lost());
  }

  #batch(values: unknown[], units: number): void {
    if (values.length === 0 || values.length > MOST_IN_BATCH) {
      return this.outbox.send(encodeError(null, invalid(`a batch has 1 to ${MOST_IN_BATCH} frames`)));
    }
    const answers: string[] = [];
    let kept = 0;
    let left = values.filter((value) =>
      isRequest(value) ? value.id !== undefined : classify(value).kind === "invalid",
    ).length;
    const reply: Reply = (text, id) => {
      const answer = this.outbox.fits(text, kept)
        ? text
        : encodeError(id, this.outbox.tooLarge("The batch's answer"));
      answers.push(answer);
      kept += answer.length;
      this.#calls.keep(answer.length);
      if (--left > 0) return;
      this.#calls.keep(-kept);
      this.outbox.send(`[${answers.join(",")}]`);
    };
    const ids = new Set<Id>();
    for (const value of values) {
      if (isRequest(value) && value.id !== undefined) {
        const { id, method } = value;
        const alone = TOPIC_METHODS.has(method) || this.#channel.methods[method]?.contract.stream;
        const why = ids.has(id)
          ? "another call in this batch has the same id"
          : alone && "streams and subscriptions cannot be part of a batch";
        ids.add(id);
        if (why) {
          reply(encodeError(id, invalid(why)), id);
          continue;
        }
      }
      this.#handle(value, units / values.length, reply);
    }
  }

  #handle(value: unknown, units: number, reply: Reply): void {
    if (!isRequest(value)) return this.#other(classify(value), reply);
    if (value.method.startsWith("$/")) return this.#own(value, reply);
    if (value.id !== undefined && this.#calls.has(value.id)) {
      const why = "a call with this id has not been answered yet";
      return reply(encodeError(value.id, invalid(why)), value.id);
    }
    this.#calls.add(value, units, reply);
  }

  #other(frame: Other, reply: Reply): void {
    if (frame.kind === "invalid") return reply(encodeError(frame.id, invalid(frame.why)), frame.id);
    const { id, result, error } = frame;
    const asked = this.#asked.get(id);
    if (error) asked?.reject(RpcError.from(error));
    else asked?.resolve(result);
  }

  /** harpia's own frames. They go past the queue. */
  #own({ id, method, params: given = {} }: Request, reply: Reply): void {
    const answer = (text: (id: Id) => string): void => {
      if (id !== undefined) reply(text(id), id);
    };
    const refuse = (code: number, message: string): void =>
      answer((id) => encodeError(id, { code, message }));
    const params = given as Record<string, unknown>;
    if (TOPIC_METHODS.has(method)) {
      this.#subscriptions ??= new Subscriptions(this.#ws, this.outbox, this.#topics);
      return this.#subscriptions.handle({ id, method, params }, reply);
    }
    switch (method) {
      case "$/ping":
        return answer((id) => encodeResult(id, "pong"));
      case "$/cancel":
        this.#calls.cancel(params.id as Id);
        return answer((id) => encodeResult(id, null));
      case "$/pause":
      case "$/resume": {
        const gate = this.#calls.gateOf(params.id as Id);
        if (method === "$/pause") gate?.pause();
        else gate?.resume();
        return answer((id) => encodeResult(id, null));
      }
      case "$/refresh": {
        const { refresh } = this.#channel;
        if (typeof params.token !== "string")
          return refuse(RPC_CODES.INVALID_PARAMS, '"token" must be a string');
        if (refresh === undefined) return refuse(RPC_CODES.FORBIDDEN, "This channel takes no new tokens");
        if (this.#refreshing)
          return refuse(RPC_CODES.RATE_LIMITED, "A token is being looked at already: wait for its answer");
        this.#refreshing = true;
        const token = params.token;
        void (async () => {
          try {
            await refresh(token, { ws: this.#ws });
            answer((id) => encodeResult(id, true));
          } catch (error) {
            const { hub, path } = this.#ws.route;
            const fields = { route: path, connection: this.#ws.id, error: toError(error) };
            hub.settings.logger.debug?.("refresh did not take a token", fields);
            refuse(RPC_CODES.FORBIDDEN, "The token was not accepted");
          } finally {
            this.#refreshing = false;
          }
        })();
        return;
      }
      default:
        return refuse(RPC_CODES.METHOD_NOT_FOUND, `There is no ${JSON.stringify(method.slice(0, 100))}`);
    }
  }
}

function invalid(why: string): ErrorObject {
  return { code: RPC_CODES.INVALID_REQUEST, message: `Invalid request: ${why}` };
}

function lost(): RpcError {
  return new RpcError("CONNECTION_LOST", "The connection has closed");
}
