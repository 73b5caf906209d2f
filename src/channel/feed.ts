// One topic on this process, while anybody here is subscribed: what the broker delivers goes to the native fan-out, in
// offset order. A hole in what is delivered is read from the log before anybody sees what comes after it.

import {
  type Broker,
  BrokerError,
  type Position,
  type Publication,
  type Subscription,
} from "../broker/broker.js";
import { encodeNotification } from "../contract/frames.js";
import type { Hub } from "../server/connections.js";
import type { ServerWebSocket } from "../server/socket.js";

/** Read at a time when healing. */
export const HEALING = { messages: 1_000, bytes: 1024 * 1024 };
/** Publications that wait for a hole to be healed; what comes beyond is read from the log as well. */
const MOST_QUEUED = 1_000;
const NO_PREFIX = { epoch: "", text: "" };
const RETRY_MS = 500;

/** A connection that is subscribed, as a feed sees it. */
export interface Subscriber {
  readonly ws: ServerWebSocket;
  /** A publication was dropped for want of room: it is to be told where the topics stand when it has caught up. */
  fellBehind(): void;
  /** Sends what may not be dropped. */
  send(text: string): void;
  /** Ends its subscription to a topic. @returns whether there was one. */
  kick(topic: string, reason: string): Promise<boolean>;
}

export interface FeedOptions {
  broker: Broker;
  hub: Hub;
  /** On the wire. */
  name: string;
  /** In the broker. */
  key: string;
  /** In Bun. */
  native: string;
  history: boolean;
  /** Finds the connection, if it is one of this process. */
  find(connection: string): ServerWebSocket | undefined;
}

export class Feed {
  readonly name: string;
  readonly key: string;
  readonly native: string;
  readonly history: boolean;
  readonly subscribers = new Set<Subscriber>();
  /** Subscribers, and those that are about to be. */
  users = 0;
  /** Resolves when the broker delivers to us. */
  readonly ready: Promise<void>;
  /** Where it stood when its subscribers were last told. */
  announced: Position | undefined;
  readonly #broker: Broker;
  readonly #hub: Hub;
  readonly #find: FeedOptions["find"];
  /** Up to where everything has been handed to the native fan-out. */
  #position: Position | undefined;
  #subscription: Subscription | undefined;
  #queue: Publication[] = [];
  /** Something could not wait with the others: it is in the log alone. */
  #overflowed = false;
  #healing = false;
  #ended = false;
  #prefix = NO_PREFIX;

  constructor({ broker, hub, name, key, native, history, find }: FeedOptions) {
    this.#broker = broker;
    this.#hub = hub;
    this.#find = find;
    this.name = name;
    this.key = key;
    this.native = native;
    this.history = history;
    this.ready = this.#start();
    this.ready.catch(() => {}); // who waits for it hears of it
  }

  get position(): Position | undefined {
    return this.#position;
  }

  /** The broker knows the topic at this position: reads what we miss, if we miss any. */
  compare(position: Position): void {
    const mine = this.#position;
    if (mine === undefined || this.#healing) return;
    if (position.epoch === mine.epoch && position.offset <= mine.offset) return;
    void this.#heal();
  }

  /** Tells all subscribers where the topic stands: how a silent tail is found. */
  announce(): void {
    const position = this.#position;
    if (position === undefined || this.#ended) return;
    this.announced = position;
    this.#fanOut(positionFrame([{ topic: this.name, ...position }]), undefined);
  }

  /** Sends a text to all subscribers but one. */
  fanOut(text: string): void {
    this.#fanOut(text, undefined);
  }

  async end(): Promise<void> {
    this.#ended = true;
    this.#queue = [];
    await this.ready.catch(() => {});
    // A broker that is away has forgotten us by itself.
    await this.#subscription?.unsubscribe().catch(() => {});
  }

  async #start(): Promise<void> {
    const deliver = (publication: Publication): void => this.#deliver(publication);
    const subscription = await this.#broker.subscribe(this.key, deliver, { history: this.history });
    this.#subscription = subscription;
    this.#position = this.announced = subscription.position;
    this.#handQueue();
    if (this.#queue.length > 0 || this.#overflowed) void this.#heal();
  }

  #deliver(publication: Publication): void {
    if (this.#ended) return;
    const { position } = publication;
    if (position === undefined) return this.#hand(publication);
    const mine = this.#position;
    if (mine !== undefined && !this.#healing) {
      if (position.epoch === mine.epoch && position.offset <= mine.offset) return;
      if (isNext(position, mine)) return this.#hand(publication);
    }
    if (this.#queue.length < MOST_QUEUED) this.#queue.push(publication);
    else this.#overflowed = true;
    if (mine !== undefined && !this.#healing) void this.#heal();
  }

  /** Reads from the log until nothing is missing before what waits. One at a time. */
  async #heal(): Promise<void> {
    this.#healing = true;
    try {
      while (!this.#ended) {
        const waiting = this.#queue.length;
        this.#overflowed = false;
        const mine = this.#position!;
        const page = await this.#read(mine);
        if (page === undefined) return;
        if (page.recovered) {
          for (const { offset, payload } of page.messages)
            this.#hand({ position: { epoch: mine.epoch, offset }, payload, except: undefined });
          if (!page.complete) continue;
        } else {
          // The past is gone, or was of another epoch: who needs it asks, and is told what can still be had.
          this.#position = page.position;
          this.announce();
        }
        // What waited when we asked is older than the answer; what came since may be newer.
        const newer = this.#queue.slice(waiting);
        this.#queue = this.#queue.slice(0, waiting).filter(({ position }) => this.#isAhead(position!));
        this.#queue.push(...newer);
        this.#handQueue();
        if (this.#queue.length === 0 && !this.#overflowed) return;
      }
    } finally {
      this.#healing = false;
    }
  }

  /** Hands over what waits, as far as nothing is missing. */
  #handQueue(): void {
    let taken = 0;
    for (const publication of this.#queue) {
      const { position } = publication;
      const mine = this.#position!;
      if (isNext(position!, mine)) this.#hand(publication);
      else if (position!.epoch !== mine.epoch || position!.offset > mine.offset) break;
      taken++;
    }
    this.#queue = this.#queue.slice(taken);
  }

  #isAhead(position: Position): boolean {
    return position.epoch === this.#position!.epoch && position.offset > this.#position!.offset;
  }

  /** A page after a position; tries again for as long as the broker is away. */
  async #read(after: Position) {
    while (!this.#ended) {
      try {
        return await this.#broker.read(this.key, { after }, HEALING);
      } catch (error) {
        if (!(error instanceof BrokerError) || error.code === "BROKER_CLOSED") return undefined;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    return undefined;
  }

  #hand({ position, payload, except }: Publication): void {
    if (position !== undefined) this.#position = position;
    if (this.subscribers.size === 0) return;
    const head =
      position === undefined ? this.#plainPrefix() : `${this.#prefixOf(position.epoch)}${position.offset}`;
    const left = except === undefined ? undefined : this.#find(except);
    this.#fanOut(`${head},"data":${payload}}}`, left);
    if (left === undefined || position === undefined) return;
    // It is not to have the publication, but must not miss its number either.
    for (const subscriber of this.subscribers) if (subscriber.ws === left) subscriber.send(`${head}}}`);
  }

  #fanOut(text: string, except: ServerWebSocket | undefined): void {
    const { server, settings } = this.#hub;
    const compress = settings.limits.perMessageDeflate;
    const sent =
      except?.readyState === 1 && except.raw.isSubscribed(this.native)
        ? except.raw.publish(this.native, text, compress)
        : (server?.publish(this.native, text, compress) ?? 0);
    // Bun tells what became of the worst of them, not which one it was: those whose buffer is not empty.
    if (sent !== 0) return;
    for (const subscriber of this.subscribers)
      if (subscriber.ws !== except && subscriber.ws.bufferedAmount > 0) subscriber.fellBehind();
  }

  #prefixOf(epoch: string): string {
    if (this.#prefix.epoch === epoch) return this.#prefix.text;
    const text = `{"jsonrpc":"2.0","method":"$/message","params":{"topic":${JSON.stringify(this.name)},"epoch":${JSON.stringify(epoch)},"offset":`;
    this.#prefix = { epoch, text };
    return text;
  }

  #plainPrefix(): string {
    return `{"jsonrpc":"2.0","method":"$/message","params":{"topic":${JSON.stringify(this.name)}`;
  }
}

/** A `$/position`. `dropped`: its reader may have missed some. */
export function positionFrame(topics: readonly object[], dropped?: true): string {
  return encodeNotification("$/position", dropped ? { topics, dropped } : { topics });
}

function isNext(position: Position, mine: Position): boolean {
  return position.epoch === mine.epoch && position.offset === mine.offset + 1;
}
