// An app under test: on a free port, behind networks that can fail, with clients that are closed with it. Knows of no
// test runner.

import { Harpia } from "../app.js";
import { type Client, connect, type ConnectOptions } from "../client/client.js";
import type { Contract } from "../contract/contract.js";
import type { PathParams } from "../contract/path.js";
import { HarpiaError, show } from "../server/errors.js";
import type { ListenOptions } from "../server/options.js";
import { type CutOptions, type Direction, FaultProxy, type Faults } from "./fault-proxy.js";
import { TestSocket, type TestSocketOptions } from "./test-socket.js";

/** What `testApp` hands to `app.listen`. The address is its own: a free port of 127.0.0.1. */
export type TestListenOptions = Pick<ListenOptions, "ws" | "routes" | "fetch">;

/** What `t.connect` takes: what `connect` takes, without `url`. */
export type TestConnectArguments<C extends Contract> = keyof PathParams<C["path"]> extends never
  ? [options?: Omit<ConnectOptions<C>, "url">]
  : [options: Omit<ConnectOptions<C>, "url">];

/** How long clients may take to say goodbye. */
const GOODBYE_MS = 500;

/** How long the app may take to stop: less than a test runner's patience. */
const STOP_MS = 2_000;

/** Made by {@link testApp}. Its faults are everybody's: of each client that it made, and of all that goes to `url`. */
export class TestApp implements Faults, AsyncDisposable {
  readonly #clients = new Map<TestSocket | { close(): void }, FaultProxy>();
  readonly #proxies = new Set<FaultProxy>();
  readonly #common: FaultProxy;
  #app: Harpia;
  #options: TestListenOptions;
  #port: number;
  #disposed: Promise<void> | undefined;

  /** @internal */
  constructor(app: Harpia, options: TestListenOptions) {
    this.#app = app;
    this.#options = options;
    this.#port = listen(app, options);
    this.#common = new FaultProxy({ port: this.#port });
    this.#proxies.add(this.#common);
  }

  /** The app that listens now. */
  get app(): Harpia {
    return this.#app;
  }

  /** Where it is, for anything that speaks HTTP or WebSocket: `http://127.0.0.1:…`, through the network. */
  get url(): string {
    return `http://127.0.0.1:${this.#common.port}`;
  }

  /** A client of a channel, as `connect` makes it, on a network of its own. Closed with the app under test. */
  connect<const C extends Contract>(contract: C, ...[options]: TestConnectArguments<C>): Client<C> {
    this.#refuseDisposed("connect");
    const proxy = this.#proxy();
    const url = `ws://127.0.0.1:${proxy.port}`;
    // `url` is what the type of the arguments left out.
    const client = connect(contract, { ...options, url } as ConnectOptions<C>);
    this.#clients.set(client, proxy);
    return client;
  }

  /**
   * Opens a plain WebSocket, on a network of its own. Closed with the app under test.
   * @param path From the root, with a query if you like: `/room/lobby?token=…`.
   * @throws TestError `REFUSED` with the status that the server answered; `TIMEOUT`.
   */
  async socket(path: string, options: TestSocketOptions = {}): Promise<TestSocket> {
    this.#refuseDisposed("socket");
    if (typeof path !== "string" || !path.startsWith("/")) {
      throw new HarpiaError("INVALID_OPTION", `t.socket(path): "path" must begin with "/".`, { value: path });
    }
    const proxy = this.#proxy();
    const socket = new TestSocket(new URL(path, `ws://127.0.0.1:${proxy.port}`), options);
    this.#clients.set(socket, proxy);
    await socket.opened(options.timeout);
    return socket;
  }

  /** The network of one client or socket that this made: faults for it alone. */
  network(client: TestSocket | { close(): void }): FaultProxy {
    const proxy = this.#clients.get(client);
    if (proxy) return proxy;
    throw new HarpiaError("INVALID_OPTION", "t.network(client): made by another app, or not by t at all.");
  }

  /**
   * The server crashes and another takes its place: every connection is reset, the old app stops, the new one listens
   * behind the same addresses. For a graceful restart, stop the old one yourself first: `app.stop({ restart: true })`.
   * @param app One that does not listen yet.
   * @param options Default: those of before.
   */
  async restart(app: Harpia, options: TestListenOptions = this.#options): Promise<void> {
    this.#refuseDisposed("restart");
    requireApp(app, "t.restart(app)");
    if (app.server !== undefined) {
      throw new HarpiaError(
        "ALREADY_LISTENING",
        "t.restart(app): this app listens already, and does so once. Make a new one with harpia().",
      );
    }
    for (const proxy of this.#proxies) {
      proxy.target = undefined;
      proxy.cut({ reset: true });
    }
    await this.#app.stop({ timeout: STOP_MS });
    this.#port = listen(app, options);
    this.#app = app;
    this.#options = options;
    for (const proxy of this.#proxies) proxy.target = { port: this.#port };
  }

  cut(options?: CutOptions): void {
    for (const proxy of this.#proxies) proxy.cut(options);
  }

  cutAfter(bytes: number, direction?: Direction, options?: CutOptions): void {
    for (const proxy of this.#proxies) proxy.cutAfter(bytes, direction, options);
  }

  freeze(direction?: Direction): void {
    for (const proxy of this.#proxies) proxy.freeze(direction);
  }

  thaw(direction?: Direction): void {
    for (const proxy of this.#proxies) proxy.thaw(direction);
  }

  slow(bytesPerSecond: number, direction?: Direction): void {
    for (const proxy of this.#proxies) proxy.slow(bytesPerSecond, direction);
  }

  /**
   * Closes every client and socket with 1000, resets what has not gone after half a second, stops the app (2 s at
   * most for handlers that still run) and frees the ports.
   */
  [Symbol.asyncDispose](): Promise<void> {
    return (this.#disposed ??= this.#dispose());
  }

  async #dispose(): Promise<void> {
    const sockets = [...this.#clients.keys()].filter((client) => client instanceof TestSocket);
    for (const client of this.#clients.keys()) client.close();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const patience = new Promise((resolve) => (timer = setTimeout(resolve, GOODBYE_MS)));
    await Promise.race([Promise.all([...this.#clients.values()].map((proxy) => proxy.idle())), patience]);
    clearTimeout(timer);
    await Promise.all([...this.#proxies].map((proxy) => proxy.close()));
    await this.#app.stop({ timeout: STOP_MS });
    await Promise.all(sockets.map((socket) => socket[Symbol.asyncDispose]()));
  }

  /** Another way to the app, with the faults that all have. */
  #proxy(): FaultProxy {
    const proxy = new FaultProxy({ port: this.#port }, this.#common);
    this.#proxies.add(proxy);
    return proxy;
  }

  #refuseDisposed(what: string): void {
    if (this.#disposed) throw new HarpiaError("STOPPED", `t.${what}(): this test app has been disposed of.`);
  }
}

/**
 * Starts an app on a free port, behind a network that can fail.
 * @example
 * await using t = await testApp(makeApp());
 * const socket = await t.socket("/echo");
 * socket.send("hello");
 * expect(await socket.next()).toBe("hello");
 * @param app One that does not listen yet.
 * @throws HarpiaError as `app.listen`.
 */
export async function testApp(app: Harpia, options: TestListenOptions = {}): Promise<TestApp> {
  requireApp(app, "testApp(app)");
  return new TestApp(app, options);
}

function requireApp(app: unknown, where: string): void {
  if (app instanceof Harpia) return;
  throw new HarpiaError("INVALID_OPTION", `${where}: "app" must be made by harpia(), and is ${show(app)}.`, {
    value: app,
  });
}

function listen(app: Harpia, options: TestListenOptions): number {
  const server = app.listen({ ...options, hostname: "127.0.0.1", port: 0 } as ListenOptions);
  return server.port!; // only a unix socket has none
}
