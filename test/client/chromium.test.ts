// The client in a real browser: bundled as users bundle it, against a real server that is stopped and started again.

import { expect, test } from "bun:test";
import { join } from "node:path";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet } from "../support/app.js";
import { launchChromium } from "../support/chromium.js";
import { testWith } from "../support/programs.js";

const CLIENT = join(import.meta.dir, "../../src/client/index.ts");

const contract = defineChannel({
  path: "/chat",
  methods: {
    hello: { params: z.object({ name: z.string() }), result: z.string() },
    count: { stream: z.number() },
  },
  events: { said: { params: z.object({ text: z.string() }) } },
});

async function bundle(): Promise<string> {
  const built = await Bun.build({ entrypoints: [CLIENT], target: "browser", minify: true });
  return await built.outputs[0]!.text();
}

function serve(code: string, port = 0) {
  const app = quiet();
  const live = app
    .channel(contract, {
      upgrade: (_request, { token }) => ({ name: token ?? "nobody" }),
    })
    .implement({
      methods: {
        hello: ({ name }, { ws }) => `Hello ${name}, from ${ws.data.name}`,
        async *count() {
          yield* [1, 2, 3];
        },
      },
    });
  const routes = {
    "/": new Response("<!doctype html><title>client</title>", { headers: { "content-type": "text/html" } }),
    "/client.js": new Response(code, { headers: { "content-type": "text/javascript" } }),
  };
  return { app, live, port: listen(app, { port, routes }) };
}

testWith("chromium")(
  "calls, streams, events, a token, and coming back, in Chromium",
  async () => {
    const code = await bundle();
    const first = serve(code);
    await using browser = await launchChromium();
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${first.port}/`);
    const seen = await page.evaluate(async () => {
      const { connect } = (await import(
        `${location.origin}/client.js`
      )) as typeof import("../../src/client/index.js");
      // The page needs no schemas: the server validates.
      const client = connect({ path: "/chat", methods: { count: { stream: {} as never } } } as const, {
        url: "/", // where the page came from
        token: () => "tökén",
      });
      Object.assign(globalThis, { client, states: [] as string[], said: [] as string[] });
      const kept = globalThis as unknown as { states: string[]; said: string[] };
      client.onState((state) => kept.states.push(state));
      client.on("said" as never, (({ text }: { text: string }) => kept.said.push(text)) as never);
      const hello: unknown = await client.call("hello" as never, { name: "Ada" } as never, {});
      const values: unknown[] = [];
      for await (const value of client.stream("count")) values.push(value);
      return [hello, values];
    });
    expect(seen).toEqual(["Hello Ada, from tökén", [1, 2, 3]]);
    await first.live.broadcast("said", { text: "hello all" });
    await page.waitForFunction(() => (globalThis as unknown as { said: string[] }).said.length === 1);

    await first.app.stop({ timeout: 100 });
    await page.waitForFunction(
      () => (globalThis as unknown as { states: string[] }).states.at(-1) === "reconnecting",
    );
    const second = serve(code, first.port);
    // Waits for the connection, which comes back by itself.
    const again = await page.evaluate(() =>
      (
        globalThis as unknown as {
          client: { call(method: string, params: object, options: object): Promise<unknown> };
        }
      ).client.call("hello", { name: "Bob" }, { timeout: 25_000 }),
    );
    expect(again).toBe("Hello Bob, from tökén");
    await second.app.stop();
  },
  40_000,
);

test("bundled, minified and compressed it is under 7 kB, and needs nothing else", async () => {
  const code = await bundle();
  expect(code).not.toMatch(/\bfrom\s*["']/);
  expect(Bun.gzipSync(Buffer.from(code)).length).toBeLessThan(7_000);
});
