// One connection to Redis that is kept alive: it is checked, replaced when it is lost or has fallen silent, and tells
// when it is there.

import type { createClient } from "redis";
import type { Deadline } from "./redis-errors.js";
import { SCRIPTS } from "./redis-scripts.js";

/** A connection, as node-redis makes it. */
export type Client = ReturnType<typeof createClient>;

/** What node-redis is told for connections of ours: one connection, whose loss is ours to deal with. */
export const OURS = {
  RESP: 3,
  disableOfflineQueue: true,
  maintNotifications: "disabled",
  disableClientInfo: true,
  // Calls have a deadline of ours; one of node-redis' costs a timer each.
  commandOptions: { timeout: 0 },
} as const;

/** A connection that lived for less has failed too. */
const STABLE_MS = 1_000;
const LONGEST_WAIT_MS = 2_000;

export interface LinkOptions {
  /** A client for where the server is now, not connected. */
  make(): Promise<Client>;
  deadline: Deadline;
  /** Connected, and a primary: what has to be there before anybody uses it. */
  prepare?(client: Client): Promise<void>;
  /** There again; not called the first time. */
  again?(): void;
  /** Lost, or could not be had. */
  down?(error: unknown): void;
}

export class Link {
  readonly #options: LinkOptions;
  #client: Client | undefined;
  /** The attempt that is being made. */
  #attempt: Promise<Client> | undefined;
  #error: unknown = new Error("not connected yet");
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(options: LinkOptions) {
    this.#options = options;
    void this.#run();
  }

  /** The connection, if it is there right now. */
  get client(): Client | undefined {
    return this.#client;
  }

  /** Why it is not there. */
  get error(): unknown {
    return this.#error;
  }

  /** The connection; waits for an attempt that is being made, and for no other. */
  async ready(): Promise<Client> {
    if (this.#client) return this.#client;
    if (this.#attempt && !this.#closed) return this.#attempt;
    throw this.#error;
  }

  /** Gives up this connection for another one. */
  reset(client: Client, error: unknown): void {
    if (this.#client === client) this.#error = error;
    end(client);
  }

  /** Lets what is under way finish, for as long as `timeout`. */
  async close(error: unknown): Promise<void> {
    this.#closed = true;
    this.#error = error;
    this.#wake?.();
    const client = this.#client;
    if (!client?.isOpen) return;
    await this.#options.deadline.race(client.close(), "closing").catch(() => end(client));
  }

  async #run(): Promise<void> {
    let before = false;
    for (let failures = 0; !this.#closed;) {
      const since = performance.now();
      try {
        this.#attempt = this.#connect();
        this.#attempt.catch(() => {}); // it is awaited right here, and by whoever needs it
        const client = await this.#attempt;
        if (before) this.#options.again?.();
        before = true;
        await this.#watch(client);
      } catch (error) {
        if (!this.#closed) this.#error = error;
      }
      this.#client = this.#attempt = undefined;
      if (this.#closed) return;
      this.#options.down?.(this.#error);
      failures = performance.now() - since > STABLE_MS ? 0 : failures + 1;
      // The first attempt after a loss is made at once.
      if (failures > 0) await this.#sleep(Math.random() * Math.min(LONGEST_WAIT_MS, 50 * 2 ** failures));
    }
  }

  async #connect(): Promise<Client> {
    const { make, deadline, prepare } = this.#options;
    const client = await deadline.race(make(), "finding the server");
    try {
      if (this.#closed) throw this.#error;
      await deadline.race(open(client), "connecting");
      await deadline.race(check(client), "connecting");
      if (prepare) await deadline.race(prepare(client), "subscribing");
      if (this.#closed) throw this.#error;
      if (!client.isReady) throw new Error("the connection was lost at once");
      this.#client = client;
      return client;
    } catch (error) {
      end(client);
      throw error;
    }
  }

  /** Settles when the connection is lost. A server that is silent for longer than `timeout` is lost as well. */
  #watch(client: Client): Promise<void> {
    const { deadline } = this.#options;
    return new Promise((resolve) => {
      let asking = false;
      const timer = setInterval(() => {
        if (asking) return;
        asking = true;
        deadline
          .race(check(client), "answering a ping")
          .catch((error) => this.reset(client, error))
          .finally(() => (asking = false));
      }, deadline.timeout / 2);
      const lost = (error?: unknown): void => {
        if (error !== undefined && !this.#closed) this.#error = error;
        clearInterval(timer);
        end(client);
        resolve();
      };
      client.on("error", lost).once("end", () => lost());
      if (!client.isReady) lost(new Error("the connection was lost at once"));
    });
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Closes a connection at once, whatever became of it already: node-redis 5 throws if it is closed. */
export function end(client: Client): void {
  try {
    client.destroy();
  } catch {}
}

/** Connects, and loads the scripts: whatever is sent afterwards finds them. */
export async function open(client: Client): Promise<void> {
  await client.connect();
  for (const { source } of SCRIPTS) client.sendCommand(["EVAL", source, "0"]).catch(() => {});
}

/** Throws unless the server answers, is a primary, and has read its data. */
async function check(client: Client): Promise<void> {
  const [replication, persistence] = await Promise.all([
    client.sendCommand(["INFO", "replication"]),
    client.sendCommand(["INFO", "persistence"]),
  ]);
  if (!String(replication).includes("role:master"))
    throw new Error("READONLY it is a replica, not the primary");
  if (String(persistence).includes("\nloading:1"))
    throw new Error("LOADING Redis is loading the dataset in memory");
}
