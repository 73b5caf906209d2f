// testApp: an app on a free port, its clients, what they await, and that nothing is left when the test is over.

import { describe, expect, test } from "bun:test";
import { type Harpia, HarpiaError } from "harpia";
import { defineChannel } from "harpia/contract";
import { type TestApp, testApp, TestError } from "harpia/testing";
import { z } from "zod";
import { quiet, until } from "../support/app.js";
import { Events } from "../support/log.js";

const chat = defineChannel({
  path: "/chat",
  methods: {
    say: { params: z.object({ text: z.string() }), result: z.string() },
    never: {},
  },
});
const room = defineChannel({ path: "/room/:id", methods: { where: { result: z.string() } } });

/** How connections ended, as the server saw it. */
const ends = new Events<number>();

function makeApp(name = "first"): Harpia {
  const app = quiet();
  app.ws("/echo", {
    message: (ws, message) => void ws.send(message),
    close: (_ws, code) => void ends.push(code),
  });
  app.ws("/bye", { open: (ws) => ws.close(4000, "enough") });
  app.ws("/last-words", {
    open(ws) {
      ws.send("one");
      ws.send("two");
      ws.close(1000);
    },
  });
  app.ws("/private", { upgrade: () => new Response("Invalid token", { status: 401 }) });
  app.ws("/forever", { upgrade: () => new Promise<undefined>(() => {}) });
  app.ws("/offers", { upgrade: () => undefined, open: (ws) => void ws.send(ws.protocol) });
  app.ws("/head", {
    upgrade: (request) => ({ origin: request.headers.get("x-me") ?? "" }),
    open: (ws) => void ws.send(ws.data.origin),
  });
  app.channel(chat).implement({
    methods: {
      say: ({ text }) => `${name}: ${text}`,
      never: () => new Promise<void>(() => {}),
    },
  });
  app.channel(room).implement({ methods: { where: (_params, { ws }) => ws.params.id } });
  return app;
}

async function messageOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error("it did not reject"),
    (error: unknown) => error,
  );
  return `${(error as TestError).code}: ${(error as Error).message}`;
}

describe("t.socket", () => {
  test("hands out messages one by one, in order, text as strings and binary as Buffers", async () => {
    await using t = await testApp(makeApp());
    const socket = await t.socket("/echo");
    socket.send("hello");
    socket.send(Buffer.from([1, 2, 3]));
    socket.send("");
    expect(await socket.next()).toBe("hello");
    expect(await socket.next()).toEqual(Buffer.from([1, 2, 3]));
    expect(await socket.next()).toBe("");
  });

  test("tells how the connection ended, and keeps what came before", async () => {
    await using t = await testApp(makeApp());
    expect(await (await t.socket("/bye")).closed()).toEqual({ code: 4000, reason: "enough" });
    const socket = await t.socket("/last-words");
    expect(await socket.closed()).toEqual({ code: 1000, reason: "" });
    expect([await socket.next(), await socket.next(), socket.unread]).toEqual(["one", "two", 0]);
  });

  test("offers subprotocols and sends headers", async () => {
    await using t = await testApp(makeApp());
    const socket = await t.socket("/offers", { protocols: ["a", "b"] });
    expect([await socket.next(), socket.protocol]).toEqual(["a", "a"]);
    expect(await (await t.socket("/head", { headers: { "x-me": "ada" } })).next()).toBe("ada");
  });

  test("rejects with the status of a refusal", async () => {
    await using t = await testApp(makeApp());
    expect(await messageOf(t.socket("/private"))).toMatch(
      /^REFUSED: t\.socket: \/private was refused: .*401/,
    );
    expect(await messageOf(t.socket("/nowhere"))).toMatch(/404/);
  });

  test("rejects when the handshake is not answered in time", async () => {
    await using t = await testApp(makeApp());
    expect(await messageOf(t.socket("/forever", { timeout: 50 }))).toBe(
      "TIMEOUT: t.socket: no answer to the handshake on /forever in 50 ms.",
    );
  });

  test("refuses a path that is none", async () => {
    await using t = await testApp(makeApp());
    expect(await messageOf(t.socket("echo"))).toBe(
      'INVALID_OPTION: t.socket(path): "path" must begin with "/".',
    );
  });

  test("says what it waited for, and what came instead", async () => {
    await using t = await testApp(makeApp());
    const socket = await t.socket("/echo");
    expect(await messageOf(socket.next({ timeout: 20 }))).toBe(
      "TIMEOUT: next(): no message on /echo within 20 ms; the socket is open, and no message came before.",
    );
    socket.send("x".repeat(100));
    await socket.next();
    expect(await messageOf(socket.next({ timeout: 20 }))).toContain(
      `1 message came before, the last "${"x".repeat(80)}…".`,
    );
    socket.send(Buffer.alloc(7));
    await until(() => socket.unread === 1);
    expect(await messageOf(socket.closed({ timeout: 20 }))).toBe(
      "TIMEOUT: closed(): the socket on /echo was still open after 20 ms; 2 messages came before, the last of 7 bytes, 1 of them unread.",
    );
    const bye = await t.socket("/bye");
    expect(await messageOf(bye.next())).toBe(
      'CLOSED: next(): the socket on /bye closed with 4000 "enough" instead of a message; no message came before.',
    );
    expect(() => bye.send("hello?")).toThrow('send: the socket on /bye has closed with 4000 "enough".');
  });

  test("a message that comes after a wait has timed out is not lost", async () => {
    await using t = await testApp(makeApp());
    const socket = await t.socket("/echo");
    await messageOf(socket.next({ timeout: 1 }));
    socket.send("late");
    expect(await socket.next()).toBe("late");
  });
});

describe("t.connect", () => {
  test("gives a client of the contract", async () => {
    await using t = await testApp(makeApp());
    const client = t.connect(chat);
    expect(await client.call("say", { text: "hi" })).toBe("first: hi");
  });

  test("takes what connect takes, the path's params among it", async () => {
    await using t = await testApp(makeApp());
    expect(await t.connect(room, { params: { id: "a/b" } }).call("where")).toBe("a/b");
    // @ts-expect-error The path has a param.
    expect(() => t.connect(room)).toThrow("id");
  });
});

describe("t.url", () => {
  test("is for anything else that speaks HTTP or WebSocket, faults included", async () => {
    await using t = await testApp(makeApp(), { fetch: () => new Response("home") });
    expect(await (await fetch(t.url)).text()).toBe("home");
    const socket = new WebSocket(`${t.url.replace("http", "ws")}/echo`);
    await new Promise((resolve) => (socket.onopen = resolve));
    const end = new Promise<number>((resolve) => (socket.onclose = ({ code }) => resolve(code)));
    t.cut();
    expect(await end).toBe(1006);
  });
});

describe("faults", () => {
  test("of t are everybody's, also of those who come later; of t.network(client) are one's", async () => {
    await using t = await testApp(makeApp());
    const [ada, bob] = [await t.socket("/echo"), await t.socket("/echo")];
    t.network(ada).freeze();
    ada.send("a");
    bob.send("b");
    expect(await bob.next()).toBe("b");
    expect(ada.unread).toBe(0);
    t.thaw();
    expect(await ada.next()).toBe("a");

    t.freeze();
    const late = t.socket("/echo");
    bob.send("c");
    expect(await messageOf(bob.next({ timeout: 30 }))).toStartWith("TIMEOUT");
    t.thaw();
    expect(await bob.next()).toBe("c");
    await late;
    t.network(bob).cut();
    expect((await bob.closed()).code).toBe(1006);
    ada.send("still here");
    expect(await ada.next()).toBe("still here");
  });

  test("a client comes back after a cut, on the same network", async () => {
    await using t = await testApp(makeApp());
    const client = t.connect(chat);
    await client.call("say", { text: "1" });
    const network = t.network(client);
    for (const cut of [() => t.cut(), () => network.cutAfter(0)]) {
      const down = new Promise<void>((resolve) => {
        const stop = client.onState((state) => {
          if (state === "reconnecting") resolve(stop());
        });
      });
      cut();
      await down;
      expect(await client.call("say", { text: "2" })).toBe("first: 2");
    }
    expect(t.network(client)).toBe(network);
  });

  test("t.network refuses whom it does not know", async () => {
    await using t = await testApp(makeApp());
    await using other = await testApp(makeApp());
    const client = other.connect(chat);
    expect(() => t.network(client)).toThrow(HarpiaError);
  });
});

test("a reader behind a frozen network backs the server up, and reads all of it later", async () => {
  const app = quiet();
  const room = Promise.withResolvers<void>();
  let taken = 0;
  let start = (): void => {};
  app.ws("/flood", {
    open(ws) {
      start = () => {
        // Without the freeze, the kernels would take some megabytes of it first.
        while (ws.send(Buffer.alloc(64 * 1024)) > 0) taken++;
        taken++; // -1: it waits, and is not dropped
      };
    },
    drain: () => room.resolve(),
  });
  await using t = await testApp(app);
  const socket = await t.socket("/flood");
  t.network(socket).freeze("down");
  start();
  const [ws] = app.websocket.connections;
  expect(ws!.bufferedAmount).toBeGreaterThan(0);
  expect(socket.unread).toBe(0);
  t.network(socket).thaw();
  await room.promise;
  for (let i = 0; i < taken; i++) expect((await socket.next()).length).toBe(64 * 1024);
  expect(ws!.bufferedAmount).toBe(0);
});

describe("t.restart", () => {
  test("another app answers at the same addresses, and clients find it", async () => {
    await using t = await testApp(makeApp("first"));
    const client = t.connect(chat);
    const socket = await t.socket("/echo");
    const { url, app } = t;
    expect(await client.call("say", { text: "hi" })).toBe("first: hi");
    await t.restart(makeApp("second"));
    expect((await socket.closed()).code).toBe(1006);
    expect(await client.call("say", { text: "hi" })).toBe("second: hi");
    expect(t.url).toBe(url);
    expect(t.app).not.toBe(app);
    expect(app.websocket.connections.size).toBe(0);
  });

  test("refuses the app that it has, which goes on", async () => {
    const app = makeApp();
    await using t = await testApp(app);
    const socket = await t.socket("/echo");
    expect(await messageOf(t.restart(app))).toStartWith("ALREADY_LISTENING");
    socket.send("still here");
    expect(await socket.next()).toBe("still here");
  });
});

describe("the end", () => {
  test("closes clients with 1000 and awaits what the server does then", async () => {
    const before = ends.all.length;
    {
      await using t = await testApp(makeApp());
      await t.socket("/echo");
      await t.socket("/echo");
    }
    expect(ends.all.slice(before)).toEqual([1000, 1000]);
  });

  test("leaves nothing: no connection, no port, no client that comes back", async () => {
    let t!: TestApp;
    const app = makeApp();
    {
      await using mine = await testApp(app);
      t = mine;
      await mine.connect(chat).call("say", { text: "hi" });
      await mine.socket("/echo");
    }
    expect(app.websocket.connections.size).toBe(0);
    expect(app.websocket.counters.closed).toBe(app.websocket.counters.opened);
    await expect(fetch(t.url)).rejects.toThrow();
    expect(() => t.connect(chat)).toThrow("disposed");
    expect(await messageOf(t.socket("/echo"))).toContain("disposed");
  });

  test("comes also with a frozen network, a handshake in progress, and a call that never returns", async () => {
    const app = makeApp();
    const handshake = Promise.withResolvers<string>();
    {
      await using t = await testApp(app);
      void messageOf(t.socket("/forever", { timeout: 3_000 })).then(handshake.resolve);
      const client = t.connect(chat);
      void client.call("never").catch(() => {});
      await until(() => app.websocket.connections.size === 1);
      const socket = await t.socket("/echo");
      t.freeze();
      socket.send("never arrives");
    }
    expect(await handshake.promise).toStartWith("REFUSED");
    expect(app.websocket.connections.size).toBe(0);
  }, 15_000);

  test("may come twice", async () => {
    const t = await testApp(makeApp());
    await Promise.all([t[Symbol.asyncDispose](), t[Symbol.asyncDispose]()]);
    await t[Symbol.asyncDispose]();
  });
});

test("an app that listens already is refused, and so is what is no app", async () => {
  const app = makeApp();
  await using _t = await testApp(app);
  expect(await messageOf(testApp(app))).toStartWith("ALREADY_LISTENING");
  expect(await messageOf(testApp({} as Harpia))).toStartWith("INVALID_OPTION");
});
