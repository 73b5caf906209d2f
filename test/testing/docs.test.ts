// docs/testing.md is a page of tests: they pass.

import { expect, test } from "bun:test";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pages, programs, ROOT } from "../docs/markdown.js";

test("the tests of docs/testing.md pass", async () => {
  const folder = join(ROOT, ".cache/testing");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const samples = programs(pages.find(({ path }) => path === "docs/testing.md")!);
  const files = samples.map((_, index) => join(folder, `${index}.test.ts`));
  for (const [index, file] of files.entries()) await Bun.write(file, samples[index]!.code);
  const child = Bun.spawn([process.execPath, "test", ...files], { cwd: ROOT, stderr: "pipe" });
  const said = await new Response(child.stderr).text();
  expect([await child.exited, said]).toEqual([0, expect.stringContaining(` ${samples.length} pass`)]);
}, 30_000);
