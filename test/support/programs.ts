// Programs that some tests need and a machine may lack: found on the PATH, missed loudly. With CI=true a test that
// misses one fails.

import { test } from "bun:test";

const NAMES = {
  chromium: ["chromium", "chromium-browser", "google-chrome"],
  nginx: ["nginx", "/usr/sbin/nginx"],
  haproxy: ["haproxy", "/usr/sbin/haproxy"],
  "redis-server": ["redis-server", "valkey-server"],
} as const;

export type Program = keyof typeof NAMES;

/** Where a program is; throws if this machine has none. */
export function pathOf(program: Program): string {
  const path = find(program);
  if (path === undefined) throw new Error(`${program} is not on the PATH: install it to run this test`);
  return path;
}

/** `test`, where the program is there or must be; else one that skips, and says so. */
export function testWith(program: Program): typeof test | typeof test.skip {
  if (find(program) !== undefined || process.env.CI === "true") return test;
  console.warn(`SKIPPED: ${program} is not on the PATH, and the tests of ${callerOf()} need it.`);
  return test.skip;
}

function find(program: Program): string | undefined {
  for (const name of NAMES[program]) {
    const path = Bun.which(name);
    if (path) return path;
  }
  return undefined;
}

function callerOf(): string {
  return new Error("where").stack?.match(/([\w.-]+\.test\.ts)/)?.[1] ?? "this file";
}
