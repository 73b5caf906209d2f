// 200 clients lose their server together. With 10,000, and what it takes: `npm run test:resume`.

import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resume } from "../support/resume.js";

const CLIENTS = 200;

test("all clients of a server that is restarted on SQLite are handed what they missed, once, and no reset", async () => {
  const file = join(tmpdir(), `harpia-resume-${crypto.randomUUID()}.db`);
  try {
    const { recovered, resetOnce } = await resume(CLIENTS, file, true);
    expect({ recovered, resetOnce }).toEqual({ recovered: CLIENTS, resetOnce: 0 });
  } finally {
    for (const end of ["", "-wal", "-shm"]) rmSync(file + end, { force: true });
  }
}, 60_000);

test("each client of a server that is restarted in memory is told one reset", async () => {
  const { recovered, resetOnce } = await resume(CLIENTS, "memory", true);
  expect({ recovered, resetOnce }).toEqual({ recovered: 0, resetOnce: CLIENTS });
}, 60_000);
