// The hooks with the real React in a real browser, against a real server: one connection a component, neither more nor
// less, whatever React does to the component.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { listen, quiet } from "../support/app.js";
import { Events } from "../support/log.js";
import { testWith } from "../support/programs.js";
import { build, closeBrowser, open as openPage, pageRoutes, text } from "./browser.js";
import { chat } from "./contract.js";
import { type Handles, Room } from "./page.js";

type Props = Parameters<Handles["render"]>[0];
declare const handles: Handles;

const inBrowser = testWith("chromium");
let code: string;

beforeAll(async () => {
  code = await build("page.tsx");
});

afterAll(closeBrowser);

/** A server whose page has the components; it notes who came, who left, and what members said. */
function serve({ port = 0, html = "" } = {}) {
  const app = quiet();
  const opened = new Events<string>();
  const closed = new Events<string>();
  const joined = new Events<string>();
  const nevers = new Events<string>();
  const live = app
    .channel(chat, {
      upgrade: (_request, { token, params }) =>
        token === "banned" ? false : { name: token ?? "nobody", room: params.room },
      open: ({ data }) => opened.push(`${data.name} in ${data.room}`),
      close: ({ data }, code) => closed.push(`${data.name} in ${data.room}: ${code}`),
    })
    .implement({
      methods: {
        whoami: (_params, { ws }) => ws.data.name,
        join: ({ as }, { ws }) => joined.push(`${as} in ${ws.data.room}`),
        async never(_params, { signal }) {
          nevers.push("never");
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
      },
    });
  return {
    app,
    live,
    opened,
    closed,
    joined,
    nevers,
    port: listen(app, { port, routes: pageRoutes(code, html) }),
  };
}

async function open(port: number) {
  const view = await openPage(port);
  const { page } = view;
  return {
    ...view,
    render: (props: Props) => page.evaluate((props) => handles.render(props), props),
    seen: () => page.evaluate(() => ({ ...handles.seen, clients: handles.seen.clients.size })),
  };
}

describe("useChannel", () => {
  inBrowser(
    "opens one socket under StrictMode, and closes it when the component goes",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({});
      await text(view.page, "#state", "open");
      await view.page.click("text=whoami");
      await text(view.page, "#name", "ada");
      expect(server.live.connections.size).toBe(1);
      await view.page.evaluate(() => handles.unmount());
      expect(await server.closed.until(1)).toEqual(["ada in a: 1000"]);
      expect(server.opened.all).toEqual(["ada in a"]);
      // A cleanup of a component below was still heard.
      expect(server.joined.all).toEqual(["a member in a", "a member in a", "nobody in a"]);
      expect(view.errors).toEqual([]);
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "keeps its connection when a component renders again, with options written inline",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      for (const label of ["1", "2", "3"]) await view.render({ label });
      await text(view.page, "#state", "open");
      for (const label of ["4", "5", "6"]) await view.render({ label });
      await view.page.click("text=whoami");
      await text(view.page, "#name", "ada");
      expect(server.opened.all).toEqual(["ada in a"]);
      expect(server.closed.all).toEqual([]);
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "connects anew for other params, closes the old connection, and rejects what waited on it",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({ room: "a" });
      await text(view.page, "#state", "open");
      await view.page.click("text=never");
      await server.nevers.until(1);
      await view.render({ room: "b c" });
      expect(await server.closed.until(1)).toEqual(["ada in a: 1000"]);
      await text(view.page, "#room", "b c");
      await text(view.page, "#state", "open");
      await view.page.click("text=whoami");
      await text(view.page, "#name", "ada");
      expect(server.opened.all).toEqual(["ada in a", "ada in b c"]);
      expect(await view.seen()).toMatchObject({ failed: ["CONNECTION_LOST"], torn: [] });
      expect(server.joined.all.at(-1)).toBe("a member in b c");
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "asks the latest token function for each connection, and shows each state on the way",
    async () => {
      const first = serve();
      await using view = await open(first.port);
      await view.render({ token: "ada" });
      await text(view.page, "#state", "open");
      await view.render({ token: "bob" });
      expect(first.opened.all).toEqual(["ada in a"]);
      await first.app.stop({ timeout: 100 });
      await text(view.page, "#state", "reconnecting");
      const second = serve({ port: first.port });
      await text(view.page, "#state", "open");
      expect(second.opened.all).toEqual(["bob in a"]);
      expect((await view.seen()).torn).toEqual([]);
      await second.app.stop();
    },
    40_000,
  );

  inBrowser(
    "connects anew for another string as token: it may be another user",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({ fixed: true, token: "ada" });
      await text(view.page, "#state", "open");
      await view.render({ fixed: true, token: "bob" });
      expect(await server.closed.until(1)).toEqual(["ada in a: 1000"]);
      expect(await server.opened.until(2)).toEqual(["ada in a", "bob in a"]);
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "closes while <Activity> hides the component, and opens when it is shown again",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({ hidden: false });
      await text(view.page, "#state", "open");
      await view.render({ hidden: true });
      await server.closed.until(1);
      await view.render({ hidden: false });
      await text(view.page, "#state", "open");
      // Shown again as soon as the connection is closed, before React has rendered anything in between.
      await view.page.evaluate(() => handles.blink());
      await server.closed.until(2);
      await text(view.page, "#state", "open");
      await view.page.click("text=whoami");
      await text(view.page, "#name", "ada");
      expect(server.opened.all).toHaveLength(3);
      expect(server.live.connections.size).toBe(1);
      // The effect of the component below never met a closed client.
      expect((await view.seen()).failed).not.toContain("CLOSED");
      expect(view.errors).toEqual([]);
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "ends as closed when the server refuses, with the code; another key tries again",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({ token: "banned" });
      await text(view.page, "#state", "closed");
      await text(view.page, "#why", "4403");
      await view.render({ token: "ada", fixed: true });
      await text(view.page, "#state", "open");
      await text(view.page, "#why", "");
      await server.app.stop();
    },
    30_000,
  );

  inBrowser(
    "gives a missing param and a URL that is none to the error boundary",
    async () => {
      const server = serve();
      for (const [props, message] of [
        [{ room: "" }, 'needs the param "room"'],
        [{ url: "nonsense" }, '"url" must be like'],
      ] as const) {
        await using view = await open(server.port);
        await view.render(props);
        await view.page.waitForSelector("#caught");
        expect(await view.page.textContent("#caught")).toContain(message);
      }
      expect(server.opened.all).toEqual([]);
      await server.app.stop();
    },
    30_000,
  );
});

describe("useEvent and useAnswer", () => {
  inBrowser(
    "hear an event once each, with what the component rendered last",
    async () => {
      const server = serve();
      await using view = await open(server.port);
      await view.render({ label: "first" });
      await text(view.page, "#state", "open");
      await server.live.broadcast("said", { text: "one" });
      await view.page.waitForFunction(() => handles.seen.heard.length === 2);
      await view.render({ label: "second" });
      await server.live.broadcast("said", { text: "two" });
      await view.page.waitForFunction(() => handles.seen.heard.length === 4);
      expect((await view.seen()).heard).toEqual(["one below", "one first", "two below", "two second"]);
      const [ws] = server.live.connections;
      expect(await server.live.ask(ws!, "confirm", { what: "delete" })).toBe("delete second");
      await server.app.stop();
    },
    30_000,
  );
});

describe("on a server", () => {
  test("nothing is opened, and the state is connecting", () => {
    const made: string[] = [];
    const real = globalThis.WebSocket;
    globalThis.WebSocket = class extends real {
      constructor(url: string | URL) {
        super(url);
        made.push(String(url));
      }
    };
    try {
      // "/" is the page's own address, and there is no page here.
      expect(renderToString(createElement(Room))).toContain('<p id="state">connecting</p>');
    } finally {
      globalThis.WebSocket = real;
    }
    expect(made).toEqual([]);
  });

  inBrowser(
    "what was rendered there hydrates as it is, and then connects",
    async () => {
      const server = serve({ html: renderToString(createElement(Room)) });
      await using view = await open(server.port);
      expect(await view.page.textContent("#state")).toBe("connecting");
      await view.page.evaluate(() => handles.hydrate({}));
      await text(view.page, "#state", "open");
      expect((await view.seen()).errors).toEqual([]);
      expect(view.errors).toEqual([]);
      expect(server.opened.all).toEqual(["ada in a"]);
      await server.app.stop();
    },
    30_000,
  );
});
