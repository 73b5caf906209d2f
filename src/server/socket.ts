// The `ws` that handlers get: one connection's state and what can be done with it. It is made once, at the
// handshake, and lives in the native socket's `data`. When which handler runs is decided in life.ts.

import type { ServerWebSocket as BunSocket } from "bun";
import { pack, unpack } from "./address.js";
import { HarpiaError, refuseUnknown, show } from "./errors.js";
import { resume } from "./life.js";
import type { Lane } from "./lane.js";
import type { AnyData, Route } from "./route.js";

/** Bun's own socket, as harpia uses it. */
export type NativeSocket = BunSocket<ServerWebSocket>;

/** What may be sent: text, or bytes. */
export type Sendable = string | Bun.BufferSource | Blob;

/** How to publish to a plain topic. */
export interface PublishOptions {
  compress?: boolean;
  local?: boolean;
}

// Why a connection's messages are held back, or that it is over. Bits: several may hold at once.
/** `open` has not settled. */
export const OPENING = 1;
/** The app called `pause()`. */
export const PAUSED = 2;
/** `concurrency` handlers are running. */
export const BUSY = 4;
/** The rate limit is used up. */
export const LIMITED = 8;
/** We closed it: nothing more is handed over. */
export const SHUT = 16;
/** The native socket is closed. */
export const LEFT = 32;
/** It never was a connection: it closes at once, with the code in `seen`, to tell its client why. */
export const REFUSED = 64;

/**
 * One WebSocket connection. Methods that Bun's `ServerWebSocket` has too behave as they do there
 * (https://bun.com/docs/runtime/http/websockets), except where their comment says otherwise.
 */
export class ServerWebSocket<Data = AnyData, Params = Record<string, string>> {
  /** The connection's data: yours, with `url` and `token` from the handshake. */
  data: Data;
  /** The params of the route's path. */
  readonly params: Params;
  /** The full URL of the handshake request, through trusted proxies where `trustProxy` says so. */
  readonly url: string;
  /** The negotiated subprotocol (RFC 6455 section 1.9); `""` if none. */
  readonly protocol: string;
  /** @internal */
  readonly address: number | string;
  /** @internal */
  readonly route: Route;
  /** @internal Set in the instant between the handshake and `open`. */
  native!: NativeSocket;
  /** @internal Bits of why messages are held. */
  state = 0;
  /** @internal The hub's tick at the last sign of life. */
  seen = 0;
  /** @internal Messages held back; made when first needed. */
  lane: Lane | undefined = undefined;
  #id: string | undefined = undefined;

  /** @internal */
  constructor(
    route: Route,
    data: Data,
    params: Params,
    url: string,
    protocol: string,
    remoteAddress: string,
  ) {
    this.data = data;
    this.params = params;
    this.url = url;
    this.protocol = protocol;
    this.address = pack(remoteAddress);
    this.route = route;
  }

  /** The client's address, through trusted proxies where `trustProxy` says so. Stays readable after close. */
  get remoteAddress(): string {
    return unpack(this.address);
  }

  /** A random UUID that names this connection; made when first asked for. */
  get id(): string {
    return (this.#id ??= crypto.randomUUID());
  }

  /** 1 while open, 3 once closed (or closing: Bun does not wait for the peer's close frame). */
  get readyState(): 0 | 1 | 2 | 3 {
    return this.native.readyState;
  }

  /** Bytes handed to `send` and `publish` that the client's machine has not taken yet. */
  get bufferedAmount(): number {
    return this.native.getBufferedAmount();
  }

  /** Bun's own socket. Its `data` is this object: leave that as it is. */
  get raw(): NativeSocket {
    return this.native;
  }

  /**
   * Sends a text or binary message.
   * @param compress Default: whether `perMessageDeflate` is on.
   * @returns the bytes sent; −1 if they wait in the buffer (backpressure); 0 if the message was dropped, because the
   * socket is closed or above `backpressureLimit` (also for an empty message, which is sent all the same).
   * @throws HarpiaError `INVALID_MESSAGE` for anything but a string or bytes (Bun would stringify it).
   */
  send(data: Sendable, compress: boolean = this.route.hub.settings.limits.perMessageDeflate): number {
    if (typeof data !== "string") checkBytes(data, "ws.send(data)");
    const sent = this.native.send(data, compress);
    if (sent === 0 && sizeOf(data) > 0 && this.native.readyState === 1) {
      this.route.hub.dropped(this as unknown as ServerWebSocket);
    }
    return sent;
  }

  /**
   * Sends to all subscribers of a topic but this connection, on every process that shares the app's broker.
   * @param options.compress Default: whether `perMessageDeflate` is on. `true` and `false` will do, as in Bun.
   * @param options.local Only to those of this process. Default `false`.
   * @returns bytes sent here, or −1 or 0 as `send` would for the slowest subscriber; 0 also if there is none.
   */
  publish(topic: string, data: Sendable, options?: boolean | PublishOptions): number {
    const where = "ws.publish(topic, data)";
    checkTopic(topic, where);
    if (typeof data !== "string") checkBytes(data, where);
    const { hub } = this.route;
    const { compress, local } = publishOptions(options, hub.settings.limits.perMessageDeflate, where);
    const sent = this.native.publish(topic, data, compress);
    if (sent === 0 && sizeOf(data) > 0) {
      const subscribers = hub.server?.subscriberCount(topic) ?? 0;
      hub.publicationDropped(this.native.isSubscribed(topic) ? subscribers - 1 : subscribers);
    }
    if (!local) hub.relay.publish(topic, data);
    return sent;
  }

  /** Subscribes to a topic. `false` if the socket is closed. */
  subscribe(topic: string): boolean {
    checkTopic(topic, "ws.subscribe(topic)");
    const subscribed = this.native.subscribe(topic);
    if (subscribed) this.route.hub.relay.joined(topic);
    return subscribed;
  }

  /** Ends a subscription. `false` if there was none. */
  unsubscribe(topic: string): boolean {
    checkTopic(topic, "ws.unsubscribe(topic)");
    return this.native.unsubscribe(topic);
  }

  isSubscribed(topic: string): boolean {
    checkTopic(topic, "ws.isSubscribed(topic)");
    return this.native.isSubscribed(topic);
  }

  /** The topics subscribed to, without those of channels; empty once closed. */
  get subscriptions(): string[] {
    return this.native.subscriptions.filter((topic) => !topic.startsWith(RESERVED_TOPIC));
  }

  /**
   * Closes the connection: sends a close frame, then ends. Messages that are still held back are not handed over
   * any more. Once closed it does nothing.
   * @param code Default 1000. RFC 6455 section 7.4: 1000-1003, 1007-1014, 3000-4999.
   * @param reason Cut at 123 bytes of UTF-8, on a character's edge.
   * @throws RangeError for a code that may not be sent.
   */
  close(code: number = 1000, reason: string = ""): void {
    if (!maySend(code)) {
      throw new RangeError(
        `ws.close(${show(code)}): a close frame may carry 1000-1003, 1007-1014 (RFC 6455), 3000-3999 (libraries) or 4000-4999 (yours).`,
      );
    }
    if (typeof reason !== "string")
      throw new TypeError(`ws.close(code, reason): the reason must be a string, and is ${show(reason)}.`);
    if (this.native.readyState !== 1) return;
    this.state |= SHUT;
    this.native.close(code, reason);
  }

  /** Ends the connection at once, without a close frame; `close` runs with 1006, and so it does on the other side. */
  terminate(): void {
    if (this.native.readyState !== 1) return;
    this.state |= SHUT;
    this.native.terminate();
  }

  /** Sends a ping frame. Rarely needed: harpia pings connections that have fallen silent by itself. */
  ping(data?: string | Bun.BufferSource): number {
    return this.native.ping(data);
  }

  /** Sends an unasked pong frame. Pings are answered without it. */
  pong(data?: string | Bun.BufferSource): number {
    return this.native.pong(data);
  }

  /** Runs `callback` and writes what it sends in one go. Handlers are corked already, up to their first `await`. */
  cork<Result>(callback: (ws: this) => Result): Result {
    return this.native.cork(() => callback(this));
  }

  /** Holds back messages until `resume()`, and stops reading, so that the client feels it. Sending still works. */
  pause(): void {
    if (this.native.readyState !== 1) return;
    this.state |= PAUSED;
    this.native.pause();
  }

  /** Hands over what was held back, in order, and reads on. */
  resume(): void {
    resume(this);
  }

  /**
   * Waits for room to send: less than half of `backpressureLimit` buffered.
   * @returns `true` when there is room, `false` when the socket has closed.
   * @example
   * if (ws.send(chunk) <= 0 && !(await ws.drained())) return; // closed
   */
  drained(): Promise<boolean> {
    if (this.native.readyState !== 1) return Promise.resolve(false);
    if (this.hasRoom()) return Promise.resolve(true);
    return this.route.hub.waitForRoom(this as unknown as ServerWebSocket);
  }

  /** @internal */
  hasRoom(): boolean {
    return this.native.getBufferedAmount() < this.route.hub.settings.limits.backpressureLimit / 2;
  }
}

const DEFAULT_PUBLISH = { compress: false, local: false };
const COMPRESSED_PUBLISH = { compress: true, local: false };

/** What a plain `publish` was told. */
export function publishOptions(
  given: boolean | PublishOptions | undefined,
  compress: boolean,
  where: string,
): { compress: boolean; local: boolean } {
  if (given === undefined) return compress ? COMPRESSED_PUBLISH : DEFAULT_PUBLISH;
  if (typeof given === "boolean") return given ? COMPRESSED_PUBLISH : DEFAULT_PUBLISH;
  refuseUnknown(given, ["compress", "local"], where);
  return { compress, local: false, ...given };
}

/** Throws `INVALID_MESSAGE` for anything but bytes. */
export function checkBytes(data: unknown, where: string): void {
  if (ArrayBuffer.isView(data) || data instanceof ArrayBuffer) return;
  if (data instanceof Blob || data instanceof SharedArrayBuffer) return;
  throw new HarpiaError(
    "INVALID_MESSAGE",
    `${where}: a message is a string or bytes, and this is ${show(data)}. Send an object as JSON.stringify(object).`,
    { value: data },
  );
}

/** Names that begin with this are those of channels' topics: whose subscribers are authorised, and counted. */
export const RESERVED_TOPIC = "$/";

/** Throws `INVALID_TOPIC` for anything but a non-empty string that is the app's to use. */
export function checkTopic(topic: unknown, where: string): void {
  if (typeof topic === "string" && topic !== "" && !topic.startsWith(RESERVED_TOPIC)) return;
  if (typeof topic === "string" && topic !== "") {
    throw new HarpiaError(
      "INVALID_TOPIC",
      `${where}: names that begin with "${RESERVED_TOPIC}" are the topics of channels, and this is ${show(topic)}. Publish to those with live.topic(…).publish(…).`,
      { value: topic },
    );
  }
  throw new HarpiaError(
    "INVALID_TOPIC",
    `${where}: a topic is a non-empty string, and this is ${show(topic)}.`,
    {
      value: topic,
    },
  );
}

/** The payload's size; Bun reports an empty message, which it sends, as 0 bytes, like one that it dropped. */
export function sizeOf(data: Sendable): number {
  if (typeof data === "string") return data.length;
  return data instanceof Blob ? data.size : data.byteLength;
}

/** RFC 6455 section 7.4.2, and the IANA registry for 1012-1014; 1004-1006 and 1015 are not the server's to send. */
function maySend(code: unknown): boolean {
  if (typeof code !== "number" || !Number.isInteger(code)) return false;
  if (code >= 3000) return code <= 4999;
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
}
