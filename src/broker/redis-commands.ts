// Runs scripts and commands where their key lives, over one connection to each server: what is called in one tick
// travels as one pipeline.

import { closed } from "./broker.js";
import { type Deadline, isReply, toBrokerError } from "./redis-errors.js";
import { type Client, Link } from "./redis-link.js";
import { type Script, SCRIPTS } from "./redis-scripts.js";
import type { Topology } from "./redis-topology.js";
import type { RedisClient } from "./redis.js";

const MOST_REDIRECTIONS = 8;
const TRY_AGAIN_MS = 50;
/** For a client of the user's own, which may have others as its defaults. */
const PLAIN = { typeMapping: {}, timeout: 0 };

export class Commands {
  /** The servers, or what they own, may have changed. */
  changed?: () => void;
  /** A server that was away can be asked again. */
  reconnected?: () => void;
  readonly #topology: Topology;
  readonly #deadline: Deadline;
  readonly #given: RedisClient | undefined;
  readonly #links = new Map<string, Link>();
  #following: Promise<void> | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #error: unknown;
  #closed = false;
  readonly #ready = (): void => {
    this.#load();
    this.reconnected?.();
  };

  constructor(topology: Topology, deadline: Deadline, given: RedisClient | undefined) {
    this.#topology = topology;
    this.#deadline = deadline;
    this.#given = given;
    if (given) {
      given.on("ready", this.#ready);
      if (given.isReady) this.#load();
      return;
    }
    void this.follow();
    if (topology.cluster) this.#timer = setInterval(() => void this.follow(), deadline.timeout);
  }

  /** Runs a script where its first key lives. @param what for messages: "publish to …". */
  run(script: Script, keys: readonly string[], args: readonly string[], what: string): Promise<unknown> {
    return this.#call(keys[0]!, ["EVALSHA", script.sha, String(keys.length), ...keys, ...args], what, script);
  }

  send(key: string, command: readonly string[], what: string): Promise<unknown> {
    return this.#call(key, command, what, undefined);
  }

  /** Resolves when it is known who owns which key. */
  async known(): Promise<void> {
    if (this.#topology.owners().size > 0) return;
    await this.follow();
    if (this.#error !== undefined) throw toBrokerError(this.#error, "connect", this.#topology.description);
  }

  /** Why not everything can be reached; `undefined` if it can. */
  trouble(): string | undefined {
    if (this.#given)
      return this.#given.isReady ? undefined : "the client that was passed in is not connected";
    if (this.#error !== undefined) return messageOf(this.#error);
    for (const link of this.#links.values()) if (!link.client) return messageOf(link.error);
    return this.#links.size > 0 ? undefined : "not connected yet";
  }

  /** Finds out which servers there are, and keeps a connection to each. */
  follow(): Promise<void> {
    this.#following ??= this.#follow().finally(() => (this.#following = undefined));
    return this.#following;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#given?.off("ready", this.#ready);
    await Promise.all([...this.#links.values()].map((link) => link.close(closed())));
  }

  async #follow(): Promise<void> {
    const clients = [...this.#links.values()].flatMap(({ client }) => client ?? []);
    try {
      await this.#deadline.race(this.#topology.refresh(clients), "asking who owns which slot");
      this.#error = undefined;
    } catch (error) {
      this.#error = error;
      return;
    }
    if (this.#closed) return;
    const owners = this.#topology.owners();
    for (const owner of owners) this.#link(owner);
    for (const [owner, link] of this.#links) {
      if (owners.has(owner) || link.client) continue;
      this.#links.delete(owner);
      void link.close(new Error("it has left the cluster"));
    }
    this.changed?.();
  }

  #load(): void {
    for (const { source } of SCRIPTS) this.#given!.sendCommand(["EVAL", source, "0"]).catch(() => {});
  }

  #link(owner: string): Link {
    let link = this.#links.get(owner);
    if (link === undefined) {
      link = new Link({
        make: () => this.#topology.make(owner),
        deadline: this.#deadline,
        again: () => this.reconnected?.(),
        down: () => {
          if (this.#topology.cluster && !this.#closed) void this.follow();
        },
      });
      this.#links.set(owner, link);
    }
    return link;
  }

  #call(key: string, command: readonly string[], what: string, script: Script | undefined): Promise<unknown> {
    if (this.#closed) return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      const explain = (error: unknown): void =>
        reject(this.#closed ? closed() : toBrokerError(error, what, this.#topology.description));
      const pending = this.#deadline.hold(what, resolve, explain);
      const done = (value: unknown): void => pending.done(value);
      const failed = (error: unknown): void => pending.failed(error);
      const client = this.#clientOf(key);
      if (client === undefined) {
        this.#route(key, command, script).then(done, failed);
        return;
      }
      client
        .sendCommand(command, PLAIN)
        .then(done, (error) => this.#recover(key, command, script, client, error).then(done, failed));
    });
  }

  /** The connection for a key, if it is there: then nothing has to be awaited. */
  #clientOf(key: string): Sender | undefined {
    if (this.#given) return this.#given.isReady ? this.#given : undefined;
    if (this.#topology.owners().size === 0) return undefined;
    try {
      return this.#links.get(this.#topology.ownerOf(key))?.client;
    } catch {
      return undefined; // the slot has no owner: `#route` says so
    }
  }

  async #route(key: string, command: readonly string[], script: Script | undefined): Promise<unknown> {
    if (this.#given) throw new Error("the client that was passed in is not connected: call its connect()");
    await this.known();
    const client = await this.#link(this.#topology.ownerOf(key)).ready();
    return client.sendCommand(command).catch((error) => this.#recover(key, command, script, client, error));
  }

  /** Does what the error asks for (the script's source, another server, some patience), or throws it. */
  async #recover(
    key: string,
    command: readonly string[],
    script: Script | undefined,
    client: Sender,
    error: unknown,
  ): Promise<unknown> {
    for (let redirections = 0; ; redirections++) {
      const [kind, , owner] = messageOf(error).split(" ");
      let asking = false;
      if (kind === "NOSCRIPT" && script && command[0] === "EVALSHA") {
        command = ["EVAL", script.source, ...command.slice(2)];
      } else if (this.#given) {
        throw error;
      } else if (isReply(error, "READONLY")) {
        for (const link of this.#links.values()) if (link.client === client) link.reset(link.client, error);
        throw error;
      } else if (!this.#topology.cluster || redirections === MOST_REDIRECTIONS) {
        throw error;
      } else if (kind === "MOVED") {
        this.#topology.moved(key, owner!);
        void this.follow();
        client = await this.#link(owner!).ready();
      } else if (kind === "ASK") {
        client = await this.#link(owner!).ready();
        asking = true;
      } else if (kind === "TRYAGAIN") {
        await Bun.sleep(TRY_AGAIN_MS);
      } else {
        throw error;
      }
      try {
        // Both leave in one tick, one behind the other.
        if (asking) client.sendCommand(["ASKING"]).catch(() => {});
        return await client.sendCommand(command, PLAIN);
      } catch (again) {
        error = again;
      }
    }
  }
}

/** What a command is sent over. */
type Sender = Pick<RedisClient, "sendCommand">;

/** Runs a script on one connection: by its hash, or by its source where the server has forgotten it. */
export async function evaluate(
  client: Client,
  { sha, source }: Script,
  keys: readonly string[],
  args: readonly string[],
): Promise<unknown> {
  const rest = [String(keys.length), ...keys, ...args];
  try {
    return await client.sendCommand(["EVALSHA", sha, ...rest]);
  } catch (error) {
    if (!isReply(error, "NOSCRIPT")) throw error;
    return client.sendCommand(["EVAL", source, ...rest]);
  }
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
