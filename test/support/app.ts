// Starts an app for a test, on a free port of this machine only.

import { type Harpia, harpia, type HarpiaOptions, type ListenOptions, type WebSocketHandlers } from "harpia";
import { dial, type RawResponse, request } from "./raw.js";

/** Listens on a free port, and gives it. */
export function listen(app: Harpia, options: ListenOptions = {}): number {
  return app.listen({ hostname: "127.0.0.1", port: 0, ...options } as ListenOptions).port!;
}

/** Sends one request, and reads what is answered. */
export async function answer(port: number, bytes: string): Promise<RawResponse> {
  await using client = await dial(port);
  client.write(bytes);
  return await client.response();
}

/** The handshake with these headers and what is answered. */
export function shake(
  port: number,
  path = "/",
  headers: Record<string, string | undefined> = {},
): Promise<RawResponse> {
  return answer(port, request(path, headers));
}

/** Waits until a condition holds that no event tells of; fails after five seconds. */
export async function until(holds: () => boolean, what = "the condition"): Promise<void> {
  const deadline = performance.now() + 5_000;
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`${what} did not come to hold`);
    await Bun.sleep(1);
  }
}

/** Asks until it is so, or the time is over. @returns whether it is so. */
export async function holdsWithin(isSo: () => boolean | Promise<boolean>, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms;
  for (;;) {
    if (await isSo()) return true;
    if (performance.now() > deadline) return false;
    await Bun.sleep(20);
  }
}

/** An app with an echo on `/`, to see that others live on. */
export function quiet(options: HarpiaOptions = {}): Harpia {
  return harpia({ logger: false, ...options });
}

export const echo: WebSocketHandlers = {
  message(ws, message) {
    ws.send(message);
  },
};
