// The file of a SQLite broker: opened for one process alone, with the schema that this version writes, or refused
// with an error that names it and says what to do.

import { constants, Database } from "bun:sqlite";
import { accessSync, constants as access, existsSync, mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { BrokerError, type BrokerErrorCode, newEpoch } from "./broker.js";

export interface SqliteOptions {
  /**
   * `"full"` (default): a publication that was acknowledged survives power cuts, for one fsync a tick. `"normal"`: no
   * fsync; it survives kill -9, and a start after anything but a clean stop begins new epochs, so that every client
   * sees one reset.
   */
  readonly synchronous?: "full" | "normal" | undefined;
  /** What the file may grow to, in bytes; `publish` rejects with `BROKER_FULL` beyond. Default: what the disk has. */
  readonly maxBytes?: number | undefined;
}

/** "harp": what `file` and `PRAGMA application_id` tell of it. */
const APPLICATION_ID = 0x68617270;
const SCHEMA_VERSION = 1;
const PAGE_BYTES = 4096;
/** Below it not even the schema fits. */
const MIN_BYTES = 64 * 1024;
/** A write-ahead log that one large transaction left behind is cut to this. */
const WAL_BYTES = 16 * 1024 * 1024;

const SCHEMA = `
  CREATE TABLE meta (
    -- The epoch of topics that nobody has published to: they have no row.
    epoch TEXT NOT NULL,
    -- The latest time that is known, in ms: no later start may begin before it.
    clock INTEGER NOT NULL,
    -- 1 while open with synchronous = normal.
    unclean INTEGER NOT NULL
  );
  CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    offset INTEGER NOT NULL,
    -- The history that the latest publication asked for, in messages and ms.
    size INTEGER NOT NULL,
    ttl INTEGER NOT NULL,
    -- Time of the latest publication, in ms.
    used INTEGER NOT NULL
  );
  CREATE TABLE messages (
    topic INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    -- Never less than that of the one before.
    at INTEGER NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (topic, offset)
  ) WITHOUT ROWID;
  CREATE TABLE keys (
    topic INTEGER NOT NULL,
    key TEXT NOT NULL,
    offset INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
  ) WITHOUT ROWID;
  CREATE INDEX keys_by_expiry ON keys (expires);
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

export class SqliteFile {
  /** Absolute. */
  readonly path: string;
  readonly db: Database;
  readonly #normal: boolean;

  constructor(path: string, options: SqliteOptions) {
    this.path = checked(path, options);
    this.#normal = options.synchronous === "normal";
    makeFolder(this.path);
    lookAt(this.path);
    try {
      this.db = new Database(this.path, constants.SQLITE_OPEN_READWRITE | constants.SQLITE_OPEN_CREATE);
    } catch (error) {
      throw this.explain(error, "open");
    }
    try {
      this.#prepare(options);
    } catch (error) {
      this.db.close();
      throw this.explain(error, "open");
    }
  }

  /** In good order: what was written with `synchronous: "normal"` is on the disk before the file says so. */
  close(): void {
    try {
      this.db.run("PRAGMA synchronous = FULL");
      this.db.run("UPDATE meta SET unclean = 0 WHERE unclean = 1");
      this.db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      // A full disk, say. The write-ahead log has everything, and the next start reads it.
    }
    this.db.close(true);
  }

  /** What SQLite's error means for whoever runs the server. */
  explain(error: unknown, attempt: string): BrokerError {
    if (error instanceof BrokerError) return error;
    const sqlite = String((error as { code?: unknown }).code ?? "");
    const [code, advice] = this.#advice(sqlite);
    const said = `${(error as Error).message}${sqlite === "" ? "" : `, ${sqlite}`}`;
    return new BrokerError(code, `Could not ${attempt} ${this.path} (${said}): ${advice}`, { cause: error });
  }

  #advice(sqlite: string): [BrokerErrorCode, string] {
    if (/^SQLITE_(BUSY|LOCKED)/.test(sqlite))
      return [
        "BROKER_LOCKED",
        "another process, or another broker in this one, has it open, and one at a time may. Stop that one, give this one " +
          "a file of its own, or let several processes share a Redis.",
      ];
    if (
      /^SQLITE_(READONLY|PERM|AUTH)/.test(sqlite) ||
      (/^SQLITE_(CANTOPEN|IOERR)/.test(sqlite) && !this.#writable())
    )
      return [
        "BROKER_READ_ONLY",
        "this user may not write there. Allow it for the file, for those beside it that end in -wal and -shm, and for " +
          "their folder; is the disk mounted read-only?",
      ];
    if (sqlite.startsWith("SQLITE_FULL"))
      return [
        "BROKER_FULL",
        "the disk is full, or the file has reached `maxBytes`. Make room, or keep less (`size` and `ttl` of the topics); " +
          "publishing works again as soon as there is room.",
      ];
    if (/^SQLITE_(CORRUPT|NOTADB)/.test(sqlite))
      return [
        "BROKER_CORRUPT",
        "it is damaged, or no SQLite database. Move it and its -wal away to start anew (each client sees one reset), and " +
          "check the disk.",
      ];
    return ["BROKER_UNAVAILABLE", "see what SQLite said, and the disk."];
  }

  #writable(): boolean {
    try {
      accessSync(dirname(this.path), access.W_OK | access.X_OK);
      if (existsSync(this.path)) accessSync(this.path, access.R_OK | access.W_OK);
      return true;
    } catch {
      return false;
    }
  }

  #prepare({ maxBytes }: SqliteOptions): void {
    const { db } = this;
    // Before anything is read, else the lock is a shared one. The system drops it with the process, however that ends.
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    // Before the first page, that is before WAL; and it would write to an old file.
    const isNew = this.#isNew();
    if (isNew) db.run("PRAGMA auto_vacuum = INCREMENTAL");
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    // macOS: fsync alone leaves data in the drive's cache.
    db.run("PRAGMA fullfsync = ON");
    db.run("PRAGMA checkpoint_fullfsync = ON");
    db.run(`PRAGMA journal_size_limit = ${WAL_BYTES}`);
    if (maxBytes !== undefined) db.run(`PRAGMA max_page_count = ${Math.floor(maxBytes / PAGE_BYTES)}`);
    db.transaction(() => {
      if (isNew) {
        db.run(SCHEMA);
        db.run("INSERT INTO meta VALUES (?, 0, 0)", [newEpoch()]);
      }
      if (this.#number("SELECT unclean FROM meta") === 1) this.#startEpochs();
      db.run("UPDATE meta SET unclean = ?", [this.#normal ? 1 : 0]);
    }).immediate();
    // That the file is unclean had to be on the disk first.
    if (this.#normal) db.run("PRAGMA synchronous = NORMAL");
  }

  /** Throws if it is neither new nor of this version. */
  #isNew(): boolean {
    const application = this.#number("PRAGMA application_id");
    const version = this.#number("PRAGMA user_version");
    if (application === APPLICATION_ID && version === SCHEMA_VERSION) return false;
    if (application === APPLICATION_ID)
      throw new BrokerError(
        "BROKER_SCHEMA",
        `${this.path} has schema version ${version}, and this harpia reads ${SCHEMA_VERSION}. Use the harpia that wrote ` +
          "it, or move the file and its -wal away to start anew (each client sees one reset).",
      );
    if (application === 0 && version === 0 && this.#number("SELECT count(*) FROM sqlite_schema") === 0)
      return true;
    throw new BrokerError(
      "BROKER_SCHEMA",
      `${this.path} is another program's database. harpia needs a file of its own: give it another path.`,
    );
  }

  /** Publications may be missing, and their offsets would be given out again. What is there stays readable. */
  #startEpochs(): void {
    const epoch = newEpoch();
    this.db.run("UPDATE meta SET epoch = ?", [epoch]);
    this.db.run("UPDATE topics SET epoch = ?", [epoch]);
  }

  #number(sql: string): number {
    const statement = this.db.prepare<unknown, []>(sql);
    try {
      return Number(statement.values()[0]?.[0]);
    } finally {
      statement.finalize();
    }
  }
}

function checked(path: string, options: SqliteOptions): string {
  const refuse = (message: string): never => {
    throw new BrokerError("BROKER_INVALID_OPTION", message);
  };
  if (typeof path !== "string" || path === "" || path.includes("\0"))
    refuse(`sqlite(path) takes the path of a file, like "./data/chat.db", and got ${JSON.stringify(path)}.`);
  if (path === ":memory:")
    refuse('sqlite(":memory:") would keep nothing: leave `broker` out to keep topics in memory.');
  const { synchronous, maxBytes } = options;
  for (const name of Object.keys(options))
    if (name !== "synchronous" && name !== "maxBytes")
      refuse(`sqlite(path, options) does not know \`${name}\`. It takes: synchronous, maxBytes.`);
  if (synchronous !== undefined && synchronous !== "full" && synchronous !== "normal")
    refuse(`\`synchronous\` is "full" or "normal", and was ${JSON.stringify(synchronous)}.`);
  if (maxBytes !== undefined && !(Number.isSafeInteger(maxBytes) && maxBytes >= MIN_BYTES))
    refuse(`\`maxBytes\` is a whole number of bytes, ${MIN_BYTES} at least, and was ${String(maxBytes)}.`);
  // Absolute: the message says which file was meant, and SQLite takes no "file:" for a URI.
  return resolve(path);
}

function makeFolder(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const mayNot = code === "EACCES" || code === "EPERM" || code === "EROFS";
    throw new BrokerError(
      mayNot ? "BROKER_READ_ONLY" : "BROKER_UNAVAILABLE",
      `Could not make the folder of ${path} (${message}): make it, or give a path in one that this user may write to.`,
      { cause: error },
    );
  }
}

/** By `stat` alone: opening and closing the file would drop the locks that this process may have on it. */
function lookAt(path: string): void {
  const file = statSync(path, { throwIfNoEntry: false });
  if (file?.isDirectory())
    throw new BrokerError(
      "BROKER_INVALID_OPTION",
      `${path} is a folder; sqlite(path) takes the path of a file in it.`,
    );
  const log = statSync(`${path}-wal`, { throwIfNoEntry: false });
  // SQLite throws the log of an empty file away; what it has would be lost without a word.
  if ((file?.size ?? 0) === 0 && (log?.size ?? 0) > 0)
    throw new BrokerError(
      "BROKER_CORRUPT",
      `${path} is empty or gone, but ${path}-wal beside it is not: the file was cut, moved or replaced. Put back the one ` +
        "that belongs to it, or move the -wal away to start anew (each client sees one reset).",
    );
}
