// The Harpia app: puts the rooms below together and owns no logic of its own beyond the order of start and stop.

import { bunRoute, reload, requireBun, serve, type ServeParts, websocketHandler } from "./server/bun.js";
import { type Connections, type Counters, Hub, Work } from "./server/connections.js";
import { HarpiaError, refuseUnknown, show } from "./server/errors.js";
import type { BunServer } from "./server/handshake.js";
import { silent } from "./server/life.js";
import {
  checkListen,
  defaultMaxConnections,
  type HarpiaOptions,
  type ListenOptions,
  limitsOf,
  settingsOf,
} from "./server/options.js";
import type { ConnectionData, InferredData, WebSocketRoute } from "./server/route.js";
import type { Broker, BrokerHealth } from "./broker/broker.js";
import { MemoryBroker } from "./broker/memory.js";
import { implement } from "./channel/channel.js";
import type { Channel, ChannelHooks, ChannelSocket, Live } from "./channel/implementation.js";
import type { Topics } from "./channel/topics.js";
import type { Contract } from "./contract/contract.js";
import { SUBPROTOCOL } from "./contract/frames.js";
import type { PathParams } from "./contract/path.js";
import { Route, shapeOf } from "./server/route.js";
import {
  checkBytes,
  checkTopic,
  type PublishOptions,
  publishOptions,
  type Sendable,
  type ServerWebSocket,
  sizeOf,
} from "./server/socket.js";

/** What `app.stop()` takes. */
export interface StopOptions {
  /** Milliseconds for the whole of it; what is left then is cut. Default 10,000. */
  timeout?: number;
  /** Close with 1012 ("service restart") instead of 1001 ("going away"). Default `false`. */
  restart?: boolean;
}

/** What `app.health()` returns. */
export interface Health {
  readonly ok: boolean;
  /** `app.stop()` was called. */
  readonly draining: boolean;
  /** Open ones, of this process. */
  readonly connections: number;
  readonly broker: { readonly name: string } & BrokerHealth;
}

/** What `app.serveOptions()` takes. */
export type ServeOptionsInput = Pick<ListenOptions, "ws" | "routes">;

/** What `app.serveOptions()` returns, to be spread into `Bun.serve`. */
export type ServeOptions = {
  websocket: Bun.WebSocketHandler<ServerWebSocket>;
  routes: Bun.Serve.Routes<ServerWebSocket, string>;
  fetch: (request: Request) => Response;
  development: false;
  reusePort: false;
};

/** A WebSocket server on Bun. Made by {@link harpia}. */
export class Harpia {
  /** Every open connection, and what has been counted. */
  readonly websocket: {
    /** Live and read-only: a connection is in it from before `open` until before `close`. */
    readonly connections: Connections;
    /** Numbers since the app was made. */
    readonly counters: Readonly<Counters>;
  };
  readonly #hub: Hub;
  readonly #routes = new Map<string, Route>();
  readonly #broker: Broker;
  readonly #topics: Topics[] = [];
  #listening: { options: ListenOptions; server: BunServer } | undefined;
  #frozen = false;
  #warned = false;
  #stopped: Promise<void> | undefined;

  /** @internal */
  constructor(options: HarpiaOptions) {
    requireBun();
    const settings = settingsOf(options);
    this.#broker = options.broker ?? new MemoryBroker();
    this.#hub = new Hub(settings, this.#broker, silent);
    void this.#hub.relay.onCommand("disconnect", (order) => void this.#disconnect(order));
    if (options.maxConnections === undefined) this.#hub.settings.maxConnections = defaultMaxConnections();
    this.#broker.onReconnect = () => {
      for (const topics of this.#topics) void topics.poll();
    };
    const { connections, counters } = this.#hub;
    this.websocket = { connections, counters };
  }

  /** Bun's server, once there is one. */
  get server(): BunServer | undefined {
    return this.#hub.server;
  }

  /**
   * Registers a WebSocket route. `ws.data` and `ws.params` are inferred from `upgrade` and from the path; with a type
   * argument, `ws.data` is of that type. Works after `listen` too.
   * @param path Bun's route syntax: `/chat`, `/room/:roomId`, `/files/*`.
   * @throws HarpiaError `INVALID_PATH`, `ROUTE_CONFLICT`, `UNKNOWN_OPTION`, `INVALID_OPTION`, `ROUTES_FROZEN`, `STOPPED`.
   */
  ws<const Path extends string, Returned extends object>(
    path: Path,
    route: WebSocketRoute<InferredData<Returned>, PathParams<Path>, Returned>,
  ): void;
  ws<Data extends object>(
    path: string,
    route: WebSocketRoute<ConnectionData<Data>, Record<string, string>, Data>,
  ): void;
  ws(path: string, handlers: unknown): void {
    this.#register(path, handlers, undefined);
  }

  /**
   * A channel: a WebSocket route that speaks a contract. It is registered by `implement`, which gives its Live,
   * through which the server speaks first. In two steps, because only so can TypeScript know `ws.data` in the methods.
   * @param hooks What stands around the methods; `upgrade` as in {@link Harpia.ws}.
   * @example
   * const live = app
   *   .channel(chat, { upgrade: (request, { token }) => ({ user: verify(token) }) })
   *   .implement({ methods: { say: ({ text }, { ws }) => ({ from: ws.data.user.name, text }) } });
   * @throws as {@link Harpia.ws}.
   */
  channel<const C extends Contract, Returned extends object>(
    contract: C,
    hooks: ChannelHooks<C, Returned> = {},
  ): Channel<C, ChannelSocket<C, Returned>> {
    return {
      implement: (implementation) => {
        // The types have been held to the contract here; inside, a socket is a socket.
        const parts = { broker: this.#broker, hub: this.#hub };
        const { route, live, topics } = implement(contract, hooks as object, implementation, parts);
        this.#register(contract.path, route, SUBPROTOCOL);
        this.#topics.push(topics);
        this.#warnOfReusePort();
        return live as unknown as Live<C, ChannelSocket<C, Returned>>;
      },
    };
  }

  #register(path: string, handlers: unknown, closesFor: string | undefined): void {
    const where = `app.${closesFor === undefined ? "ws" : "channel"}(${show(path)}, …)`;
    this.#refuseStopped(where);
    if (this.#frozen) {
      throw new HarpiaError(
        "ROUTES_FROZEN",
        `${where}: serveOptions() has handed out the routes already. Register all routes before it.`,
        { value: path },
      );
    }
    // Handlers are kept with their types erased: each is only ever given the sockets of its own route.
    const route = new Route(path, handlers as WebSocketRoute, this.#hub, closesFor);
    const twin = this.#routes.get(shapeOf(path));
    if (twin) {
      const why =
        twin.path === path ? "it is registered already" : `${show(twin.path)} matches the same requests`;
      throw new HarpiaError("ROUTE_CONFLICT", `${where}: ${why}. A path has one route.`, {
        value: path,
      });
    }
    if (this.#listening) refuseTaken(path, this.#listening.options.routes);
    this.#routes.set(shapeOf(path), route);
    if (this.#listening)
      reload(
        this.#listening.server,
        bunOptions(this.#listening.options),
        this.#parts(this.#listening.options),
      );
  }

  /**
   * Starts the server. Takes all that `Bun.serve` takes except `websocket`.
   * @returns Bun's server (`port`, `url`, …). Stop it with `app.stop()`.
   * @throws HarpiaError before anything is bound, naming the option that cannot work; see docs/errors.md.
   */
  listen<R extends string = string>(options: ListenOptions<R> = {}): BunServer {
    this.#refuseStopped("app.listen()");
    if (this.#listening || this.#frozen) {
      const why = this.#frozen
        ? "serveOptions() has given this app to another server"
        : `it listens already on ${this.#hub.server?.url}`;
      throw new HarpiaError("ALREADY_LISTENING", `app.listen(): ${why}. Make a second app with harpia().`);
    }
    const given = options as ListenOptions;
    checkListen(given);
    for (const { path } of this.#routes.values()) refuseTaken(path, given.routes);
    const limits = this.#hub.settings.limits;
    this.#hub.settings.limits = limitsOf(given.ws, limits, "app.listen({ ws })");
    try {
      const server = serve(bunOptions(given), this.#parts(given));
      this.#hub.server = server;
      this.#listening = { options: given, server };
      this.#warnOfReusePort();
      return server;
    } catch (error) {
      this.#hub.settings.limits = limits;
      throw error;
    }
  }

  /**
   * The app as options for somebody else's server: `Bun.serve({ ...app.serveOptions(), fetch: hono.fetch })`.
   * Routes are frozen from then on. `stop` closes the connections, and leaves the server to its owner.
   */
  serveOptions(options: ServeOptionsInput = {}): ServeOptions {
    this.#refuseStopped("app.serveOptions()");
    if (this.#listening) {
      throw new HarpiaError(
        "ALREADY_LISTENING",
        "app.serveOptions(): this app listens by itself. Use one or the other.",
      );
    }
    refuseUnknown(options, ["ws", "routes"], "app.serveOptions(options)");
    for (const { path } of this.#routes.values()) refuseTaken(path, options.routes);
    this.#hub.settings.limits = limitsOf(options.ws, this.#hub.settings.limits, "app.serveOptions({ ws })");
    this.#frozen = true;
    return this.#parts(options) as unknown as ServeOptions;
  }

  /**
   * Sends to all subscribers of a plain topic, on every process that shares the app's broker, at most once.
   * @param options.compress Default: whether `perMessageDeflate` is on. `true` and `false` will do, as in Bun.
   * @param options.local Only to those of this process. Default `false`.
   * @returns bytes sent here; −1 if some of it waits for a slow subscriber; 0 if a subscriber had no room for it, or there
   * is none here.
   */
  publish(topic: string, data: Sendable, options?: boolean | PublishOptions): number {
    const where = "app.publish(topic, data)";
    checkTopic(topic, where);
    if (typeof data !== "string") checkBytes(data, where);
    const hub = this.#hub;
    const { compress, local } = publishOptions(options, hub.settings.limits.perMessageDeflate, where);
    if (!local) hub.relay.publish(topic, data);
    const { server } = hub;
    if (server === undefined) return 0;
    const sent = server.publish(topic, data, compress);
    if (sent === 0 && sizeOf(data) > 0) hub.publicationDropped(server.subscriberCount(topic));
    return sent;
  }

  /**
   * Closes connections, on every process that shares the app's broker: those subscribed to a plain topic, or those
   * that are present in some topic of a channel under a key (a person's, say, in all their tabs).
   * @param options.code Default 1008, after which harpia's client does not come back.
   * @returns how many were closed here. Rejects with a BrokerError if other processes could not be told.
   */
  async disconnect(
    whom: { topic: string } | { key: string },
    { code = 1008, reason = "Disconnected" }: { code?: number; reason?: string } = {},
  ): Promise<number> {
    const order = { ...whom, code, reason };
    if (!("topic" in order) && typeof order.key !== "string") {
      throw new HarpiaError("INVALID_OPTION", "app.disconnect(whom): give it a { topic } or a { key }.", {
        value: whom,
      });
    }
    if ("topic" in order) checkTopic(order.topic, "app.disconnect({ topic })");
    const closed = this.#disconnect(order);
    await this.#hub.relay.command("disconnect", order);
    return closed;
  }

  /** How the app is: for a readiness probe. Not ok while it stops, and while its broker is away. */
  health(): Health {
    const { draining, connections } = this.#hub;
    const broker = { name: this.#broker.name, ...this.#broker.health() };
    return { ok: !draining && broker.ok, draining, connections: connections.size, broker };
  }

  /**
   * `health()` over HTTP: 200, or 503 while not ok.
   * @example
   * app.listen({ routes: { "/healthz": app.healthz } });
   */
  readonly healthz = (): Response => {
    const health = this.health();
    return Response.json(health, { status: health.ok ? 200 : 503, headers: { "cache-control": "no-store" } });
  };

  /**
   * Stops gracefully: new handshakes get 503, running handlers finish, every connection is closed with 1001 and its
   * `close` handler awaited, then the server stops. What is left at `timeout` is cut. Idempotent: a second call
   * returns the first one's promise.
   */
  stop(options: StopOptions = {}): Promise<void> {
    refuseUnknown(options, ["timeout", "restart"], "app.stop(options)");
    const { timeout = 10_000, restart = false } = options;
    if (typeof timeout !== "number" || !(timeout >= 0)) {
      throw new HarpiaError(
        "INVALID_OPTION",
        `app.stop(options): "timeout" must be milliseconds, and is ${show(timeout)}.`,
        {
          value: timeout,
        },
      );
    }
    return (this.#stopped ??= this.#shutDown(timeout, restart ? 1012 : 1001));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #shutDown(timeout: number, code: number): Promise<void> {
    const hub = this.#hub;
    hub.draining = true;
    const { promise: deadline, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, Math.min(timeout, 2 ** 31 - 1));
    const before = hub.work;
    hub.work = new Work();
    await Promise.race([before.idle(), deadline]);
    for (const ws of hub.connections) ws.close(code, code === 1012 ? "Service restart" : "Going away");
    await Promise.race([hub.work.idle(), deadline]);
    hub.relay.close();
    await Promise.race([this.#broker.close(), deadline]);
    if (this.#listening) {
      const { server } = this.#listening;
      await Promise.race([server.stop(), deadline]);
      await server.stop(true);
    }
    clearTimeout(timer);
  }

  #disconnect(order: ({ topic: string } | { key: string }) & { code: number; reason: string }): number {
    const whom = new Set<ServerWebSocket>();
    if ("topic" in order) {
      for (const ws of this.#hub.connections) if (ws.isSubscribed(order.topic)) whom.add(ws);
    } else {
      for (const topics of this.#topics) for (const ws of topics.presentAs(order.key)) whom.add(ws);
    }
    for (const ws of whom) ws.close(order.code, order.reason);
    return whom.size;
  }

  /** Several processes on one port are several worlds, unless they share a broker. */
  #warnOfReusePort(): void {
    const options = this.#listening?.options;
    if (this.#warned || this.#broker.shared || !options || !("reusePort" in options) || !options.reusePort)
      return;
    if (!this.#topics.some((topics) => topics.haveHistory)) return;
    this.#warned = true;
    this.#hub.settings.logger.warn(
      `reusePort lets other processes serve this port, and the ${this.#broker.name} broker is this process' own: clients of one process do not see what is published on another, and lose their place when they change. Give all of them the same broker: harpia({ broker: redis({ url }) })`,
    );
  }

  #parts(options: Pick<ListenOptions, "routes" | "fetch" | "development">): ServeParts {
    const meet = (server: BunServer): void => {
      this.#hub.server = server;
    };
    const routes: Record<string, unknown> = { ...options.routes };
    for (const route of this.#routes.values()) routes[route.path] = bunRoute(route, meet);
    return {
      routes,
      websocket: websocketHandler(this.#hub.settings.limits),
      fetch: options.fetch ?? notFound,
      // Bun's own default shows error messages and file paths to whoever asks.
      development: options.development ?? false,
      // With `development: false` and this left out, Bun lets a second process share the port, and says nothing.
      reusePort: "reusePort" in options && options.reusePort === true,
    };
  }

  #refuseStopped(what: string): void {
    if (!this.#stopped) return;
    throw new HarpiaError("STOPPED", `${what}: this app was stopped. Make a new one with harpia().`);
  }
}

/**
 * Makes an app.
 * @example
 * const app = harpia();
 * app.ws("/echo", { message(ws, message) { ws.send(message); } });
 * app.listen({ port: 3000 });
 * @throws HarpiaError `BUN_REQUIRED`, `UNKNOWN_OPTION`, `INVALID_OPTION`.
 */
export function harpia(options: HarpiaOptions = {}): Harpia {
  return new Harpia(options);
}

function notFound(): Response {
  return new Response("Not found\n", {
    status: 404,
    headers: { "content-type": "text/plain; charset=utf-8" },
  });
}

function bunOptions(options: ListenOptions): object {
  const { ws: _ws, ...others } = options;
  return others;
}

function refuseTaken(path: string, routes: object | undefined): void {
  const taken = Object.keys(routes ?? {}).find((other) => shapeOf(other) === shapeOf(path));
  if (taken === undefined) return;
  throw new HarpiaError(
    "ROUTE_CONFLICT",
    `app.ws(${show(path)}, …): ${show(taken)} in listen({ routes }) matches the same requests. Give one of them another path.`,
    { value: path },
  );
}
