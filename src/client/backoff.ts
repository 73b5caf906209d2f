// What a close code means for a client, and how long to wait before connecting again: full jitter, so that clients
// that lost a server together do not come back together.

/** `later`: again, but after a longer wait. */
export type Verdict = "end" | "new token" | "again" | "later";

const FIRST_MS = 500;
const LONGEST_MS = 20_000;
const RESTART_MS = 10_000;
const LATER = 4;

/** What a close code means: the end, another attempt with a new token, or another attempt. */
export function verdict(code: number): Verdict {
  if (code === 4401) return "new token";
  // Too slow, too early, too many: a later attempt may do.
  if (code === 4408 || code === 4425 || code === 4429) return "later";
  if ([1000, 1002, 1003, 1007, 1008, 1010].includes(code)) return "end";
  return code >= 4400 && code <= 4499 ? "end" : "again";
}

/**
 * Milliseconds before the next attempt: any number up to 0.5 s · 2ⁿ, and up to 20 s; after 1012 and 1013 up to 10 s at
 * least, however short ago the last attempt was: in a rolling restart the same clients are met by one restart after the
 * other.
 * @param attempt How many have failed in a row; 0 for the first.
 * @param code The close code: a `later` is four times as long.
 * @param random From 0 up to 1.
 */
export function backoff(attempt: number, code: number, random: () => number = Math.random): number {
  const restarts = code === 1012 || code === 1013;
  const most = Math.max(restarts ? RESTART_MS : 0, Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt));
  return random() * most * (verdict(code) === "later" ? LATER : 1);
}
