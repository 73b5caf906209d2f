// useTopic with the real React in a real browser, against a real server: what is on the page is what was published, and
// what is on the wire is one subscription, whatever React does to the component.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import type { HarpiaOptions } from "harpia";
import { sqlite } from "harpia/sqlite";
import { listen, quiet, until } from "../support/app.js";
import { testWith } from "../support/programs.js";
import { build, closeBrowser, open as openPage, pageRoutes, text } from "./browser.js";
import { rooms } from "./topic-contract.js";
import { Rooms, type RoomsProps, type TopicHandles } from "./topic-page.js";

declare const handles: TopicHandles;

const inBrowser = testWith("chromium");
const TIMEOUT = 60_000;
let code: string;

beforeAll(async () => {
  code = await build("topic-page.tsx");
});

afterAll(closeBrowser);

/** A server with the page and its topics; `say` publishes texts to a room, one after the other. */
function serve({ port = 0, html = "", ...options }: { port?: number; html?: string } & HarpiaOptions = {}) {
  const app = quiet(options);
  const live = app.channel(rooms).implement({
    topics: {
      "room/:room": { subscribe: "public", presence: () => ({ name: "ada" }) },
      "feed/:room": { subscribe: "public" },
      "secret/:room": { subscribe: () => false },
    },
  });
  const routes = pageRoutes(code, html);
  return {
    app,
    live,
    port: listen(app, { port, routes }),
    async say(texts: readonly string[], room = "a", name: "room/:room" | "feed/:room" = "room/:room") {
      await Promise.all(texts.map((text) => live.topic(name, { room }).publish({ room, text })));
    },
    subscribers: (room = "a") => live.topic("room/:room", { room }).subscribers(),
    [Symbol.asyncDispose]: () => app.stop({ timeout: 0 }),
  };
}

async function open(port: number) {
  const view = await openPage(port);
  const { page } = view;
  return {
    ...view,
    render: (props: RoomsProps) => page.evaluate((props) => handles.render(props), props),
    seen: () => page.evaluate(() => handles.seen),
    text: (name: string, expected: string) => text(page, `.${name}`, expected),
    load: (times = 1) => page.evaluate((times) => handles.load(times), times),
    texts: () => page.textContent(".texts"),
  };
}

/** `numbers(1, 3)` is 1, 2 and 3 as texts. */
function numbers(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => String(from + index));
}

describe("useTopic", () => {
  inBrowser(
    "shows the newest messages, then what is published, and who is there; one subscription under StrictMode",
    async () => {
      await using server = serve();
      await server.say(numbers(1, 5));
      await using view = await open(server.port);
      await view.render({ count: 0 });
      await view.text("connection", "open"); // what is sent from here on leaves at once
      await view.render({ last: 2 });
      await view.text("state", "live");
      await view.text("texts", "4,5");
      await server.say(["6"]);
      await view.text("texts", "4,5,6");
      await view.text("members", "ada");
      await view.text("count", "1");
      await view.render({ count: 0 });
      await until(() => server.subscribers() === 0);
      await until(() => view.sent.length > 1);
      expect(view.sent).toEqual(["$/subscribe room/a", "$/unsubscribe room/a"]);
      expect(view.errors).toEqual([]);
    },
    TIMEOUT,
  );

  inBrowser(
    "renders what comes at once at once",
    async () => {
      await using server = serve();
      await server.say(numbers(1, 100));
      await using view = await open(server.port);
      await view.render({ last: 100 });
      await view.text("texts", numbers(1, 100).join());
      const { commits } = await view.seen();
      // There may be one more by now: 50 ms later everybody is told who has come.
      expect([...new Set(commits.map(({ texts }) => texts.length))]).toEqual([0, 100]);
    },
    TIMEOUT,
  );

  inBrowser(
    "renders messages together that came while the page was busy",
    async () => {
      await using server = serve();
      await using view = await open(server.port);
      await view.render({});
      await view.text("state", "live");
      const before = (await view.seen()).commits.length;
      const busy = view.page.evaluate(() => {
        const end = performance.now() + 500;
        while (performance.now() < end);
      });
      await server.say(numbers(1, 200));
      await busy;
      await view.text("texts", numbers(1, 200).join());
      expect((await view.seen()).commits.length - before).toBeLessThan(100);
    },
    TIMEOUT,
  );

  inBrowser(
    "does not subscribe anew when it renders again, with everything written inline",
    async () => {
      await using server = serve();
      await using view = await open(server.port);
      for (const keep of [1, 2, 3]) await view.render({ keep });
      await view.text("state", "live");
      for (const keep of [1, 2, 3]) await view.render({ keep });
      await server.say(["1"]);
      await view.text("texts", "1");
      expect(view.sent).toEqual(["$/subscribe room/a"]);
    },
    TIMEOUT,
  );

  inBrowser(
    "begins anew for other params, and never shows one room's messages in another",
    async () => {
      await using server = serve();
      await server.say(["in a"]);
      await server.say(["in b"], "b");
      await using view = await open(server.port);
      await view.render({ last: 10 });
      await view.text("texts", "in a");
      await view.render({ last: 10, room: "b" });
      await view.text("texts", "in b");
      await until(() => server.subscribers() === 0);
      await server.say(["late"]);
      await server.say(["soon"], "b");
      await view.text("texts", "in b,soon");
      await until(() => view.sent.length > 2);
      expect(view.sent).toEqual(["$/subscribe room/a", "$/subscribe room/b", "$/unsubscribe room/a"]);
      expect((await view.seen()).torn).toEqual([]);
    },
    TIMEOUT,
  );

  inBrowser(
    "shares a topic among components on the wire, and shows the same in all at any time",
    async () => {
      await using server = serve();
      await server.say(["0"]);
      await using view = await open(server.port);
      await view.render({ last: 10, count: 3 });
      await view.text("texts", "0");
      for (const text of numbers(1, 20)) await server.say([text]);
      await view.text("texts", numbers(0, 20).join());
      await view.render({ last: 10, count: 1 });
      await server.say(["21"]);
      await view.text("texts", numbers(0, 21).join());
      expect(view.sent).toEqual(["$/subscribe room/a"]);
      expect((await view.seen()).torn).toEqual([]);
      await view.render({ count: 0 });
      await until(() => server.subscribers() === 0);
      await until(() => view.sent.length > 1);
      expect(view.sent).toEqual(["$/subscribe room/a", "$/unsubscribe room/a"]);
    },
    TIMEOUT,
  );

  inBrowser(
    "loads older messages, a page at a time and once at a time, up to the oldest",
    async () => {
      await using server = serve();
      await server.say(numbers(1, 250));
      await using view = await open(server.port);
      await view.render({ last: 10, keep: 10 });
      await view.text("texts", numbers(241, 250).join());
      await view.load(3);
      expect(await view.texts()).toBe(numbers(141, 250).join());
      expect(await view.page.textContent(".complete")).toBe("false");
      await view.load();
      await view.load();
      expect(await view.texts()).toBe(numbers(1, 250).join());
      expect(await view.page.textContent(".complete")).toBe("true");
      await view.load();
      expect(await view.texts()).toBe(numbers(1, 250).join());
      // As many stay as there were: the oldest makes room.
      await server.say(["251"]);
      await view.text("texts", numbers(2, 251).join());
      expect(await view.page.textContent(".complete")).toBe("false");
      await view.load();
      expect(await view.texts()).toBe(numbers(1, 251).join());
    },
    TIMEOUT,
  );

  inBrowser(
    "keeps the newest, and loads what it has let go",
    async () => {
      await using server = serve();
      await using view = await open(server.port);
      await view.render({ keep: 3 });
      await view.text("state", "live");
      await server.say(numbers(1, 50));
      await view.text("texts", "48,49,50");
      await view.load();
      expect(await view.texts()).toBe(numbers(1, 50).join());
    },
    TIMEOUT,
  );

  inBrowser(
    "loads older messages from an effect of a component below, before anything is open",
    async () => {
      await using server = serve();
      await server.say(numbers(1, 20));
      await using view = await open(server.port);
      await view.render({ last: 5, eager: true });
      await view.text("texts", numbers(1, 20).join());
      expect(view.errors).toEqual([]);
    },
    TIMEOUT,
  );

  inBrowser(
    "gives messages to onMessage instead, in order and without a render",
    async () => {
      await using server = serve();
      await server.say(["1", "2"], "a", "feed/:room");
      await using view = await open(server.port);
      await view.render({ last: 2, apart: true, topic: "feed/:room" });
      await view.text("state", "live");
      const before = (await view.seen()).commits.length;
      await server.say(numbers(3, 100), "a", "feed/:room");
      await view.page.waitForFunction(() => handles.seen.apart.length === 100);
      const { apart, commits } = await view.seen();
      expect(apart).toEqual(numbers(1, 100));
      expect(commits.length).toBe(before);
      expect(commits.at(-1)!.texts).toEqual([]);
    },
    TIMEOUT,
  );

  inBrowser(
    "goes on without a gap, and without anything twice, over restarts of a server with SQLite",
    async () => {
      const folder = await mkdtemp(join(tmpdir(), "harpia-topic-"));
      const broker = () => sqlite(join(folder, "rooms.db"));
      let server = serve({ broker: broker() });
      await using view = await open(server.port);
      await view.render({ count: 2 });
      await view.text("state", "live");
      let said = 0;
      for (let restart = 0; restart < 3; restart++) {
        await server.say(numbers(said + 1, (said += 50)));
        await server.app.stop({ timeout: 100 });
        server = serve({ port: server.port, broker: broker() });
        await server.say(numbers(said + 1, (said += 150))); // more than a page, and the page is not back yet
        await view.text("texts", numbers(1, said).join());
        await view.text("state", "live");
      }
      const { resets, torn } = await view.seen();
      expect({ resets, torn }).toEqual({ resets: 0, torn: [] });
      await server.app.stop({ timeout: 100 });
      await rm(folder, { recursive: true });
    },
    TIMEOUT,
  );

  inBrowser(
    "replaces messages after a reset, and says so",
    async () => {
      const first = serve();
      await first.say(numbers(1, 3));
      await using view = await open(first.port);
      await view.render({ last: 10 });
      await view.text("texts", "1,2,3");
      await first.app.stop({ timeout: 100 });
      await view.text("state", "pending");
      expect(await view.texts()).toBe("1,2,3");
      await using second = serve({ port: first.port }); // in memory: another epoch
      await second.say(["new"]);
      await view.text("texts", "new");
      await view.text("state", "live");
      const { resets, commits } = await view.seen();
      expect(resets).toBe(1);
      expect(new Set(commits.map(({ texts }) => texts.join()))).toEqual(new Set(["", "1,2,3", "new"]));
      await view.load();
      expect(await view.texts()).toBe("new");
    },
    TIMEOUT,
  );

  inBrowser(
    "ends with the server's error when it is refused or removed",
    async () => {
      await using server = serve();
      await using view = await open(server.port);
      await view.render({ topic: "secret/:room" });
      await view.text("state", "ended");
      await view.text("why", "FORBIDDEN");
      await view.render({});
      await view.text("state", "live");
      await view.text("why", "");
      for (const ws of server.live.connections) await server.live.kick(ws, "room/:room", { room: "a" });
      await view.text("state", "ended");
      await view.text("why", "FORBIDDEN");
      expect(view.errors).toEqual([]);
    },
    TIMEOUT,
  );

  inBrowser(
    "leaves while <Activity> hides it, and goes on where it was when it is shown again",
    async () => {
      await using server = serve();
      await using view = await open(server.port);
      await view.render({ hidden: false });
      await view.text("state", "live");
      await server.say(["1", "2"]);
      await view.text("texts", "1,2");
      await view.render({ hidden: true });
      await until(() => server.subscribers() === 0);
      await server.say(["3", "4"]);
      await view.render({ hidden: false });
      await view.text("texts", "1,2,3,4");
      expect((await view.seen()).resets).toBe(0);
    },
    TIMEOUT,
  );

  inBrowser(
    "gives a missing param, and a keep that is no number of messages, to the error boundary",
    async () => {
      await using server = serve();
      for (const [props, message] of [
        [{ room: "" }, 'needs the param "room"'],
        [{ keep: 0 }, '"keep" must be a whole number from 1'],
      ] as const) {
        await using view = await open(server.port);
        await view.render(props);
        await view.page.waitForSelector("#caught");
        expect(await view.page.textContent("#caught")).toContain(message);
      }
    },
    TIMEOUT,
  );
});

describe("useTopic on a server", () => {
  test("is pending and empty", () => {
    const html = renderToString(createElement(Rooms));
    expect(html).toContain('<p class="state">pending</p>');
    expect(html).toContain('<p class="texts"></p>');
  });

  inBrowser(
    "hydrates as it is, and then subscribes",
    async () => {
      await using server = serve({ html: renderToString(createElement(Rooms, { last: 1 })) });
      await server.say(["1"]);
      await using view = await open(server.port);
      expect(await view.page.textContent(".state")).toBe("pending");
      await view.page.evaluate(() => handles.hydrate({ last: 1 }));
      await view.text("texts", "1");
      expect((await view.seen()).errors).toEqual([]);
      expect(view.errors).toEqual([]);
      expect(view.sent).toEqual(["$/subscribe room/a"]);
    },
    TIMEOUT,
  );
});
