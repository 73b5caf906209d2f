// What is published, as it comes in over pub/sub: connections of its own, on which nothing else is done, subscribed to
// each topic that somebody in this process listens to. They come back by themselves, and tell when something may have
// been missed.

import { closed, type Deliver, type Position, type Publication } from "./broker.js";
import { messageOf } from "./redis-commands.js";
import { type Deadline, isReply, toBrokerError } from "./redis-errors.js";
import { type Client, Link } from "./redis-link.js";
import type { Topology } from "./redis-topology.js";

/** Channels that are subscribed to with one command. */
const CHANNELS_AT_ONCE = 1_000;
const MOST_REDIRECTIONS = 8;

interface Listener {
  readonly deliver: Deliver;
  /** What comes before it is known where the topic stands. */
  held: Publication[] | undefined;
}

interface Channel {
  readonly listeners: Set<Listener>;
  /** The server at which it is subscribed; `undefined`: to be found anew. */
  owner: string | undefined;
}

export interface Heard {
  readonly position: Position | undefined;
  stop(): void;
}

export class RedisFeed {
  /** Something may have been missed, and all is live again. */
  reconnected?: () => void;
  /** A server was lost, or disowns a channel. */
  lost?: () => void;
  readonly #topology: Topology;
  readonly #deadline: Deadline;
  readonly #channels = new Map<string, Channel>();
  readonly #links = new Map<string, Link>();
  #closed = false;

  constructor(topology: Topology, deadline: Deadline) {
    this.#topology = topology;
    this.#deadline = deadline;
  }

  /**
   * Resolves when the feed is live.
   * @param read where the topic stands, read over the same connection: what is published later comes after that.
   */
  async subscribe(
    name: string,
    deliver: Deliver,
    read: ((client: Client) => Promise<Position>) | undefined,
    what: string,
  ): Promise<Heard> {
    const channel = this.#channels.get(name) ?? { listeners: new Set(), owner: undefined };
    const listener: Listener = { deliver, held: [] };
    this.#channels.set(name, channel);
    channel.listeners.add(listener);
    try {
      const live = async (): Promise<Position | undefined> => {
        const client = await this.#place(name, channel);
        return read?.(client);
      };
      const position = await this.#deadline.race(live(), what);
      if (this.#closed) throw closed();
      const held = listener.held!;
      listener.held = undefined;
      for (const publication of held) if (!isIn(publication, position)) deliver(publication);
      return { position, stop: () => this.#remove(name, channel, listener) };
    } catch (error) {
      this.#remove(name, channel, listener);
      throw this.#closed ? closed() : toBrokerError(error, what, this.#topology.description);
    }
  }

  /** Why not all channels are live; `undefined` if they are. */
  trouble(): string | undefined {
    for (const link of this.#links.values()) if (!link.client) return messageOf(link.error);
    for (const { owner } of this.#channels.values())
      if (owner === undefined) return "a topic's server is not known";
    return undefined;
  }

  /** Servers may own other channels now: goes where they are. */
  async follow(): Promise<void> {
    if (!this.#topology.cluster || this.#closed) return;
    const moved: Promise<unknown>[] = [];
    for (const [name, channel] of this.#channels) {
      const owner = this.#ownerOf(name);
      const old = channel.owner;
      if (owner === old) continue;
      const client = old === undefined ? undefined : this.#links.get(old)?.client;
      // It did not notice that it lost the channel, so it would not subscribe should that come back.
      if (client?.getPubSubListeners("SHARDED").has(name))
        this.#links.get(old!)?.reset(client, new Error("a channel has moved"));
      channel.owner = undefined;
      moved.push(this.#place(name, channel));
    }
    const used = new Set([...this.#channels.values()].map(({ owner }) => owner));
    for (const [owner, link] of this.#links) {
      if (used.has(owner) || moved.length > 0) continue;
      this.#links.delete(owner);
      void link.close(new Error("no topic needs it"));
    }
    if (moved.length === 0) return;
    const results = await Promise.allSettled(moved);
    if (!this.#closed && results.some(({ status }) => status === "fulfilled")) this.reconnected?.();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#channels.clear();
    await Promise.all([...this.#links.values()].map((link) => link.close(closed())));
  }

  /** Subscribes to a channel where it is now. Nothing is sent if it is subscribed already. */
  async #place(name: string, channel: Channel): Promise<Client> {
    for (let redirections = 0; ; redirections++) {
      const owner = this.#topology.ownerOf(name);
      const link = this.#link(owner);
      // From here on the connection subscribes to it whenever it comes back.
      channel.owner = owner;
      const client = await link.ready();
      try {
        await this.#listen(client, name);
        if (!this.#channels.has(name)) this.#leave(client, name);
        return client;
      } catch (error) {
        channel.owner = undefined;
        if (!isReply(error, "MOVED") || redirections === MOST_REDIRECTIONS) throw error;
        this.#topology.moved(name, (error as Error).message.split(" ")[2]!);
      }
    }
  }

  #link(owner: string): Link {
    let link = this.#links.get(owner);
    if (link === undefined) {
      link = new Link({
        make: () => this.#topology.make(owner),
        deadline: this.#deadline,
        prepare: (client) => this.#resubscribe(owner, client),
        again: () => this.reconnected?.(),
        down: () => this.lost?.(),
      });
      this.#links.set(owner, link);
    }
    return link;
  }

  async #resubscribe(owner: string, client: Client): Promise<void> {
    // node-redis' word for a slot that has moved on.
    client.on("sharded-channel-moved", (name: string) => {
      const channel = this.#channels.get(name);
      if (channel?.owner === owner) channel.owner = undefined;
      this.lost?.();
    });
    const names = [...this.#channels].flatMap(([name, channel]) => (channel.owner === owner ? name : []));
    if (this.#topology.cluster) {
      const disowned = async (name: string): Promise<void> => {
        const channel = this.#channels.get(name);
        if (channel?.owner === owner) channel.owner = undefined;
      };
      await Promise.all(names.map((name) => this.#listen(client, name).catch(() => disowned(name))));
    } else {
      for (let start = 0; start < names.length; start += CHANNELS_AT_ONCE)
        await client.subscribe(names.slice(start, start + CHANNELS_AT_ONCE), this.#hear);
    }
    for (const name of names) if (!this.#channels.has(name)) this.#leave(client, name);
  }

  #listen(client: Client, name: string): Promise<void> {
    return this.#topology.cluster ? client.sSubscribe(name, this.#hear) : client.subscribe(name, this.#hear);
  }

  #leave(client: Client, name: string): void {
    const left = this.#topology.cluster
      ? client.sUnsubscribe(name, this.#hear)
      : client.unsubscribe(name, this.#hear);
    // If the connection is lost meanwhile, so is the subscription.
    Promise.resolve(left).catch(() => {});
  }

  #remove(name: string, channel: Channel, listener: Listener): void {
    if (!channel.listeners.delete(listener) || channel.listeners.size > 0) return;
    if (this.#channels.get(name) !== channel) return;
    this.#channels.delete(name);
    const client = channel.owner === undefined ? undefined : this.#links.get(channel.owner)?.client;
    if (client?.isReady) this.#leave(client, name);
  }

  #ownerOf(name: string): string | undefined {
    try {
      return this.#topology.ownerOf(name);
    } catch {
      return undefined; // its slot has no owner right now
    }
  }

  readonly #hear = (message: string, name: string): void => {
    const channel = this.#channels.get(name);
    if (channel === undefined) return;
    const publication = decode(message);
    for (const listener of channel.listeners) {
      if (listener.held) listener.held.push(publication);
      else listener.deliver(publication);
    }
  };
}

/**
 * What follows the position in a message: `<epoch> <offset> <length of except, or -1>\n<except><payload>`. Without
 * history the epoch is `-`.
 */
export function header(except: string | undefined): string {
  return except === undefined ? " -1\n" : ` ${except.length}\n${except}`;
}

export function encode(payload: string, except: string | undefined): string {
  return `- 0${header(except)}${payload}`;
}

function decode(message: string): Publication {
  const space = message.indexOf(" ");
  const second = message.indexOf(" ", space + 1);
  const line = message.indexOf("\n", second);
  const epoch = message.slice(0, space);
  const length = Number(message.slice(second + 1, line));
  const start = line + 1;
  return {
    position: epoch === "-" ? undefined : { epoch, offset: Number(message.slice(space + 1, second)) },
    payload: message.slice(start + Math.max(0, length)),
    except: length < 0 ? undefined : message.slice(start, start + length),
  };
}

/** Whether it was there already at that position. */
function isIn({ position }: Publication, at: Position | undefined): boolean {
  return (
    position !== undefined && at !== undefined && position.epoch === at.epoch && position.offset <= at.offset
  );
}
