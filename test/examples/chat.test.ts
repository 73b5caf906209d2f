// The chat demo as people meet it: in Chromium, in two tabs, and started by its own command.

import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, isContractError, type RpcError } from "harpia/client";
import type { Browser, Page } from "playwright-core";
import { chat as contract } from "../../examples/chat/contract.js";
import { startChat } from "../../examples/chat/server.js";
import { launchChromium } from "../support/chromium.js";
import { testWith } from "../support/programs.js";

const SERVER = join(import.meta.dir, "../../examples/chat/server.ts");

/** Generous: the machine may be busy with other browsers. */
const BROWSER_MS = 30_000;

const browserTest = (name: string, run: () => Promise<void>): void =>
  testWith("chromium")(name, run, BROWSER_MS);

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

browserTest("who types is seen, until it is said", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "tea");
  await bob.getByLabel("Message", { exact: true }).pressSequentially("hi");
  await ada.getByText("Bob is typing…").waitFor();
  await bob.getByRole("button", { name: "Send" }).click();
  await ada.getByText("hi", { exact: true }).waitFor();
  expect(await ada.getByText("Bob is typing…").count()).toBe(0);
});

browserTest("a wave is asked of the other's page, and its answer comes back", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "tea");
  await ada.getByRole("button", { name: "Wave at Bob" }).click();
  await bob.getByRole("button", { name: "Wave back at Ada", exact: true }).click();
  await ada.getByText("Bob waved back").waitFor();
  expect(await bob.locator("#waves").innerText()).toBe("");

  await bob.getByRole("button", { name: "Wave at Ada" }).click();
  await ada.getByRole("button", { name: "Not now: do not wave back at Bob" }).click();
  await bob.getByText("Ada did not wave back").waitFor();

  await ada.getByRole("button", { name: "Wave at Bob" }).click();
  await bob.getByText("Ada waves at you.").waitFor();
  await bob.close();
  await ada.getByText("Bob is not there").waitFor();
});

browserTest("an answer comes word by word, to whoever asked, and stops when told to", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "tea");
  await ask(ada, "Who is here?");
  await ada.getByText("Here now: Ada, Bob.").waitFor();
  await ask(ada, "What is a harpia?");
  await ada.getByText("A harpy eagle").waitFor();
  await ada.getByRole("button", { name: "Stop the answer" }).click();
  await ada.getByText("… (stopped)").waitFor();
  expect(await ada.getByText("bear's claws").count()).toBe(0);
  expect(await bob.locator("#log").innerText()).not.toContain("harp");
});

browserTest("who says too much is told how long to wait, and keeps what is typed", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const field = ada.getByLabel("Message", { exact: true });
  for (let count = 1; count <= 5; count++) {
    await field.fill(`number ${count}`);
    await field.press("Enter");
    await ada.locator("#log").getByText(`number ${count}`, { exact: true }).waitFor();
  }
  await field.fill("number 6");
  await field.press("Enter");
  await ada.getByRole("button", { name: /^Wait [1-5] s$/ }).waitFor();
  expect(await field.inputValue()).toBe("number 6");
  await ada.getByRole("button", { name: "Send" }).click(); // once it is that again
  await ada.locator("#log").getByText("number 6", { exact: true }).waitFor();
});

browserTest("nothing is cut off on a narrow phone, and everything can be reached by keyboard", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  await enter(browser, started.port, "W".repeat(32), "tea");
  await ada.setViewportSize({ width: 320, height: 568 });
  await ada.getByLabel("Message", { exact: true }).fill("w".repeat(500));
  await ada.getByLabel("Message", { exact: true }).press("Enter");
  await ada.locator("#log").getByText("w".repeat(500)).waitFor();
  const cutOff = await ada.evaluate(() =>
    [document.documentElement, ...document.querySelectorAll("button, #log, .body")]
      .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
      .map((element) => element.outerHTML.slice(0, 100)),
  );
  expect(cutOff).toEqual([]);

  const reached: string[] = [];
  await ada.getByRole("button", { name: "Leave" }).focus();
  for (let count = 0; count < 4; count++) {
    await ada.keyboard.press("Tab");
    reached.push(await ada.evaluate(() => document.activeElement!.ariaLabel ?? document.activeElement!.id));
  }
  expect(reached).toEqual([`Wave at ${"W".repeat(32)}`, "Messages", "text", "send"]);
});

browserTest("a person in two tabs is one member, and goes with the last of them", async () => {
  await using started = chat();
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  const bob = await enter(browser, started.port, "Bob", "tea");
  const again = await enter(browser, started.port, "Bob", "tea");
  await ada.getByText("Bob joined").waitFor();
  await bob.close();
  expect(await ada.locator("#members li").allInnerTexts()).toHaveLength(2);
  await again.close();
  await ada.getByText("Bob left").waitFor();
  expect(await ada.locator("#log").getByText("Bob joined").count()).toBe(1);
});

browserTest("who comes later finds what was said, and can scroll back to the first word", async () => {
  await using started = chat();
  using bob = person(started.port, "Bob");
  for (let n = 1; n <= 40; n++) await say(bob, `word ${n}`, started);
  await using browser = await launchChromium();
  const ada = await enter(browser, started.port, "Ada", "tea");
  await ada.locator("#log").getByText("word 40", { exact: true }).waitFor();
  expect(await ada.locator("#log .body").count()).toBe(30);
  await ada.getByRole("button", { name: "Show earlier messages" }).click();
  await ada.locator("#log").getByText("word 1", { exact: true }).waitFor();
  const words = Array.from({ length: 40 }, (_, index) => `word ${index + 1}`);
  expect(await ada.locator("#log .body").allInnerTexts()).toEqual(words);
  expect(await ada.getByRole("button", { name: "Show earlier messages" }).count()).toBe(0);
});

browserTest(
  "kill -9 of the server, while people talk: nothing is missing on the page, nothing twice",
  async () => {
    await using folder = await temporary();
    const env = { CHAT_DB: join(folder.path, "chat.db") };
    let server = run({ PORT: "0", ...env });
    const port = Number(new URL(await server.line()).port);
    await using browser = await launchChromium();
    const ada = await enter(browser, port, "Ada", "tea");
    const words: string[] = [];
    for (let round = 0; round < 3; round++) {
      // Everybody has a pace, so each word is another person's.
      const people = Array.from({ length: 8 }, (_, index) => person(port, `P${round}${index}`));
      const said = people.map((who, index) => {
        words.push(`word ${round}.${index}`);
        return who.call(
          "say",
          { room: "tea", text: words.at(-1)!, id: crypto.randomUUID() },
          { timeout: 30_000 },
        );
      });
      await Promise.race(said); // some are under way, some not yet
      server.child.kill("SIGKILL");
      await server.child.exited;
      server = run({ PORT: String(port), ...env });
      await server.line();
      await Promise.all(said);
      for (const who of people) who.close();
    }
    const shown = ada.locator("#log .body");
    await ada.waitForFunction((most) => document.querySelectorAll("#log .body").length >= most, words.length);
    expect((await shown.allInnerTexts()).sort()).toEqual(words.sort());
    await server[Symbol.asyncDispose]();
  },
);

test("what is not the chat's own is refused, and the connection stays", async () => {
  await using started = chat();
  using ada = person(started.port, "Ada");
  const id = crypto.randomUUID();
  for (const text of ["", "   ", "x".repeat(2_001), 5 as unknown as string]) {
    const error = await ada.call("say", { room: "tea", text, id }).catch((error: unknown) => error);
    expect([text, (error as RpcError).reason]).toEqual([text, "INVALID_PARAMS"]);
  }
  expect(await ada.call("wave", { to: "nobody" })).toBe("is not there");
  const room = ada.subscribe("room/:room", { room: "tea" });
  await ada.call("say", { room: "tea", text: " fine ", id });
  for await (const { data } of room) {
    expect(data.text).toBe("fine");
    break;
  }
  const nowhere = ada.subscribe("room/:room", { room: "T e" });
  await new Promise((resolve) => nowhere.on("state", resolve));
  expect(nowhere.error?.reason).toBe("FORBIDDEN");
});

test("a sixth message within five seconds is refused with how long to wait", async () => {
  await using started = chat();
  using ada = person(started.port, "Ada");
  const all = ["1", "2", "3", "4", "5", "6"].map((text) =>
    ada.call("say", { room: "tea", text, id: crypto.randomUUID() }),
  );
  const results = await Promise.allSettled(all);
  expect(results.map(({ status }) => status)).toEqual([...Array(5).fill("fulfilled"), "rejected"]);
  const { reason } = results[5] as PromiseRejectedResult;
  if (!isContractError(reason, contract, "say", "SLOW_DOWN")) throw reason;
  expect(reason.data.retryAfter).toBeGreaterThan(0);
  expect(reason.data.retryAfter).toBeLessThanOrEqual(5_000);
  const said: string[] = [];
  for await (const { data } of ada.subscribe("room/:room", { room: "tea" }, { last: 10 }))
    if (said.push(data.text) === 5) break;
  expect(said).toEqual(["1", "2", "3", "4", "5"]);
});

test("said twice with one id, it is said once", async () => {
  await using started = chat();
  using ada = person(started.port, "Ada");
  const once = { room: "tea", text: "once", id: crypto.randomUUID() };
  const [first, second] = [await ada.call("say", once), await ada.call("say", once)];
  expect(second).toEqual(first);
});

test("a name that is none is refused before there is a socket", async () => {
  await using started = chat();
  const upgrade = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  };
  for (const path of ["/chat", "/chat?token=%20", `/chat?token=${"a".repeat(33)}`]) {
    const response = await fetch(`http://127.0.0.1:${started.port}${path}`, { headers: upgrade });
    expect([path, response.status]).toEqual([path, 400]);
  }
});

test("its command prints one line, the address, and says in one line when the port is taken", async () => {
  await using folder = await temporary();
  await using first = run({ PORT: "0", CHAT_DB: join(folder.path, "one.db") });
  const address = await first.line();
  expect(address).toMatch(/^http:\/\/localhost:\d+$/);
  expect((await fetch(`${address}/room/tea`)).headers.get("content-type")).toContain("text/html");

  await using second = run({ PORT: new URL(address).port, CHAT_DB: join(folder.path, "two.db") });
  expect(await second.child.exited).toBe(1);
  const said = await new Response(second.child.stderr).text();
  expect(said.trim().split("\n")).toEqual([expect.stringContaining("is taken by another process")]);

  await using third = run({ PORT: "0", CHAT_DB: join(folder.path, "one.db") });
  expect(await third.child.exited).toBe(1);
  const why = (await new Response(third.child.stderr).text()).trim().split("\n");
  expect(why).toEqual([expect.stringContaining("one.db")]);

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

function person(port: number, name: string) {
  return connect(contract, { url: `ws://127.0.0.1:${port}`, token: name });
}

/** Says something at once: the pace is a person's, so another one says each fifth. */
async function say(who: ReturnType<typeof person>, text: string, { port }: Chat): Promise<void> {
  const id = crypto.randomUUID();
  try {
    await who.call("say", { room: "tea", text, id });
  } catch (error) {
    if (!isContractError(error, contract, "say", "SLOW_DOWN")) throw error;
    using other = person(port, "Somebody");
    await other.call("say", { room: "tea", text, id });
  }
}

async function temporary() {
  const path = await mkdtemp(join(tmpdir(), "harpia-chat-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
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

async function ask(page: Page, question: string): Promise<void> {
  await page.getByLabel("Message", { exact: true }).fill(question);
  await page.getByRole("button", { name: "Ask harpia" }).click();
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
