// The configurations in docs/deploy/, run as they are printed but for their ports: a real nginx and a real haproxy in
// front of harpia.

import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listen, quiet } from "../support/app.js";
import { pathOf, type Program, testWith } from "../support/programs.js";
import { RawClient, request } from "../support/raw.js";
import { ROOT } from "./markdown.js";

const folder = mkdtempSync(join(tmpdir(), "harpia-proxy-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Proxy extends AsyncDisposable {
  port: number;
}

/** Runs a proxy with its configuration from the documentation, its ports replaced. */
async function start(program: Program, upstream: number, edit = (config: string) => config): Promise<Proxy> {
  const port = await freePort();
  const name = program === "nginx" ? "nginx.conf" : "haproxy.cfg";
  const printed = await Bun.file(join(ROOT, "docs/deploy", name)).text();
  let config = printed.replace("127.0.0.1:3000", `127.0.0.1:${upstream}`);
  let command: string[];
  const file = join(folder, `${port}-${name}`);
  if (program === "nginx") {
    // Where a distribution's nginx keeps these only root may write.
    const places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
      (kind) => `${kind}_temp_path ${folder}/${kind};`,
    );
    config = config
      .replace("listen 80;", `listen 127.0.0.1:${port};`)
      .replace(/^http \{/m, `http {\n access_log off;\n ${places.join("\n ")}`);
    command = [
      pathOf("nginx"),
      "-p",
      folder,
      "-c",
      file,
      "-e",
      "stderr",
      "-g",
      `daemon off; pid ${folder}/${port}.pid;`,
    ];
  } else {
    config = config.replace("bind :80", `bind 127.0.0.1:${port}`);
    command = [pathOf("haproxy"), "-db", "-f", file];
  }
  expect(config).toContain(`:${port}`);
  expect(config).toContain(`:${upstream}`);
  await Bun.write(file, edit(config));
  const child = Bun.spawn(command, { stdout: "ignore", stderr: "pipe" });
  for (let tries = 0; !(await answers(port)); tries++) {
    if (child.exitCode !== null || tries > 500) throw new Error(await new Response(child.stderr).text());
    await Bun.sleep(10);
  }
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.exited;
    },
  };
}

/** A handshake through the proxy, from another address than the proxy's own. */
async function through(port: number, headers: Record<string, string>): Promise<RawClient> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: "127.0.0.2", allowHalfOpen: true });
  await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  const client = new RawClient(socket);
  client.write(request("/room/tea?x=1", headers));
  return client;
}

for (const program of ["nginx", "haproxy"] as const) {
  const proxyTest = testWith(program);

  describe(program, () => {
    proxyTest("passes connections on; origin, address and URL are the client's", async () => {
      await using app = quiet({ trustProxy: 1 });
      app.ws("/room/:id", {
        open: (ws) => void ws.send(JSON.stringify([ws.remoteAddress, ws.data.url])),
        message: (ws, message) => void ws.send(message),
      });
      await using proxy = await start(program, listen(app));
      await using client = await through(proxy.port, {
        Host: "chat.example:8080",
        Origin: "http://chat.example:8080",
      });
      expect((await client.response()).status).toBe(101);
      expect(JSON.parse(await client.text())).toEqual(["127.0.0.2", "http://chat.example:8080/room/tea?x=1"]);
      client.send("hello");
      expect(await client.text()).toBe("hello");
    });

    proxyTest(
      "a client cannot pretend to be another: what it sends as forwarded is not believed",
      async () => {
        await using app = quiet({ trustProxy: 1 });
        app.ws("/room/:id", { open: (ws) => void ws.send(JSON.stringify([ws.remoteAddress, ws.data.url])) });
        await using proxy = await start(program, listen(app));
        const lies = {
          Host: "chat.example",
          "X-Forwarded-For": "6.6.6.6",
          "X-Forwarded-Host": "evil.example",
          "X-Forwarded-Proto": "https",
        };
        await using client = await through(proxy.port, lies);
        expect((await client.response()).status).toBe(101);
        expect(JSON.parse(await client.text())).toEqual(["127.0.0.2", "http://chat.example/room/tea?x=1"]);
      },
    );

    proxyTest("a page of another origin is refused", async () => {
      await using app = quiet({ trustProxy: 1 });
      app.ws("/room/:id", {});
      await using proxy = await start(program, listen(app));
      await using client = await through(proxy.port, {
        Host: "chat.example",
        Origin: "https://evil.example",
      });
      expect((await client.response()).status).toBe(403);
    });

    proxyTest("the end is told in both directions", async () => {
      const ended = Promise.withResolvers<number>();
      await using app = quiet({ trustProxy: 1 });
      app.ws("/room/:id", {
        message: (ws) => ws.close(4001, "enough"),
        close: (_ws, code) => ended.resolve(code),
      });
      await using proxy = await start(program, listen(app));
      await using first = await through(proxy.port, {});
      await first.response();
      first.send("now");
      expect(await first.closeFrame()).toEqual({ code: 4001, reason: "enough" });
      expect(await ended.promise).toBe(4001);
    });
  });
}

testWith("nginx")("behind nginx's default, which replaces the Host, a 403 says so", async () => {
  await using app = quiet();
  app.ws("/room/:id", {});
  const asDefault = (config: string) => config.replace(/^ *proxy_set_header Host.*$/m, "");
  await using proxy = await start("nginx", listen(app), asDefault);
  await using client = await through(proxy.port, { Host: "chat.example", Origin: "http://chat.example" });
  const { status, body } = await client.response();
  expect(status).toBe(403);
  expect(body).toContain("let it pass the Host header on");
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" })
      .once("connect", () => {
        socket.destroy();
        resolve(true);
      })
      .once("error", () => resolve(false));
  });
}

test("the configurations are complete: nothing but ports is replaced to run them", async () => {
  for (const name of ["nginx.conf", "haproxy.cfg"]) {
    expect(await Bun.file(join(ROOT, "docs/deploy", name)).text()).toContain("127.0.0.1:3000");
  }
});
