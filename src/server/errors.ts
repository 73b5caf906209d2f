// Every error that harpia throws or hands to an `error` handler, and the words in which it says so.
// docs/errors.md explains each code to users; a test keeps that page and ERROR_CODES equal.

/** Every stable `code` of a {@link HarpiaError}. Explained one by one in docs/errors.md. */
export const ERROR_CODES = [
  "BUN_REQUIRED",
  "UNKNOWN_OPTION",
  "INVALID_OPTION",
  "INVALID_PATH",
  "ROUTE_CONFLICT",
  "ROUTES_FROZEN",
  "ALREADY_LISTENING",
  "STOPPED",
  "INVALID_TLS",
  "TLS_FILE_MISSING",
  "PORT_IN_USE",
  "PERMISSION_DENIED",
  "LISTEN_FAILED",
  "INVALID_UPGRADE_RESULT",
  "OPEN_TIMEOUT",
  "IDLE_TIMEOUT",
  "INVALID_MESSAGE",
  "INVALID_TOPIC",
  "READ_ONLY",
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/**
 * What harpia throws. `code` is stable and meant for programs; `message` is meant for the reader who has to
 * fix it: what was attempted, with what, why it failed and what to change. `value` is the offending value.
 */
export class HarpiaError extends Error {
  readonly code: ErrorCode;
  readonly value: unknown;

  constructor(code: ErrorCode, message: string, options: { value?: unknown; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "HarpiaError";
    this.code = code;
    this.value = options.value;
  }
}

/** The close codes of RFC 6455 section 7.4.1 with which a receiver ends a connection that broke the protocol. */
export type ProtocolErrorCode = 1002 | 1007 | 1009;

/**
 * The peer broke RFC 6455: an invalid frame (`code` 1002), text that is not UTF-8 (1007), or a message above
 * `maxPayloadLength` (1009). Handed to the route's `error` handler right before `close` runs with that code.
 */
export class ProtocolError extends Error {
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string) {
    super(message);
    this.name = "ProtocolError";
    this.code = code;
  }
}

/** What a handler threw, as an `Error`: handlers may throw anything, an `error` handler gets only errors. */
export function toError(thrown: unknown): Error {
  if (thrown instanceof Error) return thrown;
  return new Error(`A handler threw a value that is no Error: ${show(thrown)}`, { cause: thrown });
}

/**
 * Throws `UNKNOWN_OPTION` for the first key of `given` that is not in `known`, naming the nearest right one;
 * `INVALID_OPTION` for null or undefined.
 */
export function refuseUnknown(given: object, known: readonly string[], where: string): void {
  if (given === null || given === undefined) {
    const message = `${where} takes an object, and was given ${String(given)}. It takes: ${known.join(", ")}.`;
    throw new HarpiaError("INVALID_OPTION", message, { value: given });
  }
  for (const key of Object.keys(given)) {
    if (known.includes(key)) continue;
    const near = nearest(key, known);
    const hint = near ? `Did you mean "${near}"?` : `It takes: ${known.join(", ")}.`;
    throw new HarpiaError("UNKNOWN_OPTION", `${where} does not take "${key}". ${hint}`, { value: key });
  }
}

/** A value in one short line, for an error message: strings quoted, objects by their type. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (typeof value === "object" && value !== null) {
    const name = Object.getPrototypeOf(value)?.constructor?.name;
    return name && name !== "Object" ? `a ${name}` : "an object";
  }
  return String(value);
}

function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best ?? candidates.find((candidate) => isPartOf(word, candidate) || isPartOf(candidate, word));
}

/** "maxPayload" of "maxPayloadLength", "message" of "onMessage"; nothing shorter than four letters. */
function isPartOf(part: string, whole: string): boolean {
  return part.length >= 4 && whole.toLowerCase().includes(part.toLowerCase());
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
