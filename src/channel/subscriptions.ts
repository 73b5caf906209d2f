// What one connection is subscribed to: `$/subscribe`, `$/unsubscribe`, `$/history` and `$/presence`, for each topic one
// after the other; and how a slow reader leaves the native topics until it has caught up.

import {
  type Broker,
  BrokerError,
  type Page,
  type PageLimits,
  type Position,
  type Range,
} from "../broker/broker.js";
import { encodeError, encodeNotification, type ErrorObject, type Id, RPC_CODES } from "../contract/frames.js";
import { validate } from "../contract/schema.js";
import { toError } from "../server/errors.js";
import type { ServerWebSocket } from "../server/socket.js";
import { positionFrame, type Subscriber } from "./feed.js";
import type { Reply } from "./call.js";
import { contractError } from "./context.js";
import { failure, internal, mismatch, type Subject } from "./method.js";
import type { Outbox } from "./outbox.js";
import { isPosition, type OpenTopic, type RunningTopic, type Topics } from "./topics.js";

/** Small pages: where a connection lives for seconds, a large answer never arrives. */
const PAGE: PageLimits = { messages: 100, bytes: 64 * 1024 };
const MOST_SUBSCRIPTIONS = 1_000;
const MOST_PENDING = 1_000;
const MOST_LAST = 1_000_000;
/** What an answer has beside its result: more than any id that a client counts up to. */
const ENVELOPE = 512;
const POSITIONS_IN_FRAME = 100;
/** A reader that fell behind comes back when this much or less waits for it. */
const CAUGHT_UP_BYTES = 64 * 1024;
const CAUGHT_UP_POLL_MS = 50;

/** One of harpia's own frames, as `peer.ts` has read it; without an id nothing is answered. */
export interface OwnCall {
  readonly id: Id | undefined;
  readonly method: string;
  readonly params: Record<string, unknown>;
}

/** A result as JSON, or why there is none; `undefined` when nobody is left to hear it. */
type Answer = { json: string } | { error: ErrorObject } | undefined;

interface Entry {
  /** While subscribed. */
  topic: OpenTopic | undefined;
  /** The last operation on it, as long as there is one. */
  tail: Promise<void> | undefined;
  operations: number;
}

export const TOPIC_METHODS: ReadonlySet<string> = new Set([
  "$/subscribe",
  "$/unsubscribe",
  "$/history",
  "$/presence",
]);

export class Subscriptions implements Subscriber {
  readonly ws: ServerWebSocket;
  readonly #outbox: Outbox;
  readonly #topics: Topics;
  readonly #broker: Broker;
  readonly #entries = new Map<string, Entry>();
  #pending = 0;
  /** Out of the native topics: it reads too slowly. */
  #isOut = false;
  #gone = false;

  constructor(ws: ServerWebSocket, outbox: Outbox, topics: Topics) {
    this.ws = ws;
    this.#outbox = outbox;
    this.#topics = topics;
    this.#broker = topics.broker;
  }

  /** Answers one of `TOPIC_METHODS`. */
  handle(call: OwnCall, reply: Reply): void {
    const answer = (given: Answer): void => {
      const { id } = call;
      if (given === undefined || id === undefined) return;
      if ("error" in given) return reply(encodeError(id, given.error), id);
      const text = `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${given.json}}`;
      reply(this.#outbox.fits(text) ? text : encodeError(id, this.#outbox.tooLarge("The answer")), id);
    };
    const name = call.params.topic;
    const resolved = this.#topics.resolve(name);
    if (resolved === undefined || typeof name !== "string")
      return answer(invalid("there is no such topic, or it is spelled otherwise"));
    if (this.#pending >= MOST_PENDING) return answer(limited(`${MOST_PENDING} operations wait already`));
    const operation = this.#operationOf(call, name, resolved);
    if (typeof operation !== "function") return answer(operation);
    this.#pending++;
    void this.#enqueue(name, async (entry) => {
      answer(await this.#guard(resolved.definition, () => operation(entry)));
      this.#pending--;
    });
  }

  /** Ends a subscription from here. @returns whether there was one. */
  async kick(name: string, reason: string): Promise<boolean> {
    if (!this.#entries.has(name)) return false;
    let was = false;
    await this.#enqueue(name, async (entry) => {
      if (entry.topic === undefined) return;
      was = true;
      await this.#leave(entry);
      const params = { topic: name, code: RPC_CODES.FORBIDDEN, message: reason };
      this.#outbox.send(encodeNotification("$/unsubscribed", params));
    });
    return was;
  }

  send(text: string): void {
    this.#outbox.send(text);
  }

  /** It reads too slowly: publications would only drown it further, so it gets none until it has caught up. */
  fellBehind(): void {
    if (this.#isOut || this.#gone || this.#entries.size === 0) return;
    this.#isOut = true;
    for (const { topic } of this.#entries.values()) if (topic) this.ws.raw.unsubscribe(topic.feed.native);
    void this.#comeBack();
  }

  /** The connection is over. */
  close(): void {
    this.#gone = true;
    const { work } = this.ws.route.hub;
    for (const entry of this.#entries.values()) {
      if (entry.topic === undefined) continue;
      work.running++;
      void this.#leave(entry).finally(() => work.done());
    }
    this.#entries.clear();
  }

  #operationOf(
    { method, params }: OwnCall,
    name: string,
    { definition, params: topicParams }: { definition: RunningTopic; params: Record<string, string> },
  ): Answer | ((entry: Entry) => Promise<Answer>) {
    const { after, before, last = 0, limit = PAGE.messages } = params;
    const notSubscribed = forbidden("Subscribe to the topic first");
    switch (method) {
      case "$/subscribe":
        if (after !== undefined && !isPosition(after)) return invalid('"after" must be { epoch, offset }');
        if (!isWhole(last, 0, MOST_LAST)) return invalid(`"last" must be a whole number up to ${MOST_LAST}`);
        if (!this.#entries.has(name) && this.#entries.size >= MOST_SUBSCRIPTIONS)
          return limited(`a connection has up to ${MOST_SUBSCRIPTIONS} subscriptions`);
        return (entry) => this.#subscribe(entry, name, definition, topicParams, after, last);
      case "$/unsubscribe":
        return async (entry) => {
          if (entry.topic === undefined) return invalid("not subscribed");
          await this.#leave(entry);
          return { json: "true" };
        };
      case "$/history": {
        if (!definition.contract.history) return invalid("this topic has no history");
        if (after !== undefined && before !== undefined) return invalid('give "after" or "before", not both');
        const position = after === undefined ? before : after;
        if (!isPosition(position)) return invalid('"after" or "before" must be { epoch, offset }');
        if (!isWhole(limit, 1, MOST_LAST)) return invalid('"limit" must be a whole number from 1');
        const range: Range = after === undefined ? { before: position } : { after: position };
        return async ({ topic }) => {
          if (topic === undefined) return notSubscribed;
          const page = await this.#read(topic, range, Math.min(limit, PAGE.messages));
          return page && { json: `{${pageJson(page)}}` };
        };
      }
      default:
        if (!definition.presence) return invalid("this topic has no presence");
        return async ({ topic }) => {
          if (topic === undefined) return notSubscribed;
          return { json: `{${await topic.roster!.snapshot()}}` };
        };
    }
  }

  async #subscribe(
    entry: Entry,
    name: string,
    definition: RunningTopic,
    params: Record<string, string>,
    after: Position | undefined,
    last: number,
  ): Promise<Answer> {
    if (entry.topic === undefined) {
      const refusal = await this.#join(entry, name, definition, params);
      if (refusal) return { error: refusal };
    }
    const { topic } = entry;
    if (topic === undefined) return undefined; // gone
    // Between the native subscription and this, publications reach the client before the answer: it sorts them in.
    const page = definition.contract.history && (await this.#firstPage(topic, after, last));
    const members = topic.roster && (await topic.roster.snapshot());
    const past = page ? pageJson(page) : '"recovered":false,"messages":[],"complete":true';
    const json = `{${past}${members ? `,${members}` : ""}}`;
    if (this.#outbox.fits(json, ENVELOPE)) return { json };
    // It would take itself for not subscribed.
    await this.#leave(entry);
    return { error: this.#outbox.tooLarge("The answer") };
  }

  async #firstPage(topic: OpenTopic, after: Position | undefined, last: number): Promise<Page | undefined> {
    const page = after && (await this.#read(topic, { after }));
    if (page?.recovered || (page && last === 0)) return page;
    if (last > 0) return await this.#read(topic, { last });
    const [position] = await this.#broker.positions([topic.feed.key]);
    return { position: position!, recovered: false, messages: [], complete: true };
  }

  /** A page, when its reader has room for it. */
  async #read(
    { feed }: OpenTopic,
    range: Range,
    messages: number = PAGE.messages,
  ): Promise<Page | undefined> {
    if (!(await this.#outbox.drained())) return undefined;
    // Half of a frame: what stands around the messages needs room too. A single one fits always.
    const { maxPayloadLength } = this.ws.route.hub.settings.limits;
    const bytes = Math.min(PAGE.bytes, maxPayloadLength / 2);
    return await this.#broker.read(feed.key, range, { messages, bytes });
  }

  /** Authorises, opens the feed, and goes in: in this order, and alive after each. @returns why not. */
  async #join(
    entry: Entry,
    name: string,
    definition: RunningTopic,
    params: Record<string, string>,
  ): Promise<ErrorObject | undefined> {
    const refusal = await this.#authorise(definition, params);
    if (refusal || this.#gone) return refusal;
    const topic = this.#topics.acquire(name, definition, params);
    try {
      await topic.feed.ready;
    } catch (error) {
      this.#topics.abandon(topic);
      await this.#topics.release(topic);
      throw error;
    }
    try {
      await topic.roster?.ready();
    } catch (error) {
      // The feed may serve others, and a roster tries again.
      await this.#topics.release(topic);
      throw error;
    }
    if (this.#gone) return void (await this.#topics.release(topic));
    entry.topic = topic;
    topic.feed.subscribers.add(this);
    if (!this.#isOut) this.ws.raw.subscribe(topic.feed.native);
    try {
      await this.#enter(topic);
    } catch (error) {
      await this.#leave(entry);
      throw error;
    }
    return undefined;
  }

  async #authorise(
    definition: RunningTopic,
    params: Record<string, string>,
  ): Promise<ErrorObject | undefined> {
    const { subscribe } = definition;
    if (subscribe === "public") return undefined;
    const { handshakeTimeout } = this.ws.route.hub.settings;
    const late = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => late.resolve(undefined), handshakeTimeout);
    try {
      const decision = Promise.resolve(subscribe(params, { ws: this.ws, error: contractError })).then(
        (allowed) => ({
          allowed,
        }),
      );
      const decided = await Promise.race([decision, late.promise]);
      if (decided?.allowed === true) return undefined;
      if (decided) return forbidden("Not allowed to subscribe").error;
      decision.catch(() => {}); // nobody is left to hear of it
      return { code: RPC_CODES.TIMEOUT, message: `Not decided within ${handshakeTimeout} ms` };
    } catch (thrown) {
      const outcome = await failure(this.ws, subjectOf(definition), thrown);
      return "error" in outcome ? outcome.error : undefined;
    } finally {
      clearTimeout(timer);
    }
  }

  async #enter({ roster, definition, params }: OpenTopic): Promise<void> {
    const { presence, contract, template } = definition;
    if (presence === undefined || roster === undefined) return;
    const context = { ws: this.ws };
    const info: unknown = await presence.info(params, context);
    if (info === undefined) return;
    const valid = await validate(contract.presence, info);
    if (valid.issues) throw mismatch(`the presence of ${template}`, valid.issues);
    const key: unknown = presence.key(params, context);
    if (typeof key !== "string" || key === "" || key.length > 256)
      throw new TypeError(`the presence key of ${template} must be a string of 1 to 256 characters.`);
    const json: string | undefined = JSON.stringify(valid.value);
    if (json === undefined) throw new TypeError(`the presence of ${template} is nothing that JSON can say.`);
    if (!this.#gone) await roster.enter(this.ws.id, key, json);
  }

  async #leave(entry: Entry): Promise<void> {
    const { topic } = entry;
    if (topic === undefined) return;
    entry.topic = undefined;
    topic.feed.subscribers.delete(this);
    if (!this.#gone) this.ws.raw.unsubscribe(topic.feed.native);
    await topic.roster?.leave(this.ws.id);
    await this.#topics.release(topic);
  }

  async #comeBack(): Promise<void> {
    let open = await this.#outbox.drained();
    while (open && this.ws.bufferedAmount > CAUGHT_UP_BYTES) {
      await new Promise((resolve) => setTimeout(resolve, CAUGHT_UP_POLL_MS));
      open = this.ws.readyState === 1;
    }
    if (!open || this.#gone) return;
    this.#isOut = false;
    const positions: object[] = [];
    for (const [name, { topic }] of this.#entries) {
      if (topic === undefined) continue;
      this.ws.raw.subscribe(topic.feed.native);
      if (topic.feed.history || topic.roster) positions.push({ topic: name, ...topic.feed.position });
    }
    for (let start = 0; start < positions.length; start += POSITIONS_IN_FRAME)
      this.#outbox.send(positionFrame(positions.slice(start, start + POSITIONS_IN_FRAME), true));
  }

  /** Runs an operation on a topic after those before it. */
  async #enqueue(name: string, operation: (entry: Entry) => Promise<void>): Promise<void> {
    const entry = this.#entries.get(name) ?? { topic: undefined, tail: undefined, operations: 0 };
    this.#entries.set(name, entry);
    entry.operations++;
    const before = entry.tail ?? Promise.resolve();
    entry.tail = before.then(() => operation(entry));
    await entry.tail;
    if (--entry.operations > 0) return;
    entry.tail = undefined;
    if (entry.topic !== undefined) return;
    if (this.#entries.get(name) === entry) this.#entries.delete(name);
  }

  async #guard(definition: RunningTopic, operation: () => Promise<Answer>): Promise<Answer> {
    try {
      return this.#gone ? undefined : await operation();
    } catch (error) {
      if (error instanceof BrokerError)
        return { error: { code: RPC_CODES.UNAVAILABLE, message: "The broker is unavailable" } };
      return internal(this.ws, subjectOf(definition), toError(error)) as { error: ErrorObject };
    }
  }
}

function subjectOf({ template, contract }: RunningTopic): Subject {
  return { kind: "topic", name: template, contract };
}

function pageJson({ position, recovered, messages, complete }: Page): string {
  const all = messages.map(({ offset, payload }) => `{"offset":${offset},"data":${payload}}`);
  return `"epoch":${JSON.stringify(position.epoch)},"offset":${position.offset},"recovered":${recovered},"messages":[${all.join(",")}],"complete":${complete}`;
}

function isWhole(value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

function invalid(why: string): { error: ErrorObject } {
  return { error: { code: RPC_CODES.INVALID_PARAMS, message: `Invalid params: ${why}` } };
}

function limited(why: string): { error: ErrorObject } {
  return { error: { code: RPC_CODES.RATE_LIMITED, message: `Too much: ${why}` } };
}

function forbidden(message: string): { error: ErrorObject } {
  return { error: { code: RPC_CODES.FORBIDDEN, message } };
}
