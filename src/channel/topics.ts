// The topics of one channel on this process: their names, the feeds of those that somebody here is subscribed to, and
// publishing. What one connection is subscribed to is in subscriptions.ts.

import { type Broker, type PageLimits, type Position, type Range } from "../broker/broker.js";
import type { Contract, Topic } from "../contract/contract.js";
import { RpcError } from "../contract/rpc-error.js";
import { validate } from "../contract/schema.js";
import { LONGEST_TOPIC, parseTopic, topicName } from "../contract/topic.js";
import type { Hub } from "../server/connections.js";
import { refuseUnknown, show } from "../server/errors.js";
import { checkCount } from "../server/route.js";
import { RESERVED_TOPIC, type ServerWebSocket } from "../server/socket.js";
import { Feed } from "./feed.js";
import type { HistoryPage, HistoryRange, TopicHandle } from "./implementation.js";
import { mismatch } from "./method.js";
import { ifAway, Roster } from "./roster.js";

const POLLED_AT_ONCE = 500;
/** A lease that nobody renews ends after so many polls, 30 s, and with it the members of a process that died. */
const LEASED_POLLS = 3;
const NO_OPTIONS: { idempotencyKey?: string; except?: ServerWebSocket } = {};
const HANDLE_PAGE: PageLimits = { messages: 1_000, bytes: 1024 * 1024 };
/** What a frame has beside its data, at most. */
const FRAME_BYTES = 1_024;

/** A topic of the contract and its hooks, types erased. */
export interface RunningTopic {
  readonly template: string;
  readonly contract: Topic;
  readonly subscribe: "public" | ((params: object, context: object) => unknown);
  readonly presence: RunningPresence | undefined;
}

export interface RunningPresence {
  info(params: object, context: object): unknown;
  key(params: object, context: object): unknown;
  readonly max: number;
}

/** A topic that somebody here is subscribed to. */
export interface OpenTopic {
  readonly feed: Feed;
  readonly roster: Roster | undefined;
  readonly definition: RunningTopic;
  readonly params: Record<string, string>;
}

export class Topics {
  /**
   * @internal How often feeds are compared with the broker, subscribers told where their topics stand, and leases
   * renewed. Changed by tests alone.
   */
  static pollMs = 10_000;
  readonly broker: Broker;
  readonly #hub: Hub;
  readonly #path: string;
  readonly #definitions: ReadonlyMap<string, RunningTopic>;
  readonly #open = new Map<string, OpenTopic>();
  /** Connections that publications are to leave out, by id, for as long as they are open. */
  readonly #excepted = new Map<string, ServerWebSocket>();
  readonly #find = (id: string): ServerWebSocket | undefined => this.#excepted.get(id);
  #poller: ReturnType<typeof setInterval> | undefined;

  constructor(contract: Contract, definitions: ReadonlyMap<string, RunningTopic>, broker: Broker, hub: Hub) {
    this.#path = contract.path;
    this.#definitions = definitions;
    this.broker = broker;
    this.#hub = hub;
  }

  /** What a name on the wire means; `undefined` if it is no topic of the contract, or spelled otherwise. */
  resolve(name: unknown): { definition: RunningTopic; params: Record<string, string> } | undefined {
    if (typeof name !== "string" || Buffer.byteLength(name) > LONGEST_TOPIC) return undefined;
    for (const definition of this.#definitions.values()) {
      const params = parseTopic(definition.template, name);
      if (params) return { definition, params };
    }
    return undefined;
  }

  /** Counts one more user of a topic, and opens it for the first. To be given back by `release`. */
  acquire(name: string, definition: RunningTopic, params: Record<string, string>): OpenTopic {
    let topic = this.#open.get(name);
    if (topic === undefined) {
      const feed = new Feed({
        broker: this.broker,
        hub: this.#hub,
        name,
        key: this.#keyOf(name),
        native: `${RESERVED_TOPIC}${this.#keyOf(name)}`,
        history: definition.contract.history !== undefined,
        find: this.#find,
      });
      const roster = definition.presence
        ? new Roster(feed, this.broker, this.#presenceKeyOf(name), {
            max: definition.presence.max,
            leaseMs: Topics.pollMs * LEASED_POLLS,
          })
        : undefined;
      topic = { feed, roster, definition, params };
      this.#open.set(name, topic);
      this.#poller ??= setInterval(() => void this.poll(), Topics.pollMs).unref();
    }
    topic.feed.users++;
    return topic;
  }

  async release(topic: OpenTopic): Promise<void> {
    const { feed, roster } = topic;
    if (--feed.users > 0) return;
    this.#drop(topic);
    await Promise.all([feed.end(), roster?.end()]);
  }

  /** A topic whose feed never came to life is not kept: the next one tries anew. */
  abandon(topic: OpenTopic): void {
    if (this.#open.get(topic.feed.name) === topic) this.#open.delete(topic.feed.name);
  }

  /** Whether some topic of the contract has a history. */
  get haveHistory(): boolean {
    return [...this.#definitions.values()].some(({ contract }) => contract.history !== undefined);
  }

  /** Connections of this process that are present in some topic under this key. */
  presentAs(key: string): ServerWebSocket[] {
    return [...this.#open.values()].flatMap(({ feed, roster }) =>
      [...feed.subscribers].filter(({ ws }) => roster?.keyOf(ws.id) === key).map(({ ws }) => ws),
    );
  }

  /** Ends the subscriptions of a member's connections here. @returns whether there were any. */
  async kickMember(name: string, key: string, reason: string): Promise<boolean> {
    const { feed, roster } = this.#open.get(name) ?? {};
    const theirs = [...(feed?.subscribers ?? [])].filter(({ ws }) => roster?.keyOf(ws.id) === key);
    const kicked = await Promise.all(theirs.map((subscriber) => subscriber.kick(name, reason)));
    return kicked.includes(true);
  }

  /** The connection has gone. */
  forget(ws: ServerWebSocket): void {
    if (this.#excepted.size > 0) this.#excepted.delete(ws.id);
  }

  /**
   * Makes good what was missed, and renews what would end: every `pollMs`, and when the broker was away. Never rejects:
   * what could not be done is done by the next one, and `health` says why.
   */
  async poll(): Promise<void> {
    const topics = [...this.#open.values()];
    const compared = this.broker.shared ? this.#compare().catch(ifAway) : undefined;
    const rosters = this.broker.shared ? topics.flatMap(({ roster }) => roster ?? []) : [];
    // Not after the positions: one server of a cluster that is away must not end the leases on the others.
    for (let start = 0; start < rosters.length; start += POLLED_AT_ONCE)
      await Promise.all(rosters.slice(start, start + POLLED_AT_ONCE).map((roster) => roster.renew()));
    await compared;
    for (const { feed } of topics) if (feed.position !== feed.announced) feed.announce();
  }

  async #compare(): Promise<void> {
    const feeds = [...this.#open.values()].map(({ feed }) => feed).filter((feed) => feed.history);
    for (let start = 0; start < feeds.length; start += POLLED_AT_ONCE) {
      const some = feeds.slice(start, start + POLLED_AT_ONCE);
      const positions = await this.broker.positions(some.map(({ key }) => key));
      for (const [index, feed] of some.entries()) {
        const position = positions[index];
        if (position) feed.compare(position);
      }
    }
  }

  handle(template: string, params: Record<string, string> | undefined): TopicHandle<Topic, ServerWebSocket> {
    const definition = this.#definitions.get(template);
    if (definition === undefined)
      throw new TypeError(`The contract of ${this.#path} has no topic ${show(template)}.`);
    const name = topicName(template, params);
    // Once for each handle: brokers look it up with every publication.
    const key = this.#keyOf(name);
    return {
      name,
      publish: (data, options = NO_OPTIONS) => this.#publish(key, definition, data, options),
      history: (range) => this.#history(name, definition, range),
      members: async () => {
        const { members } = await this.broker.presence.list(this.#presenceKeyOf(name));
        return members.map(({ key, info }) => ({ key, info: JSON.parse(info) as never }));
      },
      subscribers: () => this.#open.get(name)?.feed.subscribers.size ?? 0,
    };
  }

  // Not async: that would wrap one more promise around the broker's.
  #publish(
    key: string,
    definition: RunningTopic,
    data: unknown,
    options: { idempotencyKey?: string; except?: ServerWebSocket },
  ): Promise<never> {
    try {
      checkPublishOptions(definition, options);
      const checked = validate(definition.contract.message, data);
      if (!(checked instanceof Promise)) return this.#send(key, definition, checked, options);
      // Its own copy: the caller may change them meanwhile, and they were checked.
      const given = { ...options };
      return checked.then((valid) => this.#send(key, definition, valid, given));
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #send(
    key: string,
    { template, contract }: RunningTopic,
    valid: Awaited<ReturnType<typeof validate>>,
    { idempotencyKey, except }: { idempotencyKey?: string; except?: ServerWebSocket },
  ): Promise<never> {
    const what = `publish to ${template}`;
    if (valid.issues) throw mismatch(`the message for ${template}`, valid.issues);
    const payload: string | undefined = JSON.stringify(valid.value);
    if (payload === undefined) throw new TypeError(`${what}: JSON cannot say ${show(valid.value)}.`);
    this.#refuseTooLarge(payload, what);
    if (except !== undefined && except.readyState === 1) this.#excepted.set(except.id, except);
    const { history } = contract;
    const position = this.broker.publish(key, payload, { history, idempotencyKey, except: except?.id });
    return position as Promise<never>; // of a Position exactly where the contract has a history
  }

  #refuseTooLarge(payload: string, what: string): void {
    const { maxPayloadLength, backpressureLimit } = this.#hub.settings.limits;
    const most = Math.min(maxPayloadLength, backpressureLimit) - FRAME_BYTES;
    if (payload.length * 3 <= most || Buffer.byteLength(payload) <= most) return;
    throw new RpcError(
      "TOO_LARGE",
      `${what}: the message has ${Buffer.byteLength(payload)} bytes; ${most} fit into one frame.`,
    );
  }

  async #history(
    name: string,
    { template, contract }: RunningTopic,
    range: HistoryRange,
  ): Promise<HistoryPage<never>> {
    const what = `history of ${template}`;
    if (contract.history === undefined) throw new TypeError(`${what}: the contract gives it none.`);
    const { messages, position, ...page } = await this.broker.read(
      this.#keyOf(name),
      checkRange(range, what),
      {
        ...HANDLE_PAGE,
        messages:
          checkCount("limit" in range ? range.limit : undefined, "limit", what) ?? HANDLE_PAGE.messages,
      },
    );
    return {
      ...position,
      ...page,
      messages: messages.map(({ offset, payload }) => ({ offset, data: JSON.parse(payload) as never })),
    };
  }

  #drop(topic: OpenTopic): void {
    this.abandon(topic);
    if (this.#open.size > 0) return;
    clearInterval(this.#poller);
    this.#poller = undefined;
  }

  #keyOf(name: string): string {
    return `t ${this.#path} ${name}`;
  }

  #presenceKeyOf(name: string): string {
    return `p ${this.#path} ${name}`;
  }
}

function checkRange(range: HistoryRange, what: string): Range {
  refuseUnknown(range, ["after", "before", "last", "limit"], what);
  if ("last" in range && range.last !== undefined) return { last: checkCount(range.last, "last", what)! };
  const { after, before } = range as { after?: Position; before?: Position };
  const position = after ?? before;
  if (position === undefined)
    throw new TypeError(`${what}: what to read is { after }, { before } or { last }, and none is given.`);
  if (!isPosition(position))
    throw new TypeError(`${what}: a position is { epoch, offset }, and this is ${show(position)}.`);
  return after === undefined ? { before: position } : { after: position };
}

export function isPosition(value: unknown): value is Position {
  if (typeof value !== "object" || value === null) return false;
  const { epoch, offset } = value as Partial<Position>;
  return typeof epoch === "string" && Number.isSafeInteger(offset) && offset! >= 0;
}

function checkPublishOptions(
  { template, contract }: RunningTopic,
  options: { idempotencyKey?: string; except?: ServerWebSocket },
): void {
  if (options === NO_OPTIONS) return;
  const what = `publish to ${template}`;
  refuseUnknown(options, ["idempotencyKey", "except"], what);
  const { idempotencyKey, except } = options;
  if (except !== undefined && typeof except.id !== "string")
    throw new TypeError(`${what}: "except" must be a connection, and is ${show(except)}.`);
  if (idempotencyKey !== undefined) {
    if (contract.history === undefined)
      throw new TypeError(`${what}: "idempotencyKey" needs a topic with "history".`);
    if (typeof idempotencyKey !== "string" || idempotencyKey === "" || idempotencyKey.length > 256)
      throw new TypeError(
        `${what}: "idempotencyKey" must be a string of 1 to 256 characters, and is ${show(idempotencyKey)}.`,
      );
  }
}
