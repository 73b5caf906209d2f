// Where the keys live: one server, the primary that sentinels name, or the nodes of a cluster, slot by slot.

import { createClient, type RedisClientOptions } from "redis";
import { type Client, end, OURS } from "./redis-link.js";
import type { RedisOptions } from "./redis.js";

export interface Topology {
  /** For messages; without user and password. */
  readonly description: string;
  /** Keys are spread over several servers; pub/sub is sharded. */
  readonly cluster: boolean;
  /** The server that has a key, by a name for `make`. Throws while nobody is known to. */
  ownerOf(key: string): string;
  /** All of them. */
  owners(): ReadonlySet<string>;
  /** A client, not connected, for a server: where that is now. */
  make(owner: string): Promise<Client>;
  /** Learns who owns what, from a client that is connected if there is one. */
  refresh(clients: Iterable<Client>): Promise<void>;
  /** A server said that another one owns this key. */
  moved(key: string, owner: string): void;
}

/** What an error says while it is nobody's concern: a client without a listener would end the process. */
const ignore = (): void => {};

/** @param timeout ms that `make` and `refresh` are given: none of the servers that they ask may use it up. */
export function topologyOf(options: RedisOptions, timeout: number): Topology {
  const { client, cluster, sentinel, url, connection } = options;
  if (client) return new Single(describe(client.options?.url, client.options), async () => duplicate(client));
  if (cluster) return new Cluster(cluster, connection, timeout);
  if (sentinel) {
    const { name, nodes } = sentinel;
    const description = `the Redis primary "${name}" of the sentinels at ${nodes.map((node) => describeUrl(node)).join(", ")}`;
    return new Single(description, async () => {
      const { host, port } = await askSentinels(name, nodes, connection, timeout);
      return newClient({ ...connection, socket: { ...connection?.socket, host, port } as never });
    });
  }
  return new Single(describe(url, connection), async () => newClient({ ...connection, ...(url && { url }) }));
}

const THE_ONE: ReadonlySet<string> = new Set([""]);

class Single implements Topology {
  readonly cluster = false;

  constructor(
    readonly description: string,
    readonly make: () => Promise<Client>,
  ) {}

  ownerOf(): string {
    return "";
  }

  owners(): ReadonlySet<string> {
    return THE_ONE;
  }

  async refresh(): Promise<void> {}

  moved(): void {}
}

class Cluster implements Topology {
  readonly cluster = true;
  readonly description: string;
  readonly #seeds: readonly string[];
  readonly #connection: RedisClientOptions | undefined;
  /** The owner of each slot, as `host:port`; empty before the first `refresh`. */
  #slots: string[] = [];
  #owners: ReadonlySet<string> = new Set();
  #refreshing: Promise<void> | undefined;

  readonly #timeout: number;

  constructor(seeds: readonly string[], connection: RedisClientOptions | undefined, timeout: number) {
    this.#seeds = seeds;
    this.#timeout = timeout;
    this.#connection = connection;
    this.description = `the Redis Cluster of ${seeds.map((seed) => describeUrl(seed)).join(", ")}`;
  }

  ownerOf(key: string): string {
    const owner = this.#slots[slotOf(key)];
    if (owner === undefined) throw new Error("CLUSTERDOWN no server is known to have this slot");
    return owner;
  }

  owners(): ReadonlySet<string> {
    return this.#owners;
  }

  /** Whatever the seeds say beside their address (user, password, TLS) is so for every node. */
  async make(owner: string): Promise<Client> {
    const url = new URL(this.#seeds[0]!);
    const colon = owner.lastIndexOf(":");
    const host = owner.slice(0, colon);
    url.hostname = host.includes(":") ? `[${host}]` : host;
    url.port = owner.slice(colon + 1);
    return newClient({ ...this.#connection, url: url.href });
  }

  moved(key: string, owner: string): void {
    this.#slots[slotOf(key)] = owner;
  }

  refresh(clients: Iterable<Client>): Promise<void> {
    this.#refreshing ??= this.#refresh([...clients]).finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  async #refresh(clients: readonly Client[]): Promise<void> {
    let failure: unknown = new Error("no node is known");
    const share = this.#timeout / (clients.length + this.#seeds.length + 1);
    const question = ["CLUSTER", "SLOTS"];
    for (const client of clients) {
      try {
        return this.#learn(await within(client.sendCommand(question), share), client);
      } catch (error) {
        failure = error;
      }
    }
    for (const seed of this.#seeds) {
      const client = newClient({ ...this.#connection, url: seed });
      try {
        return this.#learn(await within(ask(client, question), share), client);
      } catch (error) {
        failure = error;
      } finally {
        end(client);
      }
    }
    throw failure;
  }

  #learn(reply: unknown, { options }: Client): void {
    const slots: string[] = [];
    const socket = options?.socket as { host?: string } | undefined;
    // From Redis' documentation of CLUSTER SLOTS: [from, to, [host, port, …] of the primary, … of the replicas].
    for (const [from, to, [host, port]] of reply as [number, number, [string | null, number]][]) {
      // It may not know how it is reached: then it is as we reached it.
      const owner = `${host && host !== "?" ? host : (socket?.host ?? "127.0.0.1")}:${port}`;
      for (let slot = from; slot <= to; slot++) slots[slot] = owner;
    }
    if (slots.length === 0) throw new Error("CLUSTERDOWN no slots are assigned");
    this.#slots = slots;
    this.#owners = new Set(slots.filter((owner) => owner !== undefined));
  }
}

/** The primary's address: https://redis.io/docs/latest/develop/reference/sentinel-clients/. */
async function askSentinels(
  name: string,
  nodes: readonly string[],
  connection: RedisClientOptions | undefined,
  timeout: number,
): Promise<{ host: string; port: number }> {
  let failure: unknown = new Error("no sentinel was given");
  for (const url of nodes) {
    const tls = url.startsWith("rediss:") ? connection?.socket : undefined;
    const client = newClient({ url, ...(tls && { socket: { ...tls } as never }) });
    try {
      const question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name];
      const address = await within(ask(client, question), timeout / (nodes.length + 1));
      if (!Array.isArray(address)) throw new Error(`the sentinel knows no primary named "${name}"`);
      return { host: String(address[0]), port: Number(address[1]) };
    } catch (error) {
      failure = error;
    } finally {
      end(client);
    }
  }
  throw failure;
}

async function ask(client: Client, question: readonly string[]): Promise<unknown> {
  await client.connect();
  return client.sendCommand(question);
}

/** Rejects after so many ms: the next server may answer. */
async function within<T>(answer: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${Math.round(ms)} ms`)), ms);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

function newClient(options: RedisClientOptions): Client {
  // node-redis writes into what it is given.
  const { socket, ...rest } = options;
  const client = createClient({
    ...rest,
    ...OURS,
    socket: { connectTimeout: 5_000, ...socket, reconnectStrategy: false } as never, // its kind is the caller's choice
  } as RedisClientOptions) as unknown as Client; // the modules' types, which nobody uses, differ
  return client.on("error", ignore);
}

function duplicate(client: NonNullable<RedisOptions["client"]>): Client {
  const { socket } = client.options ?? {};
  const copy = client.duplicate({ ...OURS, socket: { ...(socket as object), reconnectStrategy: false } });
  return (copy as Client).on("error", ignore); // what `createClient` returned duplicates into its like
}

/** Where a client goes, without user and password. */
function describe(url: string | undefined, options: RedisClientOptions | undefined): string {
  if (url !== undefined) return `Redis at ${describeUrl(url)}`;
  const { host = "localhost", port = 6379, path } = (options?.socket ?? {}) as Record<string, unknown>;
  return `Redis at ${String(path ?? `${String(host)}:${String(port)}`)}`;
}

function describeUrl(url: string): string {
  const { host, pathname, protocol } = new URL(url.replace(/^unix:\/\/[^/]*/, "unix://"));
  return protocol === "unix:" ? pathname : host || "localhost:6379";
}

/** CRC16 (XMODEM) of the hash tag, of 16,384: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/. */
export function slotOf(key: string): number {
  const open = key.indexOf("{");
  const close = open < 0 ? -1 : key.indexOf("}", open + 1);
  const bytes = Buffer.from(close > open + 1 ? key.slice(open + 1, close) : key);
  let crc = 0;
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ CRC16[((crc >> 8) ^ byte) & 0xff]!;
  return crc & 16_383;
}

const CRC16 = Uint16Array.from({ length: 256 }, (_, index) => {
  let crc = index << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc & 0xffff;
});
