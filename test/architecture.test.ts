// The arrows of docs/architecture.md: a folder of src/ imports from its own floor's folder or from floors below,
// never up, never in a circle; and only server/bun.ts speaks to Bun.serve.

import { Glob } from "bun";
import { expect, test } from "bun:test";
import { dirname, join, relative } from "node:path";

const SRC = join(import.meta.dir, "../src");

/** What each room may import from, beside itself. */
const MAY_KNOW: Record<string, readonly string[]> = {
  contract: [],
  broker: [],
  server: ["broker", "contract"],
  channel: ["server", "broker", "contract"],
  client: ["contract"],
  react: ["client", "contract"],
  "app.ts": ["channel", "server", "broker", "contract"],
  testing: ["app.ts", "client", "server", "contract"],
  "index.ts": ["app.ts", "channel", "server", "broker", "contract"],
};

interface Import {
  from: string;
  to: string;
  /** `import type`: gone at run time. */
  typeOnly: boolean;
}

const files = [...new Glob("**/*.{ts,tsx}").scanSync(SRC)].sort();
const imports = (await Promise.all(files.map(importsOf))).flat();

test("every room of src/ is in the plan", () => {
  expect([...new Set(files.map(roomOf))].sort()).toEqual(Object.keys(MAY_KNOW).sort());
});

test("arrows go down only", () => {
  const up = imports.filter(({ from, to }) => {
    const [room, target] = [roomOf(from), roomOf(to)];
    return room !== target && !MAY_KNOW[room]?.includes(target);
  });
  expect(up).toEqual([]);
});

test("no room is part of a circle", () => {
  const rooms = new Map<string, Set<string>>();
  for (const { from, to } of imports) {
    if (roomOf(from) === roomOf(to)) continue;
    rooms.set(roomOf(from), (rooms.get(roomOf(from)) ?? new Set()).add(roomOf(to)));
  }
  for (const room of rooms.keys()) expect(reach(room, rooms)).not.toContain(room);
});

test("only server/bun.ts starts a server", async () => {
  const starts: string[] = [];
  for (const file of files) {
    const code = stripComments(await Bun.file(join(SRC, file)).text());
    if (/\bBun\.(serve|listen)\(/.test(code)) starts.push(file);
  }
  expect(starts).toEqual(["server/bun.ts"]);
});

test("src/ imports nothing but itself and node: modules, hooks React, sqlite Bun's SQLite, and redis node-redis", async () => {
  const foreign: string[] = [];
  for (const file of files) {
    const code = stripComments(await Bun.file(join(SRC, file)).text());
    for (const [, typeOnly, name] of code.matchAll(
      /(?:import|export)\s+(type\s)?[^;"']*?from\s+"([^."][^"]*)"/g,
    )) {
      // Types are the exception: they vanish when built.
      if (name!.startsWith("node:") || (typeOnly && (name === "bun" || name === "@standard-schema/spec")))
        continue;
      if (name === "react" && roomOf(file) === "react") continue;
      if (name === "bun:sqlite" && file.startsWith("broker/sqlite")) continue;
      if (name === "redis" && file.startsWith("broker/redis")) continue;
      foreign.push(`${file}: ${name}`);
    }
  }
  expect(foreign).toEqual([]);
});

async function importsOf(file: string): Promise<Import[]> {
  const code = stripComments(await Bun.file(join(SRC, file)).text());
  const found: Import[] = [];
  for (const [, typeOnly, name] of code.matchAll(
    /(?:import|export)\s+(type\s)?[^;"']*?from\s+"(\.[^"]+)"/g,
  )) {
    found.push({ from: file, to: resolve(file, name!), typeOnly: typeOnly !== undefined });
  }
  for (const [, name] of code.matchAll(/import\("(\.[^"]+)"\)/g)) {
    found.push({ from: file, to: resolve(file, name!), typeOnly: true });
  }
  return found;
}

function resolve(file: string, name: string): string {
  return relative(SRC, join(SRC, dirname(file), name.replace(/\.js$/, ".ts")));
}

function roomOf(file: string): string {
  return file.split("/")[0]!;
}

function reach(start: string, edges: Map<string, Set<string>>): string[] {
  const seen = new Set<string>();
  const next = [...(edges.get(start) ?? [])];
  for (let room = next.pop(); room !== undefined; room = next.pop()) {
    if (seen.has(room)) continue;
    seen.add(room);
    next.push(...(edges.get(room) ?? []));
  }
  return [...seen];
}

function stripComments(code: string): string {
  return code.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
}
