// A rolling restart, as an operator does it: three processes behind haproxy get SIGTERM and are started again, one after
// the other, while servers and clients publish on and on. Everything that anybody was handed or told is compared.

import { type Client, connect, type RpcError, type Subscription } from "harpia/client";
import { holdsWithin } from "../support/app.js";
import { isReady, startBalancer, steadyPorts } from "./balancer.js";
import { Cluster, type Node } from "./machines.js";
import type { Published } from "./node.js";
import { rooms } from "./room.js";

export interface RollingOptions {
  clients: number;
  /** Clients are in one room each. */
  rooms: number;
  /** Publications per second and process. */
  ofServers: number;
  /** Publications per second of all clients. */
  ofClients: number;
  /** Clients come back at once, not spread over ten seconds. */
  hurry?: boolean;
}

/** What became of one process. */
export interface Restarted {
  /** Clients that it had. */
  clients: number;
  /** Seconds from SIGTERM until it had stopped; until it was ready again; until all its clients were live again. */
  stopped: number;
  ready: number;
  back: number;
}

export interface Rolled {
  /** Empty if topics kept what they promise. */
  wrong: string[];
  /** From the first SIGTERM until the last client was live again. */
  seconds: number;
  restarts: Restarted[];
  counts: {
    /** Publications in the topics' logs, and those of them that were handed to clients. */
    published: number;
    delivered: number;
    /** Calls that broke with their connection: `CONNECTION_LOST`. And those of them that had been published. */
    lostCalls: number;
    lostButPublished: number;
    /** What a server published when it had stopped: `BROKER_CLOSED`. */
    afterStop: number;
    refusedHandshakes: number;
    reconnects: number;
  };
  /** Handshakes while it rolled. */
  peak: { secondOfAll: number; secondOfOne: number; tenthOfAll: number };
}

const AT_ONCE = 100;
const PATIENCE_MS = 60_000;
const MOST_WAITING = 200;
/** Each process' ids of its own, and the clients'. */
const IDS = 10_000_000;

/** What is in a room's log, as far as anybody has said. Offset → id, and back. */
interface Log {
  name: string;
  ids: number[];
  offsets: Map<number, number>;
  epoch: string | undefined;
}

interface Reader {
  who: string;
  log: Log;
  client: Client<typeof rooms>;
  subscription: Subscription<{ id: number }, { name: string }>;
  offset: number;
}

export async function roll(options: RollingOptions): Promise<Rolled> {
  const ports = await steadyPorts(3);
  await using cluster = await Cluster.start({ ports, timeout: 5_000, pollMs: 10_000 });
  await using balancer = await startBalancer(ports);
  using crowd = new Audience(balancer.port, options);
  await crowd.come();

  const { ofServers, hurry = false } = options;
  let firstId = 0;
  const publishOn = (node: Node): void =>
    node.order({ publish: { rooms: crowd.rooms, firstId: (firstId += IDS), everyMs: 1_000 / ofServers } });
  for (const node of cluster.nodes) publishOn(node);
  crowd.write();
  await crowd.heard();

  const restarts: Restarted[] = [];
  const began = Date.now();
  const since = (then: number): number => (performance.now() - then) / 1_000;
  for (const node of cluster.nodes) {
    const drops = crowd.drops;
    const asked = performance.now();
    await node.stop();
    const stopped = since(asked);
    await node.start();
    publishOn(node);
    await crowd.until(() => isReady(node.port!), "a process that was restarted is not ready");
    const ready = since(asked);
    await crowd.until(() => {
      if (hurry) globalThis.dispatchEvent(new Event("online"));
      return crowd.drops > drops && crowd.allAreLive();
    }, "not all clients came back");
    restarts.push({ clients: crowd.drops - drops, stopped, ready, back: since(asked) });
    await crowd.heard();
  }
  const ended = Date.now();

  await crowd.rest();
  await Promise.all(cluster.nodes.map((node) => node.tell()));
  const tallies = cluster.nodes.flatMap(({ tallies }) => tallies);
  for (const { published, unsettled } of tallies) {
    if (unsettled > 0) crowd.fail(`${unsettled} publications of a server neither resolved nor rejected`);
    for (const one of published) crowd.settled(one);
  }
  await crowd.converge();

  const rolling = (tenth: number): boolean => tenth * 100 >= began - 100 && tenth * 100 <= ended;
  const handshakes = cluster.nodes.map(({ tallies }) =>
    sumBy(
      tallies.flatMap((tally) => tally.handshakes).filter(([tenth]) => rolling(tenth)),
      1,
    ),
  );
  const ofAll = sumBy(
    handshakes.flatMap((each) => [...each]),
    1,
  );
  return {
    wrong: crowd.wrong,
    seconds: (ended - began) / 1_000,
    restarts,
    counts: {
      ...crowd.counts(),
      refusedHandshakes: tallies.reduce((sum, { refused }) => sum + refused, 0),
      reconnects: crowd.drops,
    },
    peak: {
      secondOfAll: most(sumBy(ofAll, 10)),
      secondOfOne: Math.max(...handshakes.map((each) => most(sumBy(each, 10)))),
      tenthOfAll: most(ofAll),
    },
  };
}

/** The clients, and what they know. */
class Audience implements Disposable {
  readonly wrong: string[] = [];
  readonly rooms: readonly string[];
  /** How often a client lost its connection. */
  drops = 0;
  readonly #port: number;
  readonly #count: number;
  readonly #everyMs: number;
  readonly #logs = new Map<string, Log>();
  readonly #readers: Reader[] = [];
  readonly #settled: Published[] = [];
  readonly #waiting = new Set<Promise<void>>();
  #delivered = 0;
  #live = 0;
  #lastId = 0;
  #writer: ReturnType<typeof setInterval> | undefined;

  constructor(port: number, { clients, rooms, ofClients }: RollingOptions) {
    this.#port = port;
    this.#count = clients;
    this.#everyMs = 1_000 / ofClients;
    this.rooms = Array.from({ length: rooms }, (_, index) => `room ${index}`);
    for (const name of this.rooms)
      this.#logs.set(name, { name, ids: [], offsets: new Map(), epoch: undefined });
  }

  fail(what: string): void {
    if (this.wrong.length < 30) this.wrong.push(what);
  }

  /** All of them, some at a time. */
  async come(): Promise<void> {
    for (let next = 0; next < this.#count;) {
      for (const most = Math.min(this.#count, next + AT_ONCE); next < most; next++) this.#enter(next);
      await this.until(() => this.#live === next, "not all clients came");
    }
  }

  /** Publishes, on and on, until `rest`. */
  write(): void {
    this.#writer ??= setInterval(() => {
      if (this.#waiting.size >= MOST_WAITING) return;
      const said = this.#say(++this.#lastId).finally(() => this.#waiting.delete(said));
      this.#waiting.add(said);
    }, this.#everyMs);
  }

  /** Publishes no more; resolves when all that was called has settled. */
  async rest(): Promise<void> {
    clearInterval(this.#writer);
    await this.until(() => this.#waiting.size === 0, "calls neither resolved nor rejected");
  }

  allAreLive(): boolean {
    return this.#live === this.#count;
  }

  /** Everybody has been handed something that nobody had before. */
  async heard(): Promise<void> {
    const before = this.#readers.map(({ offset }) => offset);
    await this.until(
      () => this.#readers.every(({ offset }, index) => offset > before[index]!),
      "not everybody hears what is published",
    );
  }

  /** One that somebody has published, and what came of it. */
  settled(one: Published): void {
    this.#settled.push(one);
    if (one.place) this.#says(this.#logs.get(one.room)!, one.place.epoch, one.place.offset, one.id);
    else if (one.error !== "CONNECTION_LOST" && one.error !== "BROKER_CLOSED")
      this.fail(`publication ${one.id} was rejected: ${one.error}`);
  }

  /** Everybody has everything, and knows who is there. */
  async converge(): Promise<void> {
    const { client } = this.#readers[0]!;
    const ends = new Map<Log, number>();
    for (const log of this.#logs.values()) {
      const { position } = await client.call("look", { room: log.name });
      ends.set(log, position.offset);
    }
    const there = Map.groupBy(this.#readers, ({ log }) => log);
    const hasAll = ({ log, offset }: Reader): boolean => offset === ends.get(log);
    const seesAll = ({ log, subscription: { presence } }: Reader): boolean => {
      const keys = new Set(presence.members.map(({ key }) => key));
      const expected = there.get(log)!;
      return keys.size === expected.length && expected.every(({ who }) => keys.has(who));
    };
    await this.until(() => this.#readers.every(hasAll), "not everybody has everything");
    await this.until(() => this.#readers.every(seesAll), "not everybody knows who is there");
    for (const { who, offset, log } of this.#readers) {
      if (offset !== ends.get(log)) this.fail(`${who} is at ${offset}, ${log.name} at ${ends.get(log)}`);
    }
    for (const { id, room, error } of this.#settled) {
      if (error === "BROKER_CLOSED" && this.#logs.get(room)!.offsets.has(id))
        this.fail(`${id} was refused, and published all the same`);
    }
    for (const { name, ids } of this.#logs.values())
      for (let offset = 1; offset < ids.length; offset++)
        if (ids[offset] === undefined) this.fail(`${name}: nobody knows what is at ${offset}`);
  }

  counts(): Pick<
    Rolled["counts"],
    "published" | "delivered" | "lostCalls" | "lostButPublished" | "afterStop"
  > {
    const has = ({ room, id }: Published): boolean => this.#logs.get(room)!.offsets.has(id);
    const lost = this.#settled.filter(({ error }) => error === "CONNECTION_LOST");
    return {
      published: [...this.#logs.values()].reduce((sum, { offsets }) => sum + offsets.size, 0),
      delivered: this.#delivered,
      lostCalls: lost.length,
      lostButPublished: lost.filter(has).length,
      afterStop: this.#settled.filter(({ error }) => error === "BROKER_CLOSED").length,
    };
  }

  async until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
    if (!(await holdsWithin(holds, PATIENCE_MS))) throw new Error([what, ...this.wrong].join("\n"));
  }

  [Symbol.dispose](): void {
    clearInterval(this.#writer);
    for (const { client } of this.#readers) client.close();
  }

  #enter(index: number): void {
    const who = `client ${index}`;
    const log = this.#logs.get(this.rooms[index % this.rooms.length]!)!; // one of them
    const client = connect(rooms, { url: `ws://127.0.0.1:${this.#port}`, token: who, timeout: PATIENCE_MS });
    const subscription = client.subscribe("room/:room", { room: log.name });
    const reader: Reader = { who, log, client, subscription, offset: 0 };
    this.#readers.push(reader);
    let isLive = false;
    subscription.on("state", (state) => {
      if (isLive) this.#live--;
      isLive = state === "live";
      if (isLive) this.#live++;
    });
    let wasOpen = false;
    client.onState((state) => {
      if (wasOpen) this.drops++;
      wasOpen = state === "open";
    });
    subscription.on("reset", () => this.fail(`${who} was told of a reset at ${reader.offset}`));
    subscription.on("message", ({ data: { id }, offset }) => {
      this.#delivered++;
      if (offset !== ++reader.offset) this.fail(`${who}: ${offset} came instead of ${reader.offset}`);
      this.#says(log, subscription.position!.epoch, offset!, id);
    });
  }

  /** Half of them may be sent again, by the client itself. */
  async #say(id: number): Promise<void> {
    const { client } = this.#readers[Math.floor(Math.random() * this.#count)]!; // one of them
    const room = this.rooms[id % this.rooms.length]!; // one of them
    const again = id % 2 === 0;
    try {
      const place = await client.call(again ? "sayOnce" : "say", { room, id });
      this.settled({ id, room, place });
    } catch (error) {
      const { reason } = error as RpcError;
      if (again) this.fail(`a call that may be repeated was not: ${String(error)}`);
      this.settled({ id, room, error: reason });
    }
  }

  #says(log: Log, epoch: string, offset: number, id: number): void {
    log.epoch ??= epoch;
    const there = (log.ids[offset] ??= id);
    if (!log.offsets.has(id)) log.offsets.set(id, offset);
    const at = log.offsets.get(id);
    if (log.epoch !== epoch || there !== id || at !== offset)
      this.fail(`${log.name}: ${epoch} ${offset} is ${id}; it was ${there}, ${id} at ${log.epoch} ${at}`);
  }
}

/** Windows made wider, and those of the same time put together. */
function sumBy(windows: Iterable<[number, number]>, width: number): Map<number, number> {
  const sums = new Map<number, number>();
  for (const [at, count] of windows) {
    const wide = Math.floor(at / width);
    sums.set(wide, (sums.get(wide) ?? 0) + count);
  }
  return sums;
}

function most(windows: Map<number, number>): number {
  return Math.max(0, ...windows.values());
}
