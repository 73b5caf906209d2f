// Pages with the real React for the tests of hooks: built once, served by the app under test, opened in Chromium.

import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { launchChromium } from "../support/chromium.js";

/** Bundles a page's script, with React's development build: StrictMode does nothing in the other. */
export async function build(file: string): Promise<string> {
  const built = await Bun.build({
    entrypoints: [join(import.meta.dir, file)],
    target: "browser",
    define: { "process.env.NODE_ENV": '"development"' },
  });
  return await built.outputs[0]!.text();
}

/** The routes of a page that runs the script. `html`: what the server has rendered into it. */
export function pageRoutes(code: string, html = ""): { "/": Response; "/page.js": Response } {
  const type = (type: string) => ({ headers: { "content-type": type } });
  return {
    "/": new Response(
      `<!doctype html><link rel="icon" href="data:,"><div id="app">${html}</div><script type="module" src="/page.js"></script>`,
      type("text/html"),
    ),
    "/page.js": new Response(code, type("text/javascript")),
  };
}

let browser: Browser | undefined;

export async function closeBrowser(): Promise<void> {
  await browser?.close();
  browser = undefined;
}

export interface View extends AsyncDisposable {
  page: Page;
  /** Those that nobody caught, and what React complained about. */
  errors: string[];
  /** What the page has sent about topics, each frame as `method topic`. */
  sent: string[];
}

/** Opens the page. */
export async function open(port: number): Promise<View> {
  browser ??= await launchChromium();
  const page = await browser.newPage();
  const errors: string[] = [];
  const sent: string[] = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      const { method, params } = JSON.parse(String(payload));
      if (params?.topic !== undefined) sent.push(`${method} ${params.topic}`);
    }),
  );
  await page.goto(`http://127.0.0.1:${port}/`);
  return { page, errors, sent, [Symbol.asyncDispose]: () => page.close() };
}

/** Resolves when the first element that matches has this text. */
export async function text(page: Page, selector: string, expected: string): Promise<void> {
  await page.waitForFunction(
    ([selector, expected]) => document.querySelector(selector!)?.textContent === expected,
    [selector, expected],
    { timeout: 20_000 },
  );
}
