// The documentation is held to the code: samples compile, the README's first one runs, links lead somewhere, and the
// pages of errors and options list what there is.

import { expect, test } from "bun:test";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { ERROR_CODES, harpia } from "harpia";
import { redis } from "harpia/redis";
import { sqlite } from "harpia/sqlite";
import { BROKER_ERROR_CODES } from "../../src/broker/broker.js";
import { RPC_CODES } from "harpia/contract";
import { anchors, blocks, type Page, pages, programs, readme, ROOT } from "./markdown.js";

const page = (path: string): Page => pages.find((page) => page.path === path)!;

test("every TypeScript sample compiles under strict", async () => {
  const folder = join(ROOT, ".cache/samples");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: { strict: true },
    include: ["."],
    exclude: [],
  };
  await Bun.write(join(folder, "tsconfig.json"), JSON.stringify(config));
  let count = 0;
  for (const each of pages) {
    for (const { path, code } of programs(each)) {
      await Bun.write(join(folder, each.path.replaceAll("/", "-"), path), code);
      count++;
    }
  }
  expect(count).toBeGreaterThan(12);
  const tsc = Bun.spawnSync([process.execPath, "x", "tsc", "-p", folder], { cwd: ROOT });
  expect(tsc.stdout.toString()).toBe("");
  expect(tsc.exitCode).toBe(0);
}, 30_000);

test("no page has TypeScript before its first import", () => {
  for (const each of pages) {
    const [first] = blocks(each, "tsx?");
    if (first !== undefined)
      expect([each.path, first]).toEqual([each.path, expect.stringMatching(/^(\/\/.*\n)*import /)]);
  }
});

test("every browser sample parses", () => {
  const transpiler = new Bun.Transpiler({ loader: "js" });
  for (const each of pages) for (const block of blocks(each, "js")) transpiler.transformSync(block);
});

test("the README's client is told, answered, streamed to, and comes back when the server does", async () => {
  await using first = await run("server.ts");
  const { port } = new URL(first.url);
  await using ada = start(await place("client.ts", port));
  expect(await ada.until("0")).toEqual([
    "open",
    "Ada: hello",
    expect.stringMatching(/^said at /),
    "3",
    "2",
    "1",
    "0",
  ]);
  first.child.kill("SIGTERM");
  await first.child.exited;
  await ada.until("reconnecting");
  await using _again = await run("server.ts", port);
  await ada.until("open");
}, 30_000);

test("the README's client says until when it is muted", async () => {
  await using server = await run("server.ts");
  const file = await place("client.ts", new URL(server.url).port);
  await Bun.write(file, (await Bun.file(file).text()).replace("token-of-ada", "token-of-bob"));
  await using bob = start(file);
  expect(await bob.until("muted until 2100")).toEqual(["open", "muted until 2100"]);
}, 30_000);

test("the smallest channel of docs/channels.md runs, and its test passes", async () => {
  const folder = join(ROOT, ".cache/channels");
  for (const { path, code } of programs(page("docs/channels.md"))) {
    if (path.startsWith("hello/")) await Bun.write(join(folder, path), code);
  }
  const test_ = Bun.spawnSync([process.execPath, "test", join(folder, "hello/hello.test.ts")], { cwd: ROOT });
  expect(test_.stderr.toString()).toContain(" 1 pass");

  const [serverFile, clientFile] = [join(folder, "hello/server.ts"), join(folder, "hello/client.ts")];
  await Bun.write(serverFile, (await Bun.file(serverFile).text()).replace("port: 3000", "port: 0"));
  await using server = start(serverFile);
  const [said] = await server.until(/^listening on /);
  const address = /localhost:\d+/.exec(said!)![0];
  await Bun.write(clientFile, (await Bun.file(clientFile).text()).replace("localhost:3000", address));
  await using client = start(clientFile);
  expect(await client.until("Hello Ada")).toEqual(["Hello Ada"]);
  expect(await client.child.exited).toBe(0);
}, 30_000);

test("the smallest topic of docs/topics.md runs: what one writes, another reads, and begins with what was there", async () => {
  const folder = join(ROOT, ".cache/topics");
  for (const { path, code } of programs(page("docs/topics.md"))) {
    if (path.startsWith("board/")) await Bun.write(join(folder, path), code.replace("port: 3000", "port: 0"));
  }
  await using server = start(join(folder, "board/server.ts"));
  const { port } = new URL((await server.until(/^listening on /)).at(-1)!.slice("listening on ".length));
  const file = join(folder, "board/client.ts");
  await Bun.write(file, (await Bun.file(file).text()).replace("localhost:3000", `localhost:${port}`));
  await using ada = start(file);
  await ada.until(/^1: hello at /);
  await using bob = start(file);
  expect(await bob.until(/^2: /)).toEqual([
    expect.stringMatching(/^1: hello at /),
    expect.stringMatching(/^2: hello at /),
  ]);
  await ada.until(/^2: hello at /);
}, 30_000);

test("the README's room runs: members are let in, others refused, and everybody hears", async () => {
  await using server = await run("room.ts");
  const { child, url } = server;
  const heard: string[] = [];
  const join_ = (token: string): Promise<WebSocket> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(`${url}/room/lobby?token=${token}`);
      socket.onopen = () => resolve(socket);
      socket.onerror = () => reject(new Error("refused"));
    });
  await expect(join_("wrong")).rejects.toThrow("refused");
  const ada = await join_("token-of-ada");
  const all = Promise.withResolvers<void>();
  ada.onmessage = ({ data }) => {
    heard.push(String(data));
    if (heard.length === 3) all.resolve();
  };
  const end = new Promise<number>((resolve) => (ada.onclose = ({ code }) => resolve(code)));
  const bob = await join_("token-of-bob");
  bob.send("hello");
  bob.close(1000);
  await all.promise;
  expect(heard).toEqual(["Bob joined", "Bob: hello", "Bob left (1000)"]);
  child.kill("SIGTERM");
  expect(await end).toBe(1001);
  await child.exited;
});

test("the two commands of the README are there", () => {
  const commands = blocks(page("README.md"), "sh").join("\n");
  for (const command of ["npm install && npm start", "npm install && npm test"])
    expect(commands).toContain(command);
});

test("every link inside the repository leads to a file, and every anchor to a heading", () => {
  const broken: string[] = [];
  for (const { path, text } of pages) {
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const [file, anchor] = target!.split("#") as [string, string?];
      const to = file === "" ? path : relative(ROOT, join(ROOT, dirname(path), file));
      const found = pages.find((page) => page.path === to);
      if (!existsSync(join(ROOT, to))) broken.push(`${path}: ${target}`);
      else if (anchor !== undefined && !(found && anchors(found).includes(anchor)))
        broken.push(`${path}: ${target}`);
    }
  }
  expect(broken).toEqual([]);
});

test("docs/errors.md explains every error code, and no other", () => {
  const explained = [...page("docs/errors.md").text.matchAll(/^### ([A-Z_]+)$/gm)].map(([, code]) => code!);
  expect(explained.toSorted()).toEqual([...ERROR_CODES].sort());
});

test("its table of BrokerError has every code, and no other", () => {
  const { text } = page("docs/errors.md");
  const section = text.slice(text.indexOf("## BrokerError"), text.indexOf("## ProtocolError"));
  const explained = [...section.matchAll(/^\| `([A-Z_]+)`/gm)].map(([, code]) => code!);
  expect(explained.toSorted()).toEqual([...BROKER_ERROR_CODES].sort());
});

test("docs/brokers.md lists every option of `sqlite`, and no other", () => {
  const known = messageOf(() => sqlite("never-made.db", { qqqqqq: 1 } as never)).match(
    /It takes: (.*)\./,
  )![1]!;
  const { text } = page("docs/brokers.md");
  const section = text.slice(text.indexOf("## SQLite"), text.indexOf("### What it costs"));
  const listed = [...section.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name!);
  expect(listed.toSorted()).toEqual(known.split(", ").sort());
});

test("docs/brokers.md lists every option of `redis`, and no other", () => {
  const known = messageOf(() => redis({ qqqqqq: 1 } as never)).match(/It takes: (.*)\./)![1]!;
  const { text } = page("docs/brokers.md");
  const section = text.slice(text.indexOf("## Redis"), text.indexOf("### What Redis keeps"));
  const listed = [...section.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name!);
  expect(listed.toSorted()).toEqual(known.split(", ").sort());
});

test("docs/client.md explains every reason of an RpcError, and no other", () => {
  const { text } = page("docs/client.md");
  const cells = [...text.matchAll(/^\| (`[A-Z_`, ]+`) *\|/gm)].map(([, cell]) => cell!);
  const explained = cells.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, reason]) => reason!));
  const all = [...Object.keys(RPC_CODES), "CONNECTION_LOST", "CLOSED"];
  expect(explained.toSorted()).toEqual(all.toSorted());
});

test("every error code is thrown somewhere in the source", async () => {
  const source = Bun.spawnSync([
    "grep",
    "-rhoE",
    '"[A-Z]+(_[A-Z]+)+"|"STOPPED"',
    join(ROOT, "src"),
  ]).stdout.toString();
  for (const code of [...ERROR_CODES, ...BROKER_ERROR_CODES])
    expect([code, source.split(`"${code}"`).length > 2]).toEqual([code, true]);
});

test("docs/options.md lists every option, and no other", () => {
  const app = harpia({ logger: false });
  // An unknown name is answered with all that are known.
  const wrong = { qqqqqqqqqqqqqqqqqqqqqqqqqq: 1 } as never;
  const lists: [string, () => unknown][] = [
    ["`harpia(options)`", () => harpia(wrong)],
    ["`listen({ ws })`", () => harpia({ ws: wrong })],
    ["`app.ws(path, route)`", () => app.ws("/", wrong)],
    ["`app.stop(options)`", () => app.stop(wrong)],
  ];
  for (const [heading, act] of lists) {
    const known = messageOf(act)
      .match(/It takes: (.*)\./)![1]!
      .split(", ");
    expect([heading, ...optionsUnder(heading)]).toEqual([heading, ...known.toSorted()]);
  }
  expect(optionsUnder("Counters")).toEqual(Object.keys(app.websocket.counters).sort());
});

/** Puts a file of the README's where it runs, its neighbours beside it. Its port is the reader's; a test takes another. */
async function place(name: string, port: string): Promise<string> {
  const folder = join(ROOT, ".cache/readme");
  await Bun.write(join(folder, "chat.ts"), readme("chat.ts"));
  await Bun.write(join(folder, name), readme(name).replace(/(port: |localhost:)3000/, `$1${port}`));
  return join(folder, name);
}

interface Server extends AsyncDisposable {
  child: Bun.Subprocess;
  /** `ws://…`, without a path. */
  url: string;
}

async function run(name: string, port = "0"): Promise<Server> {
  const program = start(await place(name, port));
  const lines = await program.until(/^listening on /);
  const url = lines.at(-1)!.replace(/^listening on http(.*)\/$/, "ws$1");
  return { ...program, url };
}

/** Runs a program; `until` reads its lines up to one, from where it stopped the last time. */
function start(file: string) {
  const child = Bun.spawn([process.execPath, file], { cwd: ROOT, stdout: "pipe", stderr: "inherit" });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    child,
    async until(wanted: string | RegExp): Promise<string[]> {
      const lines: string[] = [];
      for (;;) {
        const end = text.indexOf("\n");
        if (end >= 0) {
          const line = text.slice(0, end);
          text = text.slice(end + 1);
          lines.push(line);
          if (typeof wanted === "string" ? line === wanted : wanted.test(line)) return lines;
          continue;
        }
        const { value, done } = await reader.read();
        if (done) throw new Error(`${file} ended, and said:\n${lines.join("\n")}`);
        text += value;
      }
    },
    async [Symbol.asyncDispose](): Promise<void> {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

function optionsUnder(heading: string): string[] {
  const { text } = page("docs/options.md");
  const from = text.indexOf(`## ${heading}`);
  const section = text.slice(from, text.indexOf("\n## ", from + 1) >>> 0);
  const cells = [...section.matchAll(/^\| (`[^|]*`) *\|/gm)].map(([, cell]) => cell!);
  return cells.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name!)).sort();
}

function messageOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("nothing was thrown");
}
