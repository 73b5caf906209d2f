// A server, clients and the networks between them, all real, and what goes wrong: in an order that a seed gives. Ends
// with what was seen; `wrong` is empty if topics kept what they promise.

import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BrokerError, type Harpia, harpia, type Live, type ServerWebSocket } from "harpia";
import type { Client } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { sqlite } from "harpia/sqlite";
import { type FaultProxy, type TestApp, testApp } from "harpia/testing";
import { z } from "zod";
import { MemoryBroker } from "../../src/broker/memory.js";
import { Topics } from "../../src/channel/topics.js";
import { seeded } from "../support/random.js";
import { ChaoticBroker, NO_FAULTS, trueEpoch } from "./chaotic-broker.js";
import { type Kind, type Payload, Truth, Witness } from "./witness.js";

/** `memory`: restarts begin new epochs. `sqlite`: they do not. `chaotic`: the broker itself has faults. */
export type Setting = "memory" | "sqlite" | "chaotic";

export interface SimulationOptions {
  seed: number;
  setting: Setting;
  /** It ends after so many faults. */
  faults: number;
}

export interface Report {
  wrong: string[];
  /** How often what happened. */
  events: Record<string, number>;
  faults: number;
  publications: number;
  received: number;
  resets: number;
}

const message = z.object({ id: z.number(), pad: z.string() });
const presence = z.object({ name: z.string() });
const contract = defineChannel({
  path: "/chaos",
  topics: {
    "log/:name": { message, history: { size: 2_000, ttl: 3_600 }, presence },
    "short/:name": { message, history: { size: 5, ttl: 1 }, presence },
    "latest/:name": { message, history: { size: 10, ttl: 3_600 }, coalesce: true },
    "plain/:name": { message },
  },
});
type Chaos = typeof contract;

const KINDS: readonly Kind[] = ["log", "short", "latest", "plain"];
const DEVICES = 8;
const PEOPLE = 5;
const KIB = 1024;
const LISTEN = { ws: { backpressureLimit: 64 * KIB, maxPayloadLength: 64 * KIB } };
/** Faults between two looks at whether everybody has everything. */
const FAULTS_A_ROUND = 60;
const PATIENCE_MS = 45_000;

interface Device {
  id: string;
  person: string;
  client: Client<Chaos>;
  network: FaultProxy;
  witnesses: Set<Witness>;
}

class CountingSocket extends WebSocket {
  static dropped = 0;

  constructor(url: string, protocols: string[]) {
    super(url, protocols);
    this.addEventListener("message", ({ data }) => {
      if (String(data).includes('"dropped":true')) CountingSocket.dropped++;
    });
  }
}

export async function simulate(options: SimulationOptions): Promise<Report> {
  const { pollMs } = Topics;
  const { now } = Date;
  Topics.pollMs = 200;
  CountingSocket.dropped = 0;
  const simulation = new Simulation(options);
  try {
    return await simulation.run();
  } finally {
    Topics.pollMs = pollMs;
    Date.now = now;
    simulation.clean();
  }
}

class Simulation {
  readonly #setting: Setting;
  readonly #faults: number;
  readonly #random: () => number;
  readonly #truth = new Truth();
  readonly #events: Record<string, number> = {};
  readonly #devices: Device[] = [];
  readonly #file: string;
  readonly #pending = new Set<Promise<unknown>>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  #t!: TestApp;
  #live!: Live<Chaos, never>;
  #broker!: ChaoticBroker;
  #calm = false;
  #lastDevice = 0;
  #lastId = 0;
  #faultCount = 0;
  #received = 0;
  #resets = 0;
  #clockAhead = 0;

  constructor({ seed, setting, faults }: SimulationOptions) {
    this.#setting = setting;
    this.#faults = faults;
    this.#random = seeded(seed);
    this.#file = join(tmpdir(), `harpia-chaos-${crypto.randomUUID()}.db`);
    const { now } = Date;
    Date.now = () => now() + this.#clockAhead;
  }

  async run(): Promise<Report> {
    this.#t = await testApp(this.#app(), LISTEN);
    await using t = this.#t;
    for (let count = 0; count < DEVICES; count++) this.#addDevice();
    let nextRound = FAULTS_A_ROUND;
    while (this.#faultCount < this.#faults && this.#truth.wrong.length === 0) {
      await this.#step();
      await Bun.sleep(this.#chance(0.5) ? 0 : this.#whole(4));
      if (this.#faultCount < nextRound) continue;
      nextRound += FAULTS_A_ROUND;
      // The last that is published before all is quiet is what somebody has no room for.
      if (this.#chance(0.6)) await this.#fault("reader stops, and nothing follows", () => this.#fillUp());
      await this.#settle();
    }
    await this.#settle();
    await this.#leaveNothing(t.app);
    const { dropped, delayed, failed } = this.#broker.counts;
    return {
      wrong: this.#truth.wrong,
      events: {
        ...this.#events,
        "reader fell behind": CountingSocket.dropped,
        "delivery lost": dropped,
        "delivery late": delayed,
        "broker call failed": failed,
      },
      faults: this.#faultCount,
      publications: this.#truth.published.size,
      received: this.#received,
      resets: this.#resets,
    };
  }

  clean(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const end of ["", "-wal", "-shm"]) rmSync(this.#file + end, { force: true });
  }

  #app(): Harpia {
    const inner = this.#setting === "sqlite" ? sqlite(this.#file) : new MemoryBroker();
    this.#broker = new ChaoticBroker(inner, this.#setting === "chaotic", this.#random);
    const app = harpia({ broker: this.#broker, logger: false });
    const mayEnter = async (): Promise<boolean> => {
      if (this.#chance(0.4)) await Bun.sleep(this.#whole(15));
      return true;
    };
    const member = {
      info: (_params: object, { ws }: { ws: ServerWebSocket<{ device: string }> }) => ({
        name: personOf(ws.data.device),
      }),
      key: (_params: object, { ws }: { ws: ServerWebSocket<{ device: string }> }) => personOf(ws.data.device),
    };
    this.#live = app.channel(contract, { upgrade: (_request, { token }) => ({ device: token! }) }).implement({
      topics: {
        "log/:name": { subscribe: mayEnter, presence: member },
        "short/:name": { subscribe: mayEnter, presence: member },
        "latest/:name": { subscribe: "public" },
        "plain/:name": { subscribe: "public" },
      },
    }) as unknown as Live<Chaos, never>;
    return app;
  }

  #addDevice(): void {
    const number = this.#lastDevice++;
    const person = `person${number % PEOPLE}`;
    const id = `${person}/${number}`;
    const client = this.#t.connect(contract, { token: id, WebSocket: CountingSocket });
    const device = { id, person, client, network: this.#t.network(client), witnesses: new Set<Witness>() };
    this.#devices.push(device);
    this.#subscribe(device);
  }

  // What happens.

  async #step(): Promise<void> {
    const acts: [weight: number, act: () => unknown][] = [
      [30, () => this.#publish(this.#kind())],
      [3, () => this.#burst()],
      [0.25, () => this.#flood()],
      [8, () => this.#subscribe(this.#device())],
      [6, () => this.#unsubscribe(this.#device())],
      [3, () => this.#changeOfMind()],
      [4, () => this.#fault("cut with FIN", () => this.#device().network.cut())],
      [4, () => this.#fault("cut with RST", () => this.#device().network.cut({ reset: true }))],
      [9, () => this.#fault("cut within a frame", () => this.#cutAfter("down", 9_000))],
      [3, () => this.#fault("cut within a question", () => this.#cutAfter("up", 300))],
      [4, () => this.#fault("freeze", () => this.#freeze())],
      [2, () => this.#fault("reader stops, buffers fill up", () => this.#fillUp())],
      [3, () => this.#fault("slow", () => this.#slow())],
      [2, () => this.#fault("history trimmed while away", () => this.#trimWhileAway())],
      [1, () => this.#fault("client leaves", () => this.#replace())],
      [1, () => this.#fault("kick", () => this.#kick())],
      [
        1,
        () => this.#fault("clock jumps", () => void (this.#clockAhead += (this.#random() - 0.5) * 7_200_000)),
      ],
      [6, () => this.#online()],
    ];
    if (this.#setting === "chaotic") {
      acts.push(
        [3, () => this.#fault("epoch changes", () => this.#broker.rename(this.#key(this.#kind())))],
        [1, () => this.#fault("epoch changes and changes back", () => this.#thereAndBack())],
        [2, () => this.#fault("broker falters", () => this.#falter())],
      );
    } else acts.push([0.6, () => this.#fault("server restarts", () => this.#restart())]);
    let at = this.#random() * acts.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, act] of acts) if ((at -= weight) < 0) return void (await act());
  }

  async #publish(
    kind: Kind,
    size = this.#whole(this.#chance(0.2) ? 8_000 : 200),
    name = this.#name(),
  ): Promise<void> {
    const id = ++this.#lastId;
    const topic = `${kind}/${name}`;
    this.#truth.published.set(id, { topic, pad: size });
    const data: Payload = { id, pad: "x".repeat(size) };
    const keyed = kind !== "plain" && (this.#setting === "chaotic" || this.#chance(0.3));
    const except = this.#chance(0.05) ? this.#anyConnection() : undefined;
    if (except) this.#truth.excepted.add(`${id} ${except.data.device}`);
    const options = {
      ...(keyed ? { idempotencyKey: `key ${id}` } : {}),
      ...(except ? { except: except as never } : {}),
    };
    const handle = this.#live.topic(`${kind}/:name` as "log/:name", { name });
    const once = async (): Promise<void> => {
      for (let attempt = 0; attempt < 20; attempt++) {
        try {
          const position = await handle.publish(data, options);
          if (kind !== "plain") this.#truth.seen("publish", topic, position, id);
          return;
        } catch (error) {
          if (!(error instanceof BrokerError)) throw error;
          if (error.code === "BROKER_CLOSED" || !keyed) return;
        }
      }
    };
    this.#count("publication");
    this.#pend(once());
    if (!keyed || !this.#chance(0.3)) return;
    this.#count("publication repeated");
    this.#pend(once());
  }

  /** More in one turn than a reader's buffer takes. */
  async #burst(): Promise<void> {
    this.#count("burst");
    const kind = this.#kind();
    for (let count = 0; count < 30; count++) await this.#publish(kind, this.#whole(6_000));
  }

  /** More than an iterator keeps. */
  async #flood(): Promise<void> {
    this.#count("flood");
    for (let count = 0; count < 2_400; count++) {
      await this.#publish("log", this.#whole(50));
      if (count % 100 === 0) await Bun.sleep(1);
    }
  }

  #subscribe(device: Device): Witness | undefined {
    if (device.witnesses.size >= 8) return undefined;
    this.#count("subscribe");
    const kind = this.#kind();
    const name = this.#name();
    const last = this.#chance(0.4) ? this.#whole(150) : undefined;
    const subscription = device.client.subscribe(
      `${kind}/:name` as "log/:name",
      { name },
      last === undefined ? {} : { last },
    );
    const pace =
      kind !== "plain" && this.#chance(0.3)
        ? async (): Promise<void> => {
            if (!this.#calm) await Bun.sleep(this.#whole(30));
          }
        : undefined;
    const witness = new Witness(device.id, `${kind}/${name}`, kind, subscription, this.#truth, pace);
    device.witnesses.add(witness);
    subscription.on("state", (state) => {
      if (state !== "ended" || !device.witnesses.has(witness)) return;
      if (subscription.error?.reason !== "FORBIDDEN")
        this.#truth.fail(`${device.id} ${witness.topic}: ended with ${subscription.error}`);
      this.#dismiss(device, witness);
    });
    if (this.#chance(0.5)) void this.#publish(kind);
    return witness;
  }

  #unsubscribe(device: Device, witness = this.#oneOf([...device.witnesses])): void {
    if (witness === undefined) return;
    this.#count("unsubscribe");
    this.#dismiss(device, witness);
    witness.subscription.unsubscribe();
  }

  /** Subscribes and goes before, while, or shortly after the server has decided. */
  async #changeOfMind(): Promise<void> {
    this.#count("subscribe, and unsubscribe at once");
    const device = this.#device();
    const witness = this.#subscribe(device);
    if (this.#chance(0.7)) await Bun.sleep(this.#whole(15));
    if (witness && device.witnesses.has(witness)) this.#unsubscribe(device, witness);
  }

  #dismiss(device: Device, witness: Witness): void {
    device.witnesses.delete(witness);
    this.#received += witness.received;
    this.#resets += witness.resets;
    this.#pend(this.#checkResets(witness));
  }

  #cutAfter(direction: "up" | "down", most: number): void {
    this.#device().network.cutAfter(this.#whole(most), direction, { reset: this.#chance(0.5) });
  }

  #freeze(): void {
    const { network } = this.#device();
    const direction = this.#oneOf([undefined, "up", "down"] as const);
    network.freeze(direction);
    this.#later(this.#whole(400), () => network.thaw());
    if (this.#chance(0.5)) void this.#burst();
  }

  /** Some megabytes: the kernel's buffers, the proxy's and then the server's. */
  async #fillUp(): Promise<void> {
    const isLive = ({ kind, subscription }: Witness): boolean =>
      kind !== "plain" && subscription.state === "live";
    const readers = this.#devices.filter(({ witnesses }) => [...witnesses].some(isLive));
    if (readers.length === 0) return;
    const device = this.#oneOf(readers);
    const theirs = this.#oneOf([...device.witnesses].filter(isLive));
    device.network.freeze("down");
    this.#later(400 + this.#whole(400), () => device.network.thaw());
    for (let count = 0; count < 180; count++) {
      await this.#publish(theirs.kind, 60_000, theirs.topic.split("/")[1]);
      if (count % 3 === 0) await Bun.sleep(0);
    }
  }

  #slow(): void {
    const { network } = this.#device();
    network.slow(5_000 + this.#whole(100_000), this.#oneOf([undefined, "up", "down"] as const));
    this.#later(this.#whole(1_000), () => network.slow(Infinity));
    if (this.#chance(0.5)) void this.#burst();
  }

  async #trimWhileAway(): Promise<void> {
    this.#device().network.cut();
    for (let count = 0; count < 12; count++) await this.#publish("short");
  }

  /** It goes, perhaps in the middle of subscribing, and another one comes. */
  async #replace(): Promise<void> {
    const device = this.#device();
    if (this.#chance(0.5)) this.#subscribe(device);
    if (this.#chance(0.5)) await Bun.sleep(this.#whole(15));
    this.#close(device);
    this.#addDevice();
  }

  #close(device: Device): void {
    this.#devices.splice(this.#devices.indexOf(device), 1);
    for (const witness of device.witnesses) this.#dismiss(device, witness);
    device.client.close();
  }

  #kick(): void {
    const device = this.#device();
    const name = this.#name();
    const ws = this.#connections().find(({ data }) => data.device === device.id);
    if (ws) this.#pend(this.#live.kick(ws as never, "log/:name", { name }));
  }

  #online(): void {
    this.#count("online again");
    globalThis.dispatchEvent(new Event("online"));
  }

  #thereAndBack(): void {
    const key = this.#key(this.#kind());
    const broker = this.#broker;
    broker.rename(key);
    this.#later(this.#whole(60), () => broker.rename(key));
  }

  #falter(): void {
    const broker = this.#broker;
    const rate = (): number => (this.#chance(0.5) ? this.#random() * 0.3 : 0);
    broker.faults = { drop: rate(), delay: rate(), fail: rate() };
    this.#later(this.#whole(300), () => (broker.faults = NO_FAULTS));
  }

  async #restart(): Promise<void> {
    const graceful = this.#chance(0.5);
    if (!graceful) this.#t.cut({ reset: true });
    await this.#t.app.stop({ timeout: 1_000, restart: graceful });
    await this.#t.restart(this.#app());
  }

  // What must hold.

  /** All faults end, and nobody publishes any more: then everybody has everything, and soon. */
  async #settle(): Promise<void> {
    this.#calm = true;
    this.#broker.faults = NO_FAULTS;
    for (const { network } of this.#devices) {
      network.thaw();
      network.slow(Infinity);
    }
    while (this.#pending.size > 0) await Promise.all(this.#pending);
    const deadline = performance.now() + PATIENCE_MS;
    let missing = await this.#missing();
    while (missing.length > 0) {
      if (performance.now() > deadline) {
        for (const what of missing) this.#truth.fail(`did not converge: ${what}`);
        break;
      }
      globalThis.dispatchEvent(new Event("online"));
      await Bun.sleep(50);
      missing = await this.#missing();
    }
    for (const { witnesses } of this.#devices) {
      for (const witness of witnesses) {
        witness.checkSkipped();
        await this.#checkResets(witness);
      }
    }
    this.#count("round in which all converged");
    this.#calm = false;
  }

  async #missing(): Promise<string[]> {
    const missing: string[] = [];
    for (const device of this.#devices) {
      for (const witness of device.witnesses) {
        const { kind, topic, subscription } = witness;
        const say = (what: string): void => void missing.push(`${device.id} ${topic} ${what}`);
        if (subscription.state !== "live") {
          say(`is ${subscription.state}`);
          continue;
        }
        const handle = this.#live.topic(`${kind}/:name` as "log/:name", { name: topic.split("/")[1]! });
        if (kind !== "plain") {
          const { epoch, offset, messages } = await handle.history({ last: 1 });
          const mine = subscription.position;
          if (mine?.epoch !== epoch || mine.offset !== offset)
            say(`is at ${mine?.epoch} ${mine?.offset}, the topic at ${epoch} ${offset}`);
          const newest = messages[0]?.data.id;
          const mayLack = newest === undefined || this.#truth.excepted.has(`${newest} ${device.id}`);
          if (witness.last?.epoch === epoch && !mayLack && witness.last.id !== newest)
            say(`has ${witness.last.id}, the newest is ${newest}`);
        }
        if (kind !== "log" && kind !== "short") continue;
        const there = this.#devices
          .filter(({ witnesses }) => [...witnesses].some((other) => other.topic === topic))
          .map(({ person }) => person);
        const truth = [...new Set(there)].sort().join();
        const told = subscription.presence.members
          .map(({ key }) => key)
          .sort()
          .join();
        const members = (await handle.members())
          .map(({ key }) => key)
          .sort()
          .join();
        if (told !== truth || members !== truth)
          say(`is told of ${told}; the broker has ${members}; there are ${truth}`);
      }
    }
    return missing;
  }

  /** A reset is told when the past is gone, and not otherwise. */
  async #checkResets(witness: Witness): Promise<void> {
    const broker = this.#broker;
    for (const { from, to } of witness.resetsTold.splice(0)) {
      if (from.epoch !== to.epoch) continue;
      const after = { epoch: trueEpoch(from.epoch), offset: from.offset };
      const limits = { messages: 1, bytes: 1 };
      const page = await broker.inner.read(this.#key(witness.kind, witness.topic), { after }, limits);
      if (page.recovered && witness.kind !== "latest")
        this.#truth.fail(`${witness.who} ${witness.topic}: reset after ${from.offset}, which is not gone`);
    }
  }

  async #leaveNothing(app: Harpia): Promise<void> {
    while (this.#devices[0]) this.#close(this.#devices[0]);
    await Promise.all(this.#pending);
    const left = async (): Promise<string[]> => {
      const all = [...this.#broker.subscribed.keys()].map((key) => `feed of ${key}`);
      if (app.websocket.connections.size > 0) all.push(`${app.websocket.connections.size} connections`);
      for (const kind of KINDS) {
        for (const name of ["a", "b"]) {
          const key = this.#key(kind, `${kind}/${name}`);
          const native = app.server!.subscriberCount(`$/${key}`);
          if (native > 0) all.push(`${native} native subscriptions of ${key}`);
          const handle = this.#live.topic(`${kind}/:name` as "log/:name", { name });
          if (handle.subscribers() > 0) all.push(`${handle.subscribers()} subscribers of ${key}`);
          const members = await handle.members();
          if (members.length > 0) all.push(`${members.length} members of ${key}`);
        }
      }
      return all;
    };
    const deadline = performance.now() + PATIENCE_MS;
    let all = await left();
    while (all.length > 0 && performance.now() < deadline) {
      await Bun.sleep(20);
      all = await left();
    }
    for (const what of all) this.#truth.fail(`left when all had gone: ${what}`);
  }

  // Helpers.

  #fault(what: string, act: () => unknown): unknown {
    this.#faultCount++;
    this.#count(what);
    return act();
  }

  #count(what: string): void {
    this.#events[what] = (this.#events[what] ?? 0) + 1;
  }

  /** Awaited before anybody looks at what has come of it. */
  #pend(promise: Promise<unknown>): void {
    const pending = promise
      .catch((error: unknown) => this.#truth.fail(`an error: ${String(error)}`))
      .finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
  }

  #later(ms: number, act: () => void): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
      resolve();
    }, ms);
    this.#timers.add(timer);
    this.#pend(promise);
  }

  #connections(): ServerWebSocket<{ device: string }>[] {
    return [...this.#live.connections] as unknown as ServerWebSocket<{ device: string }>[];
  }

  #anyConnection(): ServerWebSocket<{ device: string }> | undefined {
    return this.#oneOf(this.#connections());
  }

  #key(kind: Kind, topic = `${kind}/${this.#name()}`): string {
    return `t ${contract.path} ${topic}`;
  }

  #kind(): Kind {
    return this.#oneOf(["log", ...KINDS] as const);
  }

  #name(): string {
    return this.#oneOf(["a", "b"] as const);
  }

  #device(): Device {
    return this.#oneOf(this.#devices);
  }

  #chance(of: number): boolean {
    return this.#random() < of;
  }

  /** From 0 to this. */
  #whole(most: number): number {
    return Math.floor(this.#random() * (most + 1));
  }

  #oneOf<T>(all: readonly T[]): T {
    return all[Math.floor(this.#random() * all.length)]!; // `undefined` for none: those who may ask for it check
  }
}

function personOf(device: string): string {
  return device.split("/")[0]!;
}
