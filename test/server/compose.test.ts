// harpia beside HTTP: Bun's routes, a fetch function, Hono; and harpia in somebody else's server.

import { expect, test } from "bun:test";
import { Hono } from "hono";
import { echo, listen, quiet } from "../support/app.js";
import { open } from "../support/raw.js";

const get = async (port: number, path: string) => (await fetch(`http://127.0.0.1:${port}${path}`)).text();

async function echoes(port: number, path: string): Promise<void> {
  await using client = await open(port, path);
  client.send("hello");
  expect(await client.text()).toBe("hello");
}

test("routes and fetch of listen work beside sockets", async () => {
  await using app = quiet();
  app.ws("/ws", echo);
  const port = listen(app, {
    routes: { "/static": new Response("static"), "/user/:id": (request) => new Response(request.params.id) },
    fetch: () => new Response("fetch"),
  });
  expect(await get(port, "/static")).toBe("static");
  expect(await get(port, "/user/7")).toBe("7");
  expect(await get(port, "/else")).toBe("fetch");
  await echoes(port, "/ws");
});

test("a route registered after listen works, and the user's routes stay", async () => {
  await using app = quiet();
  app.ws("/first", echo);
  const port = listen(app, {
    routes: { "/static": new Response("static") },
    fetch: () => new Response("fetch"),
  });
  await using before = await open(port, "/first");
  app.ws("/second/:id", { open: (ws) => void ws.send(ws.params.id) });
  await using second = await open(port, "/second/7");
  expect(await second.text()).toBe("7");
  before.send("still here");
  expect(await before.text()).toBe("still here");
  await echoes(port, "/first");
  expect(await get(port, "/static")).toBe("static");
  expect(await get(port, "/else")).toBe("fetch");
});

test("Hono as fetch", async () => {
  const hono = new Hono().get("/api/:id", (context) => context.json({ id: context.req.param("id") }));
  await using app = quiet();
  app.ws("/ws", echo);
  const port = listen(app, { fetch: hono.fetch });
  expect(await get(port, "/api/7")).toBe('{"id":"7"}');
  await echoes(port, "/ws");
});

test("serveOptions in somebody else's Bun.serve, with Hono", async () => {
  const hono = new Hono().get("/api", (context) => context.text("hono"));
  const app = quiet();
  app.ws("/room/:id", { ...echo, open: (ws) => void ws.subscribe("news") });
  const server = Bun.serve({ ...app.serveOptions(), fetch: hono.fetch, port: 0 });
  const port = server.port!;
  expect(await get(port, "/api")).toBe("hono");
  await echoes(port, "/room/1");
  await using client = await open(port, "/room/2");
  expect(app.server === server).toBe(true);
  expect(app.publish("news", "to all")).toBeGreaterThan(0);
  expect(await client.text()).toBe("to all");
  // stop closes the sockets, and leaves the server to its owner.
  await app.stop();
  expect((await client.closeFrame()).code).toBe(1001);
  expect(await get(port, "/api")).toBe("hono");
  await server.stop(true);
});

test("serveOptions takes routes and limits of its own", async () => {
  const app = quiet();
  app.ws("/ws", echo);
  const server = Bun.serve({
    ...app.serveOptions({ routes: { "/static": new Response("static") }, ws: { maxPayloadLength: 10 } }),
    port: 0,
  });
  expect(await get(server.port!, "/static")).toBe("static");
  expect(await get(server.port!, "/else")).toBe("Not found\n");
  await using client = await open(server.port!, "/ws");
  client.send("x".repeat(11));
  expect((await client.closeFrame()).code).toBe(1009);
  await app.stop();
  await server.stop(true);
});

test("the error page of a failing route shows nothing unless development is asked for", async () => {
  // In a process of its own: Bun prints such an error, and bun test counts what is printed as its own failure.
  const script = `
    import { harpia } from ${JSON.stringify(new URL("../../src/index.ts", import.meta.url).pathname)};
    const app = harpia();
    const { url } = app.listen({ port: 0, fetch() { throw new Error("the password is hunter2"); } });
    const response = await fetch(url);
    console.log(response.status, await response.text());
    await app.stop();
  `;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "ignore" });
  const printed = await new Response(child.stdout).text();
  expect(printed).toStartWith("500");
  expect(printed).not.toContain("hunter2");
});

test("two apps in one process know nothing of each other", async () => {
  await using one = quiet();
  await using two = quiet();
  for (const app of [one, two]) app.ws("/", { open: (ws) => void ws.subscribe("news") });
  await using _a = await open(listen(one));
  await using b = await open(listen(two));
  one.publish("news", "of one");
  two.publish("news", "of two");
  expect(await b.text()).toBe("of two");
  expect(one.websocket.connections.size).toBe(1);
});
