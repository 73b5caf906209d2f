// The yardstick: the bare inserts, prepared once, into such a table; those of one tick in one transaction. Nothing is
// checked, numbered in a row of its own, trimmed or delivered.

import { Database } from "bun:sqlite";
import { turns } from "../clients/turns.js";
import { MESSAGE } from "../topic.js";

const { FOLDER, SYNCHRONOUS } = process.env;
const db = new Database(`${FOLDER}/raw.db`);
db.run("PRAGMA journal_mode = WAL");
db.run("PRAGMA locking_mode = EXCLUSIVE");
db.run(`PRAGMA synchronous = ${SYNCHRONOUS}`);
db.run(
  "CREATE TABLE messages (topic INTEGER NOT NULL, offset INTEGER NOT NULL, at INTEGER NOT NULL, payload TEXT NOT NULL, " +
    "PRIMARY KEY (topic, offset)) WITHOUT ROWID",
);
const insert = db.prepare("INSERT INTO messages (topic, offset, at, payload) VALUES (1, ?, ?, ?)");
const begin = db.prepare("BEGIN IMMEDIATE");
const commit = db.prepare("COMMIT");

interface Pending {
  payload: string;
  resolve: (offset: number) => void;
}

let offset = 0;
let pending: Pending[] = [];

function write(): void {
  const batch = pending;
  pending = [];
  const now = Date.now();
  begin.run();
  for (const [index, { payload }] of batch.entries()) insert.run(offset + index + 1, now, payload);
  commit.run();
  for (const { resolve } of batch) resolve(++offset);
}

function publish(data: object): Promise<number> {
  if (pending.length === 0) setImmediate(write);
  return new Promise((resolve) => pending.push({ payload: JSON.stringify(data), resolve }));
}

await turns(() => publish(MESSAGE));
