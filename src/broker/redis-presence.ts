// Who is where, in Redis: each call is one script, by Redis' clock, so every process sees the same.

import type { Member, Presence } from "./broker.js";
import type { Commands } from "./redis-commands.js";
import { type Keys, LIST, PUT, REMOVE } from "./redis-scripts.js";

export class RedisPresence implements Presence {
  readonly #commands: Commands;
  readonly #keys: (topic: string) => Keys;

  constructor(commands: Commands, keys: (topic: string) => Keys) {
    this.#commands = commands;
    this.#keys = keys;
  }

  async put(
    topic: string,
    key: string,
    owner: string,
    info: string,
    leaseMs: number,
  ): Promise<{ appeared: boolean }> {
    const lease = String(Math.max(1, Math.round(leaseMs)));
    const reply = await this.#commands.run(
      PUT,
      [this.#keys(topic).presence],
      [key, owner, info, lease],
      `be present in ${topic}`,
    );
    return { appeared: reply === 1 };
  }

  async remove(topic: string, key: string, owner: string): Promise<{ vanished: boolean }> {
    const keys = [this.#keys(topic).presence];
    const reply = await this.#commands.run(REMOVE, keys, [key, owner], `leave ${topic}`);
    return { vanished: reply === 1 };
  }

  async list(topic: string): Promise<Member[]> {
    const keys = [this.#keys(topic).presence];
    const reply = await this.#commands.run(LIST, keys, [], `list who is in ${topic}`);
    const words = reply as string[]; // as the script returns it
    const members: Member[] = [];
    for (let i = 0; i < words.length; i += 2) members.push({ key: words[i]!, info: words[i + 1]! });
    return members;
  }
}
