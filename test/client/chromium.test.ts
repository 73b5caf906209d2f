// The client in a real browser: bundled as users bundle it, against a server that is killed and started again, whose
// tokens end, and that cannot be reached for a while.

import { expect, test } from "bun:test";
import type { Page } from "playwright-core";
import { bundle, type ServerProcess, startServer } from "../support/client.js";
import { launchChromium } from "../support/chromium.js";
import { testWith } from "../support/programs.js";

/** What a page keeps between two looks at it. */
interface Kept {
  client: import("../../src/client/index.js").Client<typeof import("./fixture/contract.js").contract>;
  states: string[];
  said: string[];
  tokens: number;
}

/** Opens the server's page, and connects there; `tokens` are what `token()` gives, the last of them for ever. */
async function connectIn(page: Page, server: ServerProcess, tokens: string[]): Promise<void> {
  await page.goto(`${server.url}/`);
  await page.evaluate(async (tokens) => {
    const { connect } = (await import(
      `${location.origin}/client.js`
    )) as typeof import("../../src/client/index.js");
    const kept: Omit<Kept, "client"> = { states: [], said: [], tokens: 0 };
    // A page needs no schemas: the server validates.
    const client = connect({ path: "/chat/:room" } as const, {
      url: "/",
      params: { room: "tea time" },
      timeout: 30_000,
      token: async () => tokens[Math.min(kept.tokens++, tokens.length - 1)],
    }) as unknown as Kept["client"];
    client.onState((state) => kept.states.push(state));
    client.on("said", ({ text }) => kept.said.push(text));
    client.answer("confirm", ({ what }) => what === "delete");
    Object.assign(globalThis, kept, { client });
  }, tokens);
}

const hello = (page: Page, name: string): Promise<string> =>
  page.evaluate((name) => (globalThis as unknown as Kept).client.call("hello", { name }), name);

const statesOf = (page: Page): Promise<string[]> =>
  page.evaluate(() => (globalThis as unknown as Kept).states);

const untilState = async (page: Page, count: number): Promise<string[]> => {
  await page.waitForFunction((count) => (globalThis as unknown as Kept).states.length >= count, count);
  return await statesOf(page);
};

testWith("chromium")(
  "Chromium: calls, streams, events, answers; kill -9 and a new server; a token that ends; offline and online",
  async () => {
    const first = await startServer();
    await using browser = await launchChromium();
    const context = await browser.newContext();
    const page = await context.newPage();
    const errors: Error[] = [];
    page.on("pageerror", (error) => errors.push(error));
    await connectIn(page, first, ["tökén"]);
    expect(await hello(page, "Ada")).toBe("Hello Ada in tea time, from tökén");
    const seen = await page.evaluate(async () => {
      const { client, said } = globalThis as unknown as Kept;
      const values: number[] = [];
      for await (const value of client.stream("count", { to: 1e9 })) if (values.push(value) === 3) break;
      const answer = await client.call("trigger", { what: "confirm" });
      await client.call("trigger", { what: "said" });
      return { values, answer, said };
    });
    expect(seen).toEqual({ values: [0, 1, 2], answer: true, said: ["hello"] });

    // The server dies.
    const lost = page.evaluate(() =>
      (globalThis as unknown as Kept).client.call("never").catch((error: { reason: string }) => error.reason),
    );
    await hello(page, "again"); // behind it, so it has left
    await first.kill("SIGKILL");
    expect(await lost).toBe("CONNECTION_LOST");
    const waiting = hello(page, "Bob");
    await using second = await startServer(first.port);
    expect(await waiting).toBe("Hello Bob in tea time, from tökén");
    expect(await statesOf(page)).toEqual(["open", "reconnecting", "open"]);

    // The network goes, and the server with it. The next attempt would be in a year; but the page comes online again.
    await page.evaluate(() => (Math.random = () => 1e8));
    await second.kill("SIGKILL");
    await untilState(page, 4);
    await context.setOffline(true);
    await using _third = await startServer(first.port);
    expect(await page.evaluate(() => navigator.onLine)).toBe(false);
    expect((await statesOf(page)).at(-1)).toBe("reconnecting");
    await context.setOffline(false);
    expect((await untilState(page, 5)).at(-1)).toBe("open");
    expect(await hello(page, "Cy")).toBe("Hello Cy in tea time, from tökén");

    // The token has ended before the page connects, and ends again while it is connected.
    await connectIn(page, first, ["old", "second", "third"]);
    expect(await hello(page, "Di")).toBe("Hello Di in tea time, from second");
    await page.evaluate(() => (globalThis as unknown as Kept).client.call("trigger", { what: "expire" }));
    await untilState(page, 4);
    expect(await hello(page, "Di")).toBe("Hello Di in tea time, from third");
    expect(await statesOf(page)).toEqual(["reconnecting", "open", "reconnecting", "open"]);
    expect(errors).toEqual([]);
  },
  60_000,
);

test("bundled, minified and compressed it is under 7 kB, and needs nothing else", async () => {
  const code = await bundle();
  expect(code).not.toMatch(/\bfrom\s*["']/);
  expect(Bun.gzipSync(Buffer.from(code)).length).toBeLessThan(7_000);
});
