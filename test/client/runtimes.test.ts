// The client as npm gets it on each runtime: the same program, a real server that is killed and started again, and a
// process that ends when its client is closed.

import { beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { buildDist, inWorld, type ServerProcess, startServer } from "../support/client.js";
import { contract } from "./fixture/contract.js";

const ROOT = join(import.meta.dir, "../..");
const PROGRAM = join(import.meta.dir, "fixture/runtime.mjs");

let client: string;
beforeAll(() => {
  client = join(buildDist(), "client/index.js");
}, 60_000);

// npm puts the one that the tests bring, a Node 22, before it.
const path = process.env.PATH!.split(":").filter((folder) => !folder.includes("node_modules"));
const systemNode = Bun.which("node", { PATH: path.join(":") });
const versionOf = (node: string): number =>
  Number(/^v(\d+)/.exec(Bun.spawnSync([node, "--version"]).stdout.toString())?.[1]);
const old = systemNode !== null && versionOf(systemNode) === 20 ? systemNode : undefined;
if (old === undefined)
  console.warn("SKIPPED: the node on the PATH is not version 20, and one test needs it.");

const runtimes: { name: string; run: string | undefined; ws: string }[] = [
  { name: "Bun", run: process.execPath, ws: "" },
  { name: "Node 22, its own WebSocket", run: join(ROOT, "node_modules/node/bin/node"), ws: "" },
  { name: "Node 20, the WebSocket of ws", run: old, ws: join(ROOT, "node_modules/ws/wrapper.mjs") },
];

describe("calls, streams, events, answers, errors, coming back after kill -9, and an end, on", () => {
  for (const { name, run, ws } of runtimes) {
    test.skipIf(run === undefined)(
      name,
      async () => {
        const first = await startServer();
        await using child = start([run!, PROGRAM, client, first.url, ws]);
        const before = await child.until("ready");
        await first.kill("SIGKILL");
        await using _second = await startServer(first.port);
        const after = await child.until("closed");
        expect([...before, ...after]).toEqual([
          ["call", "Hello Ada in tea time, from tökén"],
          ["stream", [0, 1, 2]],
          ["event", { text: "hello" }],
          ["answer", true],
          ["error", [true, { until: 7 }]],
          ["ready", null],
          ["lost", [true, "CONNECTION_LOST"]],
          ["again", "Hello Bob in tea time, from tökén"],
          ["states", ["open", "reconnecting", "open"]],
          ["closed", ["closed", "CLOSED"]],
        ]);
        expect(await child.exited).toBe(0);
      },
      60_000,
    );
  }
});

describe("a process", () => {
  const program = (then: string): string =>
    `import { connect } from ${JSON.stringify(client)};
     const chat = connect({ path: "/chat/:room" }, { url: process.argv.at(-1), params: { room: "a" } });
     ${then}`;
  for (const { name, run } of runtimes.filter(({ ws }) => ws === "")) {
    const flag = name === "Bun" ? ["-e"] : ["--input-type=module", "-e"];
    const begin = (then: string, url: string) => start([run!, ...flag, program(then), url]);

    test(`of ${name} ends when its client is closed, in whatever state, and whatever waits`, async () => {
      await using server = await startServer();
      const ends: [string, string][] = [
        ["at once", "chat.call('never').catch(() => {}); chat.close();"],
        ["open", "chat.onState((state) => state === 'open' && chat.close());"],
        [
          "with a call and a stream in flight",
          "chat.call('never').catch(() => {}); chat.stream('count', { to: 1e9 }).next().then(() => chat.close());",
        ],
      ];
      for (const [when, then] of ends) {
        await using child = begin(then, server.url);
        expect([when, await child.exited]).toEqual([when, 0]);
      }
      await using child = begin(
        "chat.onState((state) => state === 'reconnecting' && chat.close());",
        "http://127.0.0.1:1",
      );
      expect(await child.exited).toBe(0);
    }, 30_000);

    test(`of ${name} lives as long as its client is open, or tries to be`, async () => {
      await using server = await startServer();
      for (const [url, state] of [
        [server.url, "open"],
        ["http://127.0.0.1:1", "reconnecting"],
      ] as const) {
        await using child = begin("chat.onState((state) => console.log(JSON.stringify([state])));", url);
        await child.until(state);
        expect(await Promise.race([child.exited, Bun.sleep(700)])).toBeUndefined();
      }
    }, 30_000);
  }
});

test("a world with nothing but the web's globals will do: no process, no Buffer, no document, no location", async () => {
  const { connect } = await inWorld();
  await using server: ServerProcess = await startServer();
  using chat = connect(contract, { url: server.url, params: { room: "a" }, token: "t" });
  expect(await chat.call("hello", { name: "Ada" })).toBe("Hello Ada in a, from t");
});

/** Starts a program that prints lines of JSON. */
function start(command: string[]) {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  return {
    exited: child.exited,
    /** Reads lines up to the one whose first value this is. */
    async until(step: string): Promise<unknown[]> {
      const lines: unknown[] = [];
      for (;;) {
        const end = rest.indexOf("\n");
        if (end === -1) {
          const { value, done } = await reader.read();
          if (done) throw new Error(`it ended before "${step}", after ${JSON.stringify(lines)}`);
          rest += value;
          continue;
        }
        const line = JSON.parse(rest.slice(0, end)) as [string];
        rest = rest.slice(end + 1);
        lines.push(line);
        if (line[0] === step) return lines;
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
