// The document that started harpia, in websocket.txt: each of its samples is in samples/ as it is printed (white
// space aside), is type-checked with everything else, and does here what the document promises, for a real client.

import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { Glob } from "bun";
import type { Harpia, WebSocketHandlers } from "harpia";
import { listen, until } from "../support/app.js";
import { closeFrame, open } from "../support/raw.js";

const DOCUMENT = await Bun.file(new URL("websocket.txt", import.meta.url)).text();

const log = spyOn(console, "log");
afterEach(() => void log.mockReset());

describe("the document's sample is here word for word:", () => {
  const samples = [...new Glob("*.ts").scanSync(new URL("samples", import.meta.url).pathname)].sort();
  for (const name of samples) {
    test(name, async () => {
      const file = await Bun.file(new URL(`samples/${name}`, import.meta.url)).text();
      const sample = file.slice(file.indexOf("// sample\n") + 10, file.indexOf("// end\n"));
      expect(sample.length).toBeGreaterThan(40);
      expect(squeeze(DOCUMENT)).toContain(squeeze(sample));
    });
  }

  test("none is missing: every app.ws and app.listen of the document is in one", async () => {
    const files = await Promise.all(
      samples.map((name) => Bun.file(new URL(`samples/${name}`, import.meta.url)).text()),
    );
    const calls = DOCUMENT.match(/app\.(ws(<\w+>)?\("[^"]+"|listen\()/g)!;
    expect(calls).toHaveLength(8);
    for (const call of calls) expect(files.filter((file) => file.includes(call))).toHaveLength(1);
  });
});

test("basic setup: a welcome, typed data, messages, the end", async () => {
  const { app, port } = await serve("basic");
  await using client = await open(port, "/chat");
  expect(await client.text()).toBe("Welcome to the chat!");
  const [ws] = app.websocket.connections;
  expect(ws!.data.userId).toBe("123");
  ws!.data.username = "ada";
  client.send("hello");
  client.write(closeFrame(1000));
  await until(() => log.mock.calls.length === 2, "two lines");
  expect(log.mock.calls).toEqual([["Message from ada:", "hello"], ["ada disconnected"]]);
  await app.stop();
});

test("basic setup: an error reaches the error handler", async () => {
  const error = spyOn(console, "error").mockImplementation(() => {});
  const { app, port } = await serve("basic");
  await using client = await open(port, "/chat");
  client.write(Buffer.from([0x83, 0x80, 0, 0, 0, 0])); // an opcode that does not exist
  await until(() => error.mock.calls.length === 1, "the error");
  expect(error.mock.calls[0]).toEqual(["WebSocket error:", expect.any(Error)]);
  error.mockRestore();
  await app.stop();
});

test("custom connection data: assigned in open, of the declared type", async () => {
  const { app, port } = await serve("custom-data");
  await using _client = await open(port, "/game");
  const [ws] = app.websocket.connections;
  expect(ws!.data.playerId).toMatch(/^[0-9a-f-]{36}$/);
  await app.stop();
});

test("broadcast: every connected client gets the message", async () => {
  const { app, port } = await serve("broadcast");
  await using a = await open(port, "/notifications");
  await using b = await open(port, "/notifications");
  a.send("news");
  expect([await a.text(), await b.text()]).toEqual(["news", "news"]);
  await app.stop();
});

test("dynamic routes: the param is in the URL, and may be stored", async () => {
  const { app, port } = await serve("dynamic-routes");
  await using _client = await open(port, "/room/tea?x=1");
  const [ws] = app.websocket.connections;
  expect([ws!.data.roomId, ws!.params.roomId]).toEqual(["tea", "tea"]);
  await app.stop();
});

test("secure connections: listens on its port with TLS from files", async () => {
  // The paths are the reader's: they are made to mean the tests' key and certificate, and port 3000 any free one.
  const preload = `
    import { Harpia } from "harpia";
    const { file } = Bun, { listen } = Harpia.prototype;
    Bun.file = (path, options) => file(String(path).replace("/path/to", ${JSON.stringify(new URL("../support/tls", import.meta.url).pathname)}), options);
    Harpia.prototype.listen = function (options) {
      if (options.port !== 3000) throw new Error("port");
      const server = listen.call(this, { ...options, port: 0 });
      console.log(server.port);
      return server;
    };
    await import(${JSON.stringify(new URL("samples/secure-connections.ts", import.meta.url).pathname)});
  `;
  const child = Bun.spawn([process.execPath, "-e", preload], { stdout: "pipe", stderr: "inherit" });
  const { value } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  // Bun's client takes options here, which the DOM's type does not know.
  const socket = new WebSocket(`wss://localhost:${Number(value)}/`, {
    tls: { rejectUnauthorized: false },
  } as unknown as string[]);
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  socket.onmessage = ({ data }) => resolve(String(data));
  socket.onerror = () => reject(new Error("no connection"));
  expect(await promise).toBe(`https://localhost:${Number(value)}/`);
  child.kill();
  await child.exited;
});

test("connection validation: a wrong token is closed with 1008, a right one stays", async () => {
  const { app, port } = await serve("connection-validation");
  await using wrong = await open(port, "/secure?token=guess");
  expect(await wrong.closeFrame()).toEqual({ code: 1008, reason: "Invalid token" });
  await using right = await open(port, "/secure?token=let%20me%20in");
  await until(() => app.websocket.connections.size === 1, "one connection");
  app.websocket.connections.forEach((ws) => ws.send("welcome"));
  expect(await right.text()).toBe("welcome");
  await app.stop();
});

test("error handling: messages are processed, and the connection stays", async () => {
  const { app, port } = await serve("error-handling");
  await using client = await open(port, "/reliable");
  client.send("a");
  client.write(Buffer.from([0x89, 0x80, 0, 0, 0, 0]));
  expect((await client.frame()).opcode).toBe(10);
  expect(app.websocket.connections.size).toBe(1);
  await app.stop();
});

test("performance considerations: drain fires once a slow reader reads on", async () => {
  const { app, port } = await serve("performance");
  await using client = await open(port, "/high-volume");
  client.socket.pause();
  const [ws] = app.websocket.connections;
  while (ws!.send("x".repeat(64 * 1024)) > 0);
  client.socket.resume();
  await until(() => log.mock.calls.length > 0, "the drain");
  expect(log.mock.calls[0]).toEqual(["Client receive buffer full"]);
  await app.stop();
});

test("the API reference's signature: handlers typed WebSocketHandlers<T> are taken", async () => {
  const { documented } = await import("./samples/signature.js");
  const { app, port } = await serve("signature");
  const handlers: WebSocketHandlers<{ userId: string }> = {
    open(ws) {
      ws.data.userId = "7";
      ws.send(ws.data.userId);
    },
  };
  documented.ws<{ userId: string }>("/documented", handlers);
  await using client = await open(port, "/documented");
  expect(await client.text()).toBe("7");
  await app.stop();
});

/** Runs a sample's module anew, and lets its app listen. */
async function serve(name: string): Promise<{ app: Harpia; port: number }> {
  const path = new URL(`samples/${name}.ts`, import.meta.url).pathname;
  if (name !== "signature") delete require.cache[path];
  const { app } = (await import(path)) as { app: Harpia };
  return { app, port: listen(app) };
}

function squeeze(text: string): string {
  return text.replace(/\s+/g, "");
}
