// `npm run test:resume`: 10,000 clients lose their server together, on SQLite and in memory; fails unless each of them
// is where it should be. In small with the tests: test/topics/resume.test.ts.

import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resume } from "./support/resume.js";

const clients = Number(process.env.CLIENTS ?? 10_000);
const file = join(tmpdir(), `harpia-resume-${crypto.randomUUID()}.db`);
let failed = false;
for (const [name, broker] of [
  ["SQLite", file],
  ["memory", "memory"],
] as const) {
  const { recovered, resetOnce, seconds, peakHandshakes } = await resume(clients, broker, false);
  console.log(
    `${clients} clients on ${name}: ${recovered} recovered all 20 that they missed, ${resetOnce} saw one reset; ` +
      `${seconds.toFixed(1)} s after the stop all had everything; at most ${peakHandshakes} handshakes in one second`,
  );
  if ((broker === file ? recovered : resetOnce) !== clients) failed = true;
}
for (const end of ["", "-wal", "-shm"]) rmSync(file + end, { force: true });
process.exit(failed ? 1 : 0);
