// Who is where, in Redis: each call is one script, by Redis' clock, so every process sees the same.

import type { Member, Members, Presence } from "./broker.js";
import { changeHead } from "./presence.js";
import type { Commands } from "./redis-commands.js";
import { encode } from "./redis-feed.js";
import { type Keys, LIST, PUT, REMOVE } from "./redis-scripts.js";

export interface RedisPresenceOptions {
  commands: Commands;
  keys(topic: string): Keys;
  /** `PUBLISH` or `SPUBLISH`. */
  publish: string;
  /** `1`, or `0`: then the replication id must be known. */
  durable: string;
}

export class RedisPresence implements Presence {
  readonly #options: RedisPresenceOptions;

  constructor(options: RedisPresenceOptions) {
    this.#options = options;
  }

  async put(
    topic: string,
    key: string,
    owner: string,
    info: string,
    leaseMs: number,
  ): Promise<{ appeared: boolean }> {
    const { commands, keys, publish } = this.#options;
    const { presence, channel } = keys(topic);
    const lease = String(Math.max(1, Math.round(leaseMs)));
    const reply = await commands.run(
      PUT,
      [presence],
      [key, owner, info, lease, publish, channel, headOf(key)],
      `be present in ${topic}`,
    );
    return { appeared: reply === 1 };
  }

  async remove(topic: string, key: string, owner: string): Promise<{ vanished: boolean }> {
    const { commands, keys, publish } = this.#options;
    const { presence, channel } = keys(topic);
    const reply = await commands.run(
      REMOVE,
      [presence],
      [key, owner, publish, channel, headOf(key)],
      `leave ${topic}`,
    );
    return { vanished: reply === 1 };
  }

  async list(topic: string): Promise<Members> {
    const { commands, keys, durable } = this.#options;
    const reply = await commands.run(LIST, [keys(topic).presence], [durable], `list who is in ${topic}`);
    const words = reply as string[]; // as the script returns it
    const members: Member[] = [];
    for (let i = 1; i < words.length; i += 2) members.push({ key: words[i]!, info: words[i + 1]! });
    return { members, epoch: words[0]! };
  }
}

/** What a change is published as, up to the info. */
function headOf(key: string): string {
  return encode(changeHead(key), undefined);
}
