// `npm test`: types, lint, format, then every test under test/. Its last line counts all of them.
// Arguments go to `bun test`: `npm test -- test/server/stop.test.ts`.

export {};

const bun = process.execPath;

interface Count {
  passed: number;
  failed: number;
  skipped: number;
}

const checks: { name: string; command: string[] }[] = [
  { name: "types", command: [bun, "check"] },
  { name: "lint", command: [bun, "x", "oxlint", "--deny-warnings"] },
  { name: "format", command: [bun, "fmt", "--check"] },
];

const total: Count = { passed: 0, failed: 0, skipped: 0 };

for (const { name, command } of checks) {
  console.log(`\n— ${name}`);
  const { exitCode } = Bun.spawnSync(command, { stdout: "inherit", stderr: "inherit" });
  if (exitCode === 0) total.passed++;
  else total.failed++;
}

console.log("\n— tests");
const tests = await runTests(process.argv.slice(2));
total.passed += tests.passed;
total.failed += tests.failed;
total.skipped += tests.skipped;

if (total.skipped > 0) console.log(`\n${total.skipped} skipped: the warnings above say what is missing.`);
console.log(
  `\n${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`,
);
process.exit(total.failed === 0 ? 0 : 1);

/** Runs `bun test`, shows what it prints, and reads its counts. A run that dies without them has failed. */
async function runTests(args: string[]): Promise<Count> {
  const child = Bun.spawn([bun, "test", ...args], { stdout: "inherit", stderr: "pipe" });
  let output = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stderr) {
    process.stderr.write(chunk);
    output += decoder.decode(chunk, { stream: true });
  }
  const exitCode = await child.exited;
  const count = {
    passed: countOf(output, "pass"),
    failed: countOf(output, "fail"),
    skipped: countOf(output, "skip") + countOf(output, "todo"),
  };
  if (exitCode !== 0 && count.failed === 0) count.failed = 1;
  if (exitCode === 0 && count.passed === 0) count.failed++;
  return count;
}

/** The number in bun test's closing line ` 12 pass`. */
function countOf(output: string, word: string): number {
  const lines = [...output.matchAll(new RegExp(`^\\s*(\\d+) ${word}\\s*$`, "gm"))];
  return Number(lines.at(-1)?.[1] ?? 0);
}
