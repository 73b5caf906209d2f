// A bare client's side of a channel: frames as text, and methods that return when the test says so.

import { Events } from "./log.js";
import type { RawClient } from "./raw.js";

export interface Received {
  id?: string | number | null;
  method?: string;
  params?: Record<string, unknown>;
  result?: unknown;
  error?: { code: number; message: string; data?: unknown };
}

export function call(id: unknown, method: string, params?: unknown): string {
  return JSON.stringify({ jsonrpc: "2.0", id, method, params });
}

export function notification(method: string, params?: unknown): string {
  return JSON.stringify({ jsonrpc: "2.0", method, params });
}

export function result(id: unknown, value: unknown): string {
  return JSON.stringify({ jsonrpc: "2.0", id, result: value });
}

/** The next frame. */
export async function received(client: RawClient): Promise<Received> {
  return JSON.parse(await client.text()) as Received;
}

/** What is told of a call: that it began, that it was told to stop. */
export class Gates {
  readonly begun = new Events<string>();
  readonly aborted = new Events<string>();
  readonly #gates = new Map<string, PromiseWithResolvers<void>>();

  /** For a method: says that it runs, and resolves when `open(key)` was called. */
  async wait(key: string, signal?: AbortSignal): Promise<string> {
    this.begun.push(key);
    signal?.addEventListener("abort", () => this.aborted.push(key));
    await this.#gate(key).promise;
    return key;
  }

  open(key: string): void {
    this.#gate(key).resolve();
  }

  openAll(): void {
    for (const { resolve } of this.#gates.values()) resolve();
  }

  #gate(key: string): PromiseWithResolvers<void> {
    const found = this.#gates.get(key) ?? Promise.withResolvers<void>();
    this.#gates.set(key, found);
    return found;
  }
}
