// What tests watch: an app's log lines, and the order of what its handlers saw.

import type { Logger } from "harpia";

export interface LogLine {
  level: "debug" | "info" | "warn" | "error";
  message: string;
  fields: Record<string, unknown>;
}

/** A logger that keeps its lines. */
export function keptLog(): Logger & { lines: LogLine[] } {
  const lines: LogLine[] = [];
  const write =
    (level: LogLine["level"]) =>
    (message: string, fields: Record<string, unknown> = {}) =>
      void lines.push({ level, message, fields });
  return { lines, debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
}

/** Things that happen, in order, and a way to wait for the n-th. */
export class Events<Event> {
  readonly all: Event[] = [];
  #wake = Promise.withResolvers<void>();

  push(event: Event): void {
    this.all.push(event);
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  /** Resolves with everything so far when there are `count` of them. */
  async until(count: number): Promise<Event[]> {
    while (this.all.length < count) await this.#wake.promise;
    return this.all;
  }
}
