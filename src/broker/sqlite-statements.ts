// Every statement that a SQLite broker runs while it is open, prepared once.

import type { Database, SQLQueryBindings } from "bun:sqlite";

/** A topic as the file has it. */
export interface TopicRow {
  readonly id: number;
  readonly name: string;
  readonly epoch: string;
  readonly offset: number;
  /** The history that the latest publication asked for, in messages and milliseconds. */
  readonly size: number;
  readonly ttl: number;
  /** When that was. */
  readonly used: number;
}

const COLUMNS = "id, name, epoch, offset, size, ttl, used";

export class Statements {
  readonly #db: Database;
  readonly #all: { finalize(): void }[] = [];
  readonly meta;
  readonly setClock;
  readonly setEpoch;
  readonly topic;
  readonly topicsAfter;
  readonly addTopic;
  readonly setTopic;
  readonly deleteTopic;
  readonly oldest;
  readonly time;
  readonly payload;
  readonly addMessage;
  readonly deleteMessages;
  readonly key;
  readonly setKey;
  readonly deleteKeys;
  readonly deleteKeysOf;
  readonly freePages;
  readonly vacuum;
  readonly #begin;
  readonly #commit;
  readonly #rollback;

  constructor(db: Database) {
    this.#db = db;
    this.meta = this.#prepare<{ epoch: string; clock: number }, []>("SELECT epoch, clock FROM meta");
    this.setClock = this.#prepare<unknown, [now: number]>("UPDATE meta SET clock = ?");
    this.setEpoch = this.#prepare<unknown, [epoch: string]>("UPDATE meta SET epoch = ?");
    this.topic = this.#prepare<TopicRow, [name: string]>(`SELECT ${COLUMNS} FROM topics WHERE name = ?`);
    this.topicsAfter = this.#prepare<TopicRow, [id: number, limit: number]>(
      `SELECT ${COLUMNS} FROM topics WHERE id > ? ORDER BY id LIMIT ?`,
    );
    this.addTopic = this.#prepare<{ id: number }, [name: string, epoch: string]>(
      "INSERT INTO topics (name, epoch, offset, size, ttl, used) VALUES (?, ?, 0, 0, 0, 0) RETURNING id",
    );
    this.setTopic = this.#prepare<
      unknown,
      [offset: number, size: number, ttl: number, used: number, id: number]
    >("UPDATE topics SET offset = ?, size = ?, ttl = ?, used = ? WHERE id = ?");
    this.deleteTopic = this.#prepare<unknown, [id: number]>("DELETE FROM topics WHERE id = ?");
    this.oldest = this.#prepare<{ offset: number | null }, [topic: number]>(
      "SELECT min(offset) AS offset FROM messages WHERE topic = ?",
    );
    this.time = this.#prepare<{ at: number }, [topic: number, offset: number]>(
      "SELECT at FROM messages WHERE topic = ? AND offset = ?",
    );
    this.payload = this.#prepare<{ payload: string }, [topic: number, offset: number]>(
      "SELECT payload FROM messages WHERE topic = ? AND offset = ?",
    );
    this.addMessage = this.#prepare<unknown, [topic: number, offset: number, at: number, payload: string]>(
      "INSERT INTO messages (topic, offset, at, payload) VALUES (?, ?, ?, ?)",
    );
    this.deleteMessages = this.#prepare<unknown, [topic: number, before: number]>(
      "DELETE FROM messages WHERE topic = ? AND offset < ?",
    );
    this.key = this.#prepare<{ offset: number; expires: number }, [topic: number, key: string]>(
      "SELECT offset, expires FROM keys WHERE topic = ? AND key = ?",
    );
    this.setKey = this.#prepare<unknown, [topic: number, key: string, offset: number, expires: number]>(
      "INSERT OR REPLACE INTO keys (topic, key, offset, expires) VALUES (?, ?, ?, ?)",
    );
    this.deleteKeys = this.#prepare<unknown, [now: number, limit: number]>(
      "DELETE FROM keys WHERE (topic, key) IN (SELECT topic, key FROM keys WHERE expires <= ? LIMIT ?)",
    );
    this.deleteKeysOf = this.#prepare<unknown, [topic: number]>("DELETE FROM keys WHERE topic = ?");
    this.freePages = this.#prepare<{ freelist_count: number }, []>("PRAGMA freelist_count");
    this.vacuum = this.#prepare<unknown, []>("PRAGMA incremental_vacuum(2000)");
    this.#begin = this.#prepare<unknown, []>("BEGIN IMMEDIATE");
    this.#commit = this.#prepare<unknown, []>("COMMIT");
    this.#rollback = this.#prepare<unknown, []>("ROLLBACK");
  }

  /** All of it or, if it throws or cannot be stored, nothing. */
  transaction<T>(write: () => T): T {
    this.#begin.run();
    try {
      const result = write();
      this.#commit.run();
      return result;
    } catch (error) {
      // SQLite has rolled some failures back by itself.
      if (this.#db.inTransaction) this.#rollback.run();
      throw error;
    }
  }

  /** A statement that is left open would keep the file, and its lock, after `close`. */
  finalize(): void {
    for (const statement of this.#all) statement.finalize();
  }

  #prepare<Row, Args extends SQLQueryBindings[]>(sql: string) {
    const statement = this.#db.prepare<Row, Args>(sql);
    this.#all.push(statement);
    return statement;
  }
}
