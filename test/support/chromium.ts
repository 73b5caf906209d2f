// A real Chromium for the tests that need a browser.

import { type Browser, chromium } from "playwright-core";
import { pathOf } from "./programs.js";

const ARGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Starts Chromium; `await using` ends it. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: pathOf("chromium"), args: ARGS });
}
