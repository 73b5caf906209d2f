// Clients of a cluster under test: all read, some write, and each says so when a promise is broken. A client comes back
// at any process that is there.

import { type Client, connect, type RpcError, type Subscription } from "harpia/client";
import { type FaultProxy, faultProxy } from "harpia/testing";
import { holdsWithin } from "../support/app.js";
import type { Cluster } from "./machines.js";
import { rooms } from "./room.js";

export interface Place {
  epoch: string;
  offset: number;
}

interface Reader {
  readonly who: string;
  readonly room: string;
  readonly subscription: Subscription<{ id: number }, { name: string }>;
  last: Place | undefined;
  /** How many are there, as it was last told. */
  told: number;
  resets: { from: Place | undefined; to: Place | undefined }[];
  /** Everything that it was handed, ever. */
  readonly seen: Set<number>;
  /** What it was handed since the last reset. */
  readonly inEpoch: Set<number>;
}

interface Person {
  readonly name: string;
  /** Of the processes, the one to connect to next; otherwise any. */
  next: number | undefined;
  readonly client: Client<typeof rooms>;
  readonly network: FaultProxy;
  readonly readers: readonly Reader[];
}

export interface CrowdOptions {
  people?: number;
  rooms?: readonly string[];
  random?: () => number;
}

const MOST_WAITING = 40;
const PATIENCE_MS = 40_000;
const ANSWERED_MS = 30_000;

export class Crowd implements AsyncDisposable {
  readonly wrong: string[] = [];
  /** `missed`: how often somebody was told that somebody who is there has gone. */
  readonly counts = {
    published: 0,
    resolved: 0,
    rejected: 0,
    unknown: 0,
    received: 0,
    resets: 0,
    drops: 0,
    missed: 0,
  };
  readonly people: readonly Person[];
  readonly rooms: readonly string[];
  /** Milliseconds of the slowest publish, by the clock of the process that made it. */
  slowest = 0;
  readonly #cluster: Cluster;
  readonly #random: () => number;
  /** `room epoch offset` → what is there, as far as anybody has said. */
  readonly #truth = new Map<string, number>();
  /** Resolved publications. */
  readonly #resolved = new Map<number, { room: string; place: Place }>();
  readonly #waiting = new Set<Promise<void>>();
  #writer: ReturnType<typeof setInterval> | undefined;
  #lastId = 0;

  constructor(cluster: Cluster, options: CrowdOptions = {}) {
    const { people = 9, rooms: names = ["a", "b"], random = Math.random } = options;
    this.#cluster = cluster;
    this.#random = random;
    this.rooms = names;
    this.people = Array.from({ length: people }, (_, index) => this.#person(`person ${index}`, index));
  }

  fail(what: string): void {
    if (this.wrong.length < 30) this.wrong.push(what);
  }

  /** Publishes, on and on, until `rest`. */
  write(everyMs = 4): void {
    this.#writer ??= setInterval(() => {
      if (this.#waiting.size < MOST_WAITING) this.#pend(this.#say());
    }, everyMs);
  }

  /** Publishes no more; resolves when every publication is resolved or rejected. */
  async rest(): Promise<void> {
    clearInterval(this.#writer);
    this.#writer = undefined;
    await this.#until(() => this.#waiting.size === 0, "publications neither resolved nor rejected");
  }

  /** Every process gets as many clients as the others. */
  async spread(): Promise<void> {
    for (const [index, person] of this.people.entries()) {
      person.next = index % this.#cluster.nodes.length;
      person.network.cut();
    }
    await this.#until(() => this.people.every(({ client }) => client.state === "open"), "not all came back");
  }

  /** Waits for so many more to be resolved. */
  async resolved(more: number): Promise<void> {
    const enough = this.counts.resolved + more;
    await this.#until(() => this.counts.resolved >= enough, "publishing did not go on");
  }

  async rejected(more: number): Promise<void> {
    const enough = this.counts.rejected + more;
    await this.#until(() => this.counts.rejected >= enough, "publishing was not refused");
  }

  /** Everybody has everything, and knows who is there, with nobody publishing. */
  async converge(): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    let missing = await this.#missing();
    while (missing.length > 0) {
      if (performance.now() > deadline) {
        for (const what of missing) this.fail(`did not converge: ${what}`);
        return;
      }
      await Bun.sleep(50);
      missing = await this.#missing();
    }
    for (const [id, { room, place }] of this.#resolved) {
      for (const reader of this.#readersOf(room)) {
        if (reader.resets.length === 0 && !reader.seen.has(id))
          this.fail(`${reader.who} ${room}: ${id} at ${place.epoch} ${place.offset} never came`);
      }
    }
  }

  /** Whether a reset was told where the log goes on: nothing was lost then. */
  needlessResets(mayTrim: boolean): string[] {
    return this.#readers().flatMap(({ who, room, resets }) =>
      resets.flatMap(({ from, to }) =>
        !mayTrim && from && from.epoch === to?.epoch ? `${who} ${room}: reset from ${from.offset}` : [],
      ),
    );
  }

  /** Forgets what is behind: a new scenario. Publications from before it are not looked for any more. */
  turnPage(): void {
    this.#resolved.clear();
    this.slowest = 0;
    for (const reader of this.#readers()) {
      reader.resets = [];
      reader.seen.clear();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#writer);
    for (const { client } of this.people) client.close();
    await Promise.allSettled(this.#waiting);
    await Promise.all(this.people.map(({ network }) => network.close()));
  }

  #person(name: string, index: number): Person {
    const network = faultProxy(undefined);
    Object.defineProperty(network, "target", {
      get: () => {
        const { ports, nodes } = this.#cluster;
        const port = nodes[person.next ?? -1]?.port ?? ports[Math.floor(this.#random() * ports.length)];
        person.next = undefined;
        return port === undefined ? undefined : { port };
      },
    });
    const url = `ws://127.0.0.1:${network.port}`;
    const client = connect(rooms, { url, token: name, timeout: ANSWERED_MS });
    client.onState((state) => void (state === "open" || this.counts.drops++));
    const readers = this.rooms.map((room) => this.#read(name, room, client));
    const person: Person = { name, next: index % this.#cluster.nodes.length, client, network, readers };
    return person;
  }

  #read(who: string, room: string, client: Client<typeof rooms>): Reader {
    const subscription = client.subscribe("room/:room", { room });
    const reader: Reader = {
      who,
      room,
      subscription,
      last: undefined,
      resets: [],
      told: 0,
      seen: new Set(),
      inEpoch: new Set(),
    };
    subscription.on("message", ({ data: { id }, offset }) => {
      this.counts.received++;
      const { epoch } = subscription.position!;
      const place = { epoch, offset: offset! };
      const { last } = reader;
      if (last && (last.epoch !== epoch || last.offset + 1 !== offset))
        this.fail(`${who} ${room}: ${epoch} ${offset} came after ${last.epoch} ${last.offset}`);
      if (reader.inEpoch.has(id))
        this.fail(`${who} ${room}: ${id} came twice, at last as ${epoch} ${offset}`);
      reader.inEpoch.add(id);
      reader.seen.add(id);
      reader.last = place;
      this.#says(who, room, place, id);
    });
    subscription.presence.on("change", (members) => {
      if (members.length < reader.told) this.counts.missed++;
      reader.told = members.length;
    });
    subscription.on("reset", () => {
      this.counts.resets++;
      const to = subscription.position;
      reader.resets.push({ from: reader.last, to });
      reader.last = to;
      reader.inEpoch.clear();
    });
    return reader;
  }

  async #say(): Promise<void> {
    const { client } = this.#oneOf(this.people);
    const room = this.#oneOf(this.rooms);
    const id = ++this.#lastId;
    const keyed = this.#random() < 0.4;
    this.counts.published++;
    for (;;) {
      try {
        const place = await client.call("say", { room, id, ...(keyed ? { key: `key ${id}` } : {}) });
        this.#says("publish", room, place, id);
        this.#resolved.set(id, { room, place });
        this.counts.resolved++;
        return;
      } catch (error) {
        const { reason } = error as RpcError;
        if (reason === "UNAVAILABLE") this.counts.rejected++;
        else if (reason === "CONNECTION_LOST") this.counts.unknown++;
        else if (reason === "CLOSED") return;
        else return this.fail(`publish ${id}: ${String(error)}`);
        if (!keyed) return;
        await Bun.sleep(50);
      }
    }
  }

  #says(who: string, room: string, { epoch, offset }: Place, id: number): void {
    const place = `${room} ${epoch} ${offset}`;
    const known = this.#truth.get(place);
    if (known !== undefined && known !== id)
      this.fail(`${who}: ${place} is ${id}, and was ${known} to others`);
    this.#truth.set(place, id);
  }

  async #missing(): Promise<string[]> {
    const everybody = this.people
      .map(({ name }) => name)
      .sort()
      .join();
    const each = await Promise.all(
      this.people.map(async ({ name, client, readers }) => {
        if (client.state !== "open") return `${name} is ${client.state}`;
        const missing: string[] = [];
        for (const { room, subscription } of readers) {
          const look = await client
            .call("look", { room }, { timeout: 5_000 })
            .catch((error: RpcError) => error);
          if (look instanceof Error) return `${name} cannot look: ${look.message}`;
          this.slowest = Math.max(this.slowest, look.slowest);
          const { position, newest } = look;
          const mine = subscription.position;
          const say = (what: string): void => void missing.push(`${name} ${room} ${what}`);
          if (subscription.state !== "live") say(`is ${subscription.state}`);
          if (mine?.epoch !== position.epoch || mine.offset !== position.offset)
            say(`is at ${mine?.epoch} ${mine?.offset}, the topic at ${position.epoch} ${position.offset}`);
          if (newest !== undefined) this.#says(name, room, position, newest);
          if (look.members.sort().join() !== everybody) say(`has the members ${look.members.join()}`);
          const told = subscription.presence.members
            .map(({ key }) => key)
            .sort()
            .join();
          if (told !== everybody) say(`is told of ${told}`);
          if (!look.ok) say("is at a process that is not well");
        }
        return missing;
      }),
    );
    return each.flat();
  }

  async #until(holds: () => boolean, what: string): Promise<void> {
    if (!(await holdsWithin(holds, PATIENCE_MS))) this.fail(what);
  }

  #pend(promise: Promise<void>): void {
    const waiting = promise.finally(() => this.#waiting.delete(waiting));
    this.#waiting.add(waiting);
  }

  #readers(): Reader[] {
    return this.people.flatMap(({ readers }) => readers);
  }

  #readersOf(room: string): Reader[] {
    return this.#readers().filter((reader) => reader.room === room);
  }

  #oneOf<T>(all: readonly T[]): T {
    return all[Math.floor(this.#random() * all.length)]!; // never of none
  }
}
