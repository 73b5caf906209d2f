// What handlers throw: it goes to `error`, or is logged and closes the connection with 1011. The process lives, and
// other connections never notice.

import { describe, expect, test } from "bun:test";
import type { WebSocketHandlers, WebSocketRoute } from "harpia";
import { echo, listen, quiet, until } from "../support/app.js";
import { Events, keptLog } from "../support/log.js";
import { closeFrame, open, type RawClient } from "../support/raw.js";

const boom = new Error("boom");

/** How each handler is made to run. `drain` needs a client that does not read for a while. */
const PROVOKE: Record<"open" | "message" | "close" | "drain", (client: RawClient) => void> = {
  open() {},
  message: (client) => client.send("fill"),
  close: (client) => client.write(closeFrame(1000)),
  drain(client) {
    client.socket.pause();
    client.send("fill");
  },
};

const fail = {
  "a sync throw": () => {
    throw boom;
  },
  "a rejection": async () => {
    throw boom;
  },
};

/** A route in which `name` fails; for `drain`, messages fill the send buffer first. */
function failing(name: keyof typeof PROVOKE, act: () => void | Promise<void>): WebSocketHandlers {
  if (name !== "drain") return { [name]: act };
  return {
    message(ws) {
      const chunk = "x".repeat(256 * 1024);
      while (ws.send(chunk) > 0);
    },
    drain: act,
  };
}

describe("without an error handler, the log has it and the connection closes with 1011:", () => {
  for (const name of Object.keys(PROVOKE) as (keyof typeof PROVOKE)[]) {
    for (const [how, act] of Object.entries(fail)) {
      test(`${how} in ${name}`, async () => {
        const log = keptLog();
        await using app = quiet({ logger: log });
        app.ws("/", failing(name, act));
        app.ws("/other", echo);
        const port = listen(app);
        await using other = await open(port, "/other");
        await using client = await open(port);
        PROVOKE[name](client);
        if (name === "drain") {
          await until(
            () => [...app.websocket.connections].some((ws) => ws.bufferedAmount > 0),
            "backpressure",
          );
          client.socket.resume();
        }
        await until(() => log.lines.length > 0, "the log line");
        expect(log.lines).toEqual([
          {
            level: "error",
            message: `the ${name} handler failed; closing the connection with 1011`,
            fields: { route: "/", connection: expect.any(String), error: boom },
          },
        ]);
        if (name !== "close")
          expect(await client.closeFrame()).toEqual({ code: 1011, reason: "Internal error" });
        expect(app.websocket.counters.errors).toBe(1);
        other.send("alive");
        expect(await other.text()).toBe("alive");
      });
    }
  }
});

describe("with an error handler, it gets the error and the connection stays:", () => {
  for (const name of ["open", "message", "drain", "close"] as const) {
    for (const [how, act] of Object.entries(fail)) {
      test(`${how} in ${name}`, async () => {
        const log = keptLog();
        const errors = new Events<Error>();
        await using app = quiet({ logger: log });
        app.ws("/", { ...failing(name, act), error: (_ws, error) => errors.push(error) });
        await using client = await open(listen(app));
        PROVOKE[name](client);
        if (name === "drain") {
          await until(
            () => [...app.websocket.connections].some((ws) => ws.bufferedAmount > 0),
            "backpressure",
          );
          client.socket.resume();
        }
        expect(await errors.until(1)).toContain(boom);
        expect(app.websocket.connections.size).toBe(name === "close" ? 0 : 1);
        expect(log.lines).toEqual([]);
        expect(app.websocket.counters.errors).toBeGreaterThanOrEqual(1);
      });
    }
  }
});

describe("an error in the error handler itself is logged, and closes with 1011:", () => {
  for (const [how, act] of Object.entries(fail)) {
    test(how, async () => {
      const log = keptLog();
      await using app = quiet({ logger: log });
      app.ws("/", { message: fail["a sync throw"], error: act });
      app.ws("/other", echo);
      const port = listen(app);
      await using other = await open(port, "/other");
      await using client = await open(port);
      client.send("now");
      expect(await client.closeFrame()).toEqual({ code: 1011, reason: "Internal error" });
      expect(log.lines.map(({ level, message }) => [level, message])).toEqual([
        ["error", "the error handler itself failed; closing the connection with 1011"],
      ]);
      other.send("alive");
      expect(await other.text()).toBe("alive");
    });
  }
});

describe("what is thrown is made an Error:", () => {
  for (const thrown of ["text", 5, undefined, null, { a: 1 }]) {
    test(`${JSON.stringify(thrown)}`, async () => {
      const errors = new Events<Error>();
      await using app = quiet();
      app.ws("/", {
        message() {
          throw thrown;
        },
        error: (_ws, error) => errors.push(error),
      });
      await using client = await open(listen(app));
      client.send("now");
      const [error] = await errors.until(1);
      expect(error).toBeInstanceOf(Error);
      expect(error!.cause).toEqual(thrown);
    });
  }
});

test("a handler that returns a thenable that is no Promise is awaited too", async () => {
  const errors = new Events<Error>();
  // What some libraries give: a thenable of their own.
  const thenable = {
    // oxlint-disable-next-line unicorn/no-thenable
    then: (_done: unknown, failed: (error: Error) => void) => failed(boom),
  } as unknown as Promise<void>;
  await using app = quiet();
  app.ws("/", { message: () => thenable, error: (_ws, error) => errors.push(error) });
  await using client = await open(listen(app));
  client.send("now");
  expect(await errors.until(1)).toEqual([boom]);
});

test("a rejection after the connection has closed reaches the error handler, and harms nobody", async () => {
  const errors = new Events<Error>();
  const gate = Promise.withResolvers<void>();
  await using app = quiet();
  app.ws("/", {
    async message() {
      await gate.promise;
      throw boom;
    },
    error: (_ws, error) => errors.push(error),
  });
  await using client = await open(listen(app));
  client.send("now");
  client.write(closeFrame(1000));
  await until(() => app.websocket.counters.closed === 1, "the end");
  gate.resolve();
  expect(await errors.until(1)).toEqual([boom]);
});

test("a process whose handlers all fail lives: no uncaughtException, no unhandledRejection", async () => {
  const script = `
    import { harpia } from ${JSON.stringify(new URL("../../src/index.ts", import.meta.url).pathname)};
    let loose = 0;
    process.on("uncaughtException", () => loose++);
    process.on("unhandledRejection", () => loose++);
    const app = harpia({ logger: false });
    for (const [path, act] of [["/sync", () => { throw 1; }], ["/async", async () => { throw 1; }]])
      for (const error of [undefined, act])
        app.ws(path + (error ? "/error" : ""), { upgrade: () => ({}), open: act, message: act, close: act, drain: act, error });
    app.ws("/upgrade/sync", { upgrade() { throw 1; } });
    app.ws("/upgrade/async", { async upgrade() { throw 1; } });
    const { port } = app.listen({ port: 0 });
    for (const path of ["/sync", "/async", "/sync/error", "/async/error", "/upgrade/sync", "/upgrade/async"]) {
      const socket = new WebSocket("ws://127.0.0.1:" + port + path);
      socket.onopen = () => socket.send("a");
      await new Promise((resolve) => { socket.onclose = resolve; socket.onerror = resolve; });
    }
    await app.stop();
    await Bun.sleep(10);
    console.log("loose", loose);
  `;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  expect(await new Response(child.stderr).text()).toBe("");
  expect(await new Response(child.stdout).text()).toBe("loose 0\n");
  expect(await child.exited).toBe(0);
});

describe("upgrade that fails", () => {
  for (const [how, act] of Object.entries(fail)) {
    test(`by ${how}: other connections never notice`, async () => {
      await using app = quiet();
      app.ws("/", { upgrade: act } as WebSocketRoute);
      app.ws("/other", echo);
      const port = listen(app);
      await using other = await open(port, "/other");
      await expect(open(port)).rejects.toThrow("refused with 500");
      other.send("alive");
      expect(await other.text()).toBe("alive");
    });
  }
});

test("the default log writes one line and the error, to the console", async () => {
  const script = `
    import { harpia } from ${JSON.stringify(new URL("../../src/index.ts", import.meta.url).pathname)};
    const app = harpia();
    app.ws("/chat", { message() { throw new Error("boom"); } });
    const { port } = app.listen({ port: 0 });
    const socket = new WebSocket("ws://127.0.0.1:" + port + "/chat");
    socket.onopen = () => socket.send("a");
    await new Promise((resolve) => { socket.onclose = resolve; });
    await app.stop();
  `;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  const printed = await new Response(child.stderr).text();
  expect(printed).toMatch(
    /^harpia: the message handler failed; closing the connection with 1011 route="\/chat" connection="[0-9a-f-]{36}"/,
  );
  expect(printed).toContain("error: boom");
});
