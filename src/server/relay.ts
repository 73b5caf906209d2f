// Between the processes that share a broker: plain publications and commands, at most once. With a broker of its own a
// process has nobody to tell, and nothing here does anything.

import type { Broker, Publication, Subscription } from "../broker/broker.js";
import type { Hub } from "./connections.js";
import type { Sendable } from "./socket.js";

/** How often topics that nobody here is subscribed to any more are let go. */
const SWEEP_MS = 10_000;

const RETRY_MS = 1_000;
/** How often it is looked whether the broker is there, for the log. */
const WATCH_MS = 1_000;
/** A broker that is away is said once in so long. */
const WARN_MS = 10_000;

const TEXT = "t";
const BYTES = "b";

export class Relay {
  readonly #hub: Hub;
  readonly #broker: Broker;
  /** Names this process: what comes back from it was handed out here already. */
  readonly #origin = crypto.randomUUID();
  readonly #topics = new Map<string, Promise<Subscription>>();
  /** Topics that could not be subscribed to: the sweep tries again. */
  readonly #missed = new Set<string>();
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #warnedAt = Number.NEGATIVE_INFINITY;
  readonly #watcher: ReturnType<typeof setInterval> | undefined;
  #wasWell = true;
  #closed = false;

  constructor(hub: Hub, broker: Broker) {
    this.#hub = hub;
    this.#broker = broker;
    if (broker.shared) this.#watcher = setInterval(() => this.#watch(), WATCH_MS).unref();
  }

  /** Somebody here has subscribed to a plain topic. */
  joined(topic: string): void {
    if (!this.#broker.shared || this.#topics.has(topic)) return;
    const subscription = this.#broker.subscribe(
      `s ${topic}`,
      (publication) => this.#hand(topic, publication),
      { history: false },
    );
    this.#topics.set(topic, subscription);
    subscription.catch(() => {
      this.#topics.delete(topic);
      this.#missed.add(topic);
    });
    this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS).unref();
  }

  /** Sends a plain publication to the other processes. */
  publish(topic: string, data: Sendable): void {
    if (!this.#broker.shared) return;
    if (data instanceof Blob) return void data.arrayBuffer().then((bytes) => this.publish(topic, bytes));
    const payload = typeof data === "string" ? TEXT + data : BYTES + base64(data);
    this.#broker.publish(`s ${topic}`, this.#origin + payload, {}).catch((error: unknown) => {
      this.#warn("a publication did not reach other processes", topic, error);
    });
  }

  /** Sends a command to the other processes. Rejects with a BrokerError. */
  async command(name: string, payload: object): Promise<void> {
    if (!this.#broker.shared) return;
    await this.#broker.publish(`c ${name}`, this.#origin + JSON.stringify(payload), {});
  }

  /** Hears the commands of other processes, from when the broker is there. */
  async onCommand(name: string, obey: (payload: never) => void): Promise<void> {
    if (!this.#broker.shared) return;
    const hear = ({ payload }: Publication): void => {
      if (!payload.startsWith(this.#origin)) obey(JSON.parse(payload.slice(this.#origin.length)) as never);
    };
    for (;;) {
      try {
        await this.#broker.subscribe(`c ${name}`, hear, { history: false });
        return;
      } catch {
        if (this.#closed) return;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref());
      }
    }
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#sweeper);
    clearInterval(this.#watcher);
  }

  #hand(topic: string, { payload }: Publication): void {
    const { server, settings } = this.#hub;
    if (payload.startsWith(this.#origin)) return;
    const kind = payload[this.#origin.length];
    const body = payload.slice(this.#origin.length + 1);
    const data = kind === BYTES ? Buffer.from(body, "base64") : body;
    const sent = server?.publish(topic, data, settings.limits.perMessageDeflate);
    if (sent === 0 && data.length > 0) this.#hub.publicationDropped(server!.subscriberCount(topic));
  }

  #sweep(): void {
    const { server } = this.#hub;
    for (const topic of this.#missed) {
      this.#missed.delete(topic);
      if (server!.subscriberCount(topic) > 0) this.joined(topic);
    }
    for (const [topic, subscription] of this.#topics) {
      if (server!.subscriberCount(topic) > 0) continue;
      this.#topics.delete(topic);
      void subscription.then((live) => live.unsubscribe()).catch(() => {}); // away: it has forgotten us by itself
    }
  }

  /** Says in the log when the broker goes, and when it is back. */
  #watch(): void {
    const { ok, reason } = this.#broker.health();
    if (ok === this.#wasWell) return;
    this.#wasWell = ok;
    const { logger } = this.#hub.settings;
    const broker = this.#broker.name;
    if (ok) logger.warn("the broker is back", { broker });
    else logger.error("the broker is away: publishing to topics fails until it is back", { broker, reason });
  }

  #warn(message: string, topic: string, error: unknown): void {
    const now = performance.now();
    if (now - this.#warnedAt < WARN_MS) return;
    this.#warnedAt = now;
    this.#hub.settings.logger.warn(message, { topic, error });
  }
}

function base64(bytes: Exclude<Sendable, string | Blob>): string {
  const view = ArrayBuffer.isView(bytes)
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    : new Uint8Array(bytes);
  return Buffer.from(view).toString("base64");
}
