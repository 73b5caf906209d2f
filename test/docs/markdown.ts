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

/** The code blocks of a language (a regular expression), in order. */
export function blocks({ text }: Page, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, "gm"))].map(
    ([, code]) => code!,
  );
}

export interface Program {
  /** Where it lies, for its neighbours to import it. */
  path: string;
  code: string;
}

/**
 * A page's programs: a block that begins with an import starts one, the blocks after it go on with it. It may say its
 * file's name first (`// chat/server.ts: …`), so that its neighbours can import it, and must
 * where it has JSX.
 */
export function programs(page: Page): Program[] {
  const all: Program[] = [];
  for (const block of blocks(page, "tsx?")) {
    if (!/^(\/\/.*\n)*import /.test(block)) {
      all.at(-1)!.code += `\n${block}`;
      continue;
    }
    const path = /^\/\/ ([\w./-]+\.tsx?)\b/.exec(block)?.[1] ?? `sample-${all.length + 1}.ts`;
    if (all.some((other) => other.path === path)) throw new Error(`${page.path} has two files ${path}`);
    all.push({ path, code: block });
  }
  return all;
}

/** The code of the README's file of that name. */
export function readme(name: string): string {
  const page = pages.find(({ path }) => path === "README.md")!;
  const found = programs(page).find(({ path }) => path === name);
  if (found) return found.code;
  throw new Error(`the README has no ${name}`);
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
