// The chat demo as people meet it: in Chromium, in two tabs, and started by its own command.

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { startChat } from "../../examples/chat/server.js";
import { launchChromium } from "../support/chromium.js";
import { testWith } from "../support/programs.js";

const SERVER = join(import.meta.dir, "../../examples/chat/server.ts");

const browserTest = testWith("chromium");

browserTest("two tabs see each other and what they say, live", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "tea");

  await ada.getByRole("listitem").filter({ hasText: "Bob joined" }).waitFor();
  expect(await ada.locator("#members li").allInnerTexts()).toEqual([
    expect.stringContaining("Ada"),
    expect.stringContaining("Bob"),
  ]);
  await bob.getByLabel("Message", { exact: true }).fill("<b>hello</b> there");
  await bob.getByRole("button", { name: "Send" }).click();
  for (const page of [ada, bob]) await page.getByText("<b>hello</b> there", { exact: true }).waitFor();

  await bob.getByRole("button", { name: "Leave" }).click();
  await ada.getByText("Bob left").waitFor();
  expect(await ada.locator("#members li").count()).toBe(1);
});

browserTest("rooms hear nothing of each other", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "coffee");

  await bob.getByLabel("Message", { exact: true }).fill("in coffee");
  await bob.getByRole("button", { name: "Send" }).click();
  await bob.getByText("in coffee", { exact: true }).waitFor();
  await ada.getByLabel("Message", { exact: true }).fill("in tea");
  await ada.getByRole("button", { name: "Send" }).click();
  await ada.getByText("in tea", { exact: true }).waitFor();
  expect(await ada.locator("#log li").allInnerTexts()).toHaveLength(1);
});

browserTest(
  "the page says so when the server goes, keeps what is typed, and comes back by itself",
  async () => {
    const first = chat();
    await using browser = await launchChromium();
    const ada = await enter(browser, first.port, "Ada", "tea");
    await first[Symbol.asyncDispose]();
    await ada.getByText("reconnecting…").waitFor();
    await ada.getByLabel("Message", { exact: true }).fill("still here");
    expect(await ada.getByRole("button", { name: "Send" }).isDisabled()).toBe(true);

    await using _again = chat(first.port);
    await ada.getByText("connected", { exact: true }).waitFor();
    expect(await ada.locator("#members li").count()).toBe(1);
    await ada.getByRole("button", { name: "Send" }).click();
    await ada.getByText("still here", { exact: true }).waitFor();
  },
);

test("a message that is not the chat's own is refused, and the connection stays", async () => {
  await using started = chat();
  const socket = new WebSocket(`ws://127.0.0.1:${started.port}/socket/tea?name=Ada`);
  const messages: Record<string, unknown>[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const bad = [
    "not JSON",
    "null",
    '{"type":"say"}',
    '{"type":"say","text":" "}',
    '{"type":"shout","text":"a"}',
  ];
  socket.onopen = () => {
    for (const message of [...bad, '{"type":"say","text":"fine"}']) socket.send(message);
  };
  socket.onmessage = ({ data }) => {
    messages.push(JSON.parse(String(data)));
    if (messages.at(-1)?.type === "said") resolve();
  };
  await promise;
  expect(messages.map(({ type }) => type)).toEqual(["welcome", ...bad.map(() => "refused"), "said"]);
});

test("a name or a room that is none is refused before there is a socket", async () => {
  await using started = chat();
  const upgrade = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  };
  for (const path of [
    "/socket/tea",
    "/socket/tea?name=%20",
    `/socket/tea?name=${"a".repeat(33)}`,
    "/socket/T%20?name=Ada",
  ]) {
    const response = await fetch(`http://127.0.0.1:${started.port}${path}`, { headers: upgrade });
    expect([path, response.status]).toEqual([path, 400]);
  }
});

test("its command prints one line, the address, and says in one line when the port is taken", async () => {
  await using first = run({ PORT: "0" });
  const address = await first.line();
  expect(address).toMatch(/^http:\/\/localhost:\d+$/);
  expect((await fetch(`${address}/room/tea`)).headers.get("content-type")).toContain("text/html");

  await using second = run({ PORT: new URL(address).port });
  expect(await second.child.exited).toBe(1);
  const said = await new Response(second.child.stderr).text();
  expect(said.trim().split("\n")).toEqual([expect.stringContaining("is taken by another process")]);

  first.child.kill("SIGTERM");
  expect(await first.child.exited).toBe(0);
  expect(await first.rest()).toBe("");
});

interface Chat extends AsyncDisposable {
  port: number;
}

function chat(port = 0): Chat {
  const started = startChat({ port });
  return { port: started.port, [Symbol.asyncDispose]: () => started.app.stop() };
}

async function enter(browser: Browser, port: number, name: string, room: string): Promise<Page> {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(`the page threw: ${error}`));
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.getByLabel("Your name").fill(name);
  await page.getByLabel("Room").fill(room);
  await page.getByRole("button", { name: "Join" }).click();
  await page.getByText("connected", { exact: true }).waitFor();
  expect(new URL(page.url()).pathname).toBe(`/room/${room}`);
  return page;
}

function run(env: Record<string, string>) {
  const child = Bun.spawn([process.execPath, SERVER], {
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return {
    child,
    async line(): Promise<string> {
      while (!text.includes("\n")) {
        const { value, done } = await reader.read();
        if (done) throw new Error(`the chat ended: ${await new Response(child.stderr).text()}`);
        text += value;
      }
      return text.slice(0, text.indexOf("\n"));
    },
    /** What it printed after its first line, once it has ended. */
    async rest(): Promise<string> {
      for (let read = await reader.read(); !read.done; read = await reader.read()) text += read.value;
      return text.slice(text.indexOf("\n") + 1);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
