// JSON-RPC 2.0 (https://www.jsonrpc.org/specification) as text frames: what a parsed frame is, and the error codes.
// Pure: what is done with a frame is channel/'s and client/'s.

/** The subprotocol that harpia's client offers. */
export const SUBPROTOCOL = "harpia.v1";

/** The close reason of a handshake that was refused: the connection never was one, and nothing sent on it was read. */
export const REFUSED = "Refused";

/** More in one batch is refused. */
export const MOST_IN_BATCH = 100;

/** Error codes on the wire; docs/protocol.md explains them. */
export const RPC_CODES = {
  PARSE_ERROR: -32_700,
  INVALID_REQUEST: -32_600,
  METHOD_NOT_FOUND: -32_601,
  INVALID_PARAMS: -32_602,
  INTERNAL: -32_603,
  CONTRACT: -32_000,
  FORBIDDEN: -32_001,
  RATE_LIMITED: -32_002,
  TIMEOUT: -32_003,
  TOO_LARGE: -32_004,
  UNAVAILABLE: -32_005,
  CANCELLED: -32_800,
} as const;

export type Id = string | number | null;

export interface ErrorObject {
  code: number;
  message: string;
  data?: unknown;
}

/** A call, or without an id a notification: the frame itself, as it was parsed. */
export interface Request {
  readonly id?: Id;
  readonly method: string;
  readonly params?: object;
}

export type Other =
  | { kind: "answer"; id: Id; result: unknown; error: ErrorObject | undefined }
  | { kind: "invalid"; id: Id; why: string };

/** Whether one parsed JSON value is a call or a notification. */
export function isRequest(value: unknown): value is Request {
  if (typeof value !== "object" || value === null) return false;
  // JSON has no undefined: a member that reads so is not there.
  const { jsonrpc, id, method, params } = value as Record<string, unknown>;
  if (jsonrpc !== "2.0" || typeof method !== "string") return false;
  if (params !== undefined && (typeof params !== "object" || params === null)) return false;
  return id === undefined || isId(id);
}

/** What one parsed JSON value is that is no {@link Request}; never throws. */
export function classify(value: unknown): Other {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return { kind: "invalid", id: null, why: "a frame is a JSON object" };
  }
  const { jsonrpc, id, method } = value as Record<string, unknown>;
  const hasId = id !== undefined;
  const knownId = isId(id) ? id : null;
  if (jsonrpc !== "2.0") return { kind: "invalid", id: knownId, why: '"jsonrpc" must be "2.0"' };
  if (hasId && !isId(id)) {
    const why = '"id" must be a string, a number (up to 2^53, so that it comes back as it was) or null';
    return { kind: "invalid", id: null, why };
  }
  if (method === undefined && hasId) {
    const { result, error } = value as Record<string, unknown>;
    const failed = isErrorObject(error);
    if (failed || result !== undefined)
      return { kind: "answer", id: knownId, result, error: failed ? error : undefined };
  }
  if (typeof method !== "string") return { kind: "invalid", id: knownId, why: '"method" must be a string' };
  return { kind: "invalid", id: knownId, why: '"params" must be an object or an array' };
}

export function encodeResult(id: Id, result: unknown): string {
  // JSON.stringify gives undefined for undefined, for functions and for symbols: as members they would be left out.
  return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${JSON.stringify(result) ?? "null"}}`;
}

export function encodeError(id: Id, error: ErrorObject): string {
  return JSON.stringify({ jsonrpc: "2.0", id, error });
}

export function encodeNotification(method: string, params: unknown): string {
  return JSON.stringify({ jsonrpc: "2.0", method, params });
}

export function encodeCall(id: Id, method: string, params: unknown): string {
  return JSON.stringify({ jsonrpc: "2.0", id, method, params });
}

function isId(value: unknown): value is Id {
  if (typeof value === "number") return Math.abs(value) <= Number.MAX_SAFE_INTEGER;
  return typeof value === "string" || value === null;
}

function isErrorObject(value: unknown): value is ErrorObject {
  if (typeof value !== "object" || value === null) return false;
  const { code, message } = value as Partial<ErrorObject>;
  return typeof code === "number" && typeof message === "string";
}
