// The README and the pages in docs/, as the tests read them.

import { Glob } from "bun";
import { join } from "node:path";

export const ROOT = join(import.meta.dir, "../..");

export interface Page {
  /** From the repository's root: `docs/guide.md`. */
  path: string;
  text: string;
}

export const pages: Page[] = await Promise.all(
  [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "bench/README.md",
    ...new Glob("docs/**/*.md").scanSync(ROOT),
  ]
    .sort()
    .map(async (path) => ({ path, text: await Bun.file(join(ROOT, path)).text() })),
);

/** The code blocks of a language, in order. */
export function blocks({ text }: Page, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, "gm"))].map(
    ([, code]) => code!,
  );
}

/** A page's programs: a block that begins with an import starts one, the blocks after it go on with it. */
export function programs(page: Page): string[] {
  const all: string[] = [];
  for (const block of blocks(page, "ts")) {
    if (/^(\/\/.*\n)*import /.test(block)) all.push(block);
    else all[all.length - 1] += `\n${block}`;
  }
  return all;
}

/** The names of a page's headings, as links name them. */
export function anchors({ text }: Page): string[] {
  return [...text.replace(/^```[\s\S]*?^```$/gm, "").matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}
