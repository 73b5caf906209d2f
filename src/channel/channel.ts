// The server's side of a contract: makes a WebSocket route of an implementation, and the Live through which the
// server speaks first.

import type { Broker } from "../broker/broker.js";
import { type Contract, defineChannel } from "../contract/contract.js";
import { encodeNotification, SUBPROTOCOL } from "../contract/frames.js";
import { validate } from "../contract/schema.js";
import type { Hub } from "../server/connections.js";
import { HarpiaError, refuseUnknown, show } from "../server/errors.js";
import { checkCount, type WebSocketRoute } from "../server/route.js";
import { ServerWebSocket } from "../server/socket.js";
import { checkHooks, checkTimeout, LONGEST_TIMER_MS, methodsOf, topicsOf } from "./check.js";
import type { Live } from "./implementation.js";
import { type ChannelParts, mismatch, type RunningMethod } from "./method.js";
import { Peer } from "./peer.js";
import { Topics } from "./topics.js";

/** The code with which a connection closes whose token has ended: 4000 + 401. */
const UNAUTHORIZED = 4401;

const DEFAULT_CONCURRENCY = 64;
const DEFAULT_ASK_MS = 10_000;

/** Makes a route of a channel. Throws `UNKNOWN_OPTION`, `INVALID_OPTION`. */
export function implement<C extends Contract>(
  contract: C,
  hooks: object,
  implementation: object,
  { broker, hub }: { broker: Broker; hub: Hub },
): { route: WebSocketRoute; live: Live<C>; topics: Topics } {
  if (typeof contract !== "object" || contract === null) {
    const message = `app.channel(contract): a contract is what defineChannel returns, and this is ${show(contract)}.`;
    throw new HarpiaError("INVALID_OPTION", message, { value: contract });
  }
  defineChannel(contract); // it may be an object that nobody has checked
  const where = `app.channel(${show(contract.path)}, …)`;
  for (const [name, value] of Object.entries({ hooks, implementation })) {
    if (typeof value === "object" && value !== null) continue;
    throw new HarpiaError("INVALID_OPTION", `${where}: ${name} must be an object, and is ${show(value)}.`, {
      value,
    });
  }
  checkHooks(hooks, where);
  // Its types are erased from here on: the compiler has held them to the contract.
  const given = hooks as Erased;
  refuseUnknown(implementation, ["methods", "topics"], `${where}.implement(…)`);
  const { methods = {}, topics: topicHooks = {} } = implementation as Partial<
    Record<"methods" | "topics", Record<string, unknown>>
  >;
  const topics = new Topics(contract, topicsOf(contract, topicHooks, where), broker, hub);
  const parts: ChannelParts = {
    contract,
    methods: methodsOf(contract, methods, given, where),
    concurrency: checkCount(given.concurrency, "concurrency", where) ?? DEFAULT_CONCURRENCY,
    refresh: given.refresh,
  };
  const connections = new Set<ServerWebSocket>();
  const peers = new WeakMap<ServerWebSocket, Peer>();
  const expiries = new WeakMap<ServerWebSocket, ReturnType<typeof setTimeout>>();

  const route: WebSocketRoute = {
    protocols: [SUBPROTOCOL],
    open(ws) {
      connections.add(ws);
      peers.set(ws, new Peer(ws, parts, topics));
      return given.open?.(ws);
    },
    message: (ws, message) => peers.get(ws)!.receive(message),
    close(ws, code, reason) {
      connections.delete(ws);
      clearTimeout(expiries.get(ws));
      peers.get(ws)?.close();
      return given.close?.(ws, code, reason);
    },
  };
  if (given.upgrade) route.upgrade = given.upgrade;
  if (given.origins) route.origins = given.origins;
  if (given.rateLimit) route.rateLimit = given.rateLimit;

  const peerOf = (ws: unknown): Peer => {
    const peer = peers.get(ws as ServerWebSocket);
    if (peer) return peer;
    throw new HarpiaError("INVALID_OPTION", `this ws is no connection of the channel ${contract.path}`, {
      value: ws,
    });
  };
  const { events = {} } = contract;
  const paramsOf = async (event: string, params: unknown, asks: boolean): Promise<unknown> => {
    const definition = Object.hasOwn(events, event) ? events[event] : undefined;
    if (definition === undefined)
      throw new TypeError(`The contract of ${contract.path} has no event ${show(event)}.`);
    if (asks !== (definition.result !== undefined)) {
      const use = asks ? "no result, so use live.emit or live.broadcast" : "a result, so use live.ask";
      throw new TypeError(`The event ${show(event)} of ${contract.path} has ${use}.`);
    }
    const valid = await validate(definition.params, params);
    if (valid.issues) throw mismatch(`the params of ${event}`, valid.issues);
    return valid.value;
  };
  /** An event as a frame. */
  const eventOf = async (event: string, params: unknown): Promise<string> =>
    encodeNotification(event, await paramsOf(event, params, false));
  const tellAll = (event: string, text: string): void => {
    for (const ws of connections) peers.get(ws)!.tell(event, text);
  };
  void hub.relay.onCommand(contract.path, (command: Command) => {
    if ("text" in command) tellAll(command.event, command.text);
    else void topics.kickMember(command.topic, command.key, command.reason);
  });
  const live = {
    connections,
    async emit(ws: unknown, event: string, params?: unknown): Promise<void> {
      const peer = peerOf(ws);
      peer.tell(event, await eventOf(event, params));
    },
    async broadcast(event: string, params?: unknown): Promise<void> {
      const text = await eventOf(event, params);
      tellAll(event, text);
      await hub.relay.command(contract.path, { event, text });
    },
    async ask(
      ws: unknown,
      event: string,
      params?: unknown,
      { timeout = DEFAULT_ASK_MS } = {},
    ): Promise<unknown> {
      const peer = peerOf(ws);
      const limit = checkTimeout(timeout, `live.ask(ws, ${show(event)}, …)`)!;
      const result = await peer.ask(event, await paramsOf(event, params, true), limit);
      const valid = await validate(events[event]!.result, result);
      if (valid.issues) throw mismatch(`the client's answer to ${event}`, valid.issues);
      return valid.value;
    },
    topic: (name: string, params?: Record<string, string>) => topics.handle(name, params),
    async kick(
      whom: object,
      name: string,
      params?: Record<string, string>,
      reason: string = "Removed from the topic",
    ): Promise<boolean> {
      const topic = topics.handle(name, params).name;
      if (whom instanceof ServerWebSocket) return await peerOf(whom).kick(topic, reason);
      const { key } = whom as { key: string };
      const was = await topics.kickMember(topic, key, reason);
      await hub.relay.command(contract.path, { topic, key, reason });
      return was;
    },
    expire(ws: unknown, at: Date | number): void {
      const socket = ws as ServerWebSocket;
      peerOf(socket);
      const left = Number(at) - Date.now();
      if (Number.isNaN(left) || (typeof at !== "number" && !(at instanceof Date)))
        throw new TypeError(`live.expire(ws, at): at must be a Date or milliseconds, and is ${show(at)}.`);
      clearTimeout(expiries.get(socket));
      if (left > LONGEST_TIMER_MS || socket.readyState !== 1) return; // 24 days; who is still here then has a new one
      expiries.set(
        socket,
        setTimeout(() => socket.close(UNAUTHORIZED, "Token expired"), Math.max(0, left)),
      );
    },
  };
  return { route, live: live as unknown as Live<C>, topics };
}

/** What processes that share a broker tell each other. */
type Command = { event: string; text: string } | { topic: string; key: string; reason: string };

/** A channel's implementation without the contract's types. */
type Erased = Pick<WebSocketRoute, "upgrade" | "origins" | "rateLimit" | "open" | "close"> & {
  concurrency?: number;
  validateResults?: boolean;
  before?: RunningMethod["before"];
  refresh?: ChannelParts["refresh"];
};
