// A call that failed, as either end sees it.

import type { Contract, ErrorsOf, MethodName, Methods } from "./contract.js";
import { type ErrorObject, RPC_CODES } from "./frames.js";
import type { OutputOf } from "./schema.js";

/** Why a call failed, for programs: a name of {@link RPC_CODES}, or what a client found out by itself. */
export type RpcReason = keyof typeof RPC_CODES | "CONNECTION_LOST" | "CLOSED";

/**
 * The other end answered with an error, or could not be reached. `reason` says which in a word; `error` is the
 * contract's own name for it where `reason` is `CONTRACT`; narrow with {@link isContractError}.
 */
export class RpcError extends Error {
  readonly reason: RpcReason | undefined;
  /** The JSON-RPC code; `undefined` where nothing came over the wire. */
  readonly code: number | undefined;
  /** The contract's name of this error. */
  readonly error: string | undefined;
  /** The error's data: the contract's, or `{ issues }`, or `{ ref }`. */
  readonly data: unknown;

  constructor(
    reason: RpcReason | undefined,
    message: string,
    { code, data }: { code?: number; data?: unknown } = {},
  ) {
    super(message);
    this.name = "RpcError";
    this.reason = reason;
    this.code = code;
    const own = reason === "CONTRACT" && typeof data === "object" && data !== null ? data : undefined;
    this.error = own && "name" in own ? String(own.name) : undefined;
    this.data = own && "data" in own ? own.data : data;
  }

  /** From a JSON-RPC error object. */
  static from({ code, message, data }: ErrorObject): RpcError {
    const reason = REASONS.get(code);
    return new RpcError(reason, message, { code, data });
  }
}

/**
 * Whether an error is a certain one of a method's `errors`; narrows its `data`.
 * @example
 * catch (error) { if (isContractError(error, chat, "say", "MUTED")) wait(error.data.until); }
 */
export function isContractError<
  C extends Contract,
  Name extends MethodName<C>,
  ErrorName extends keyof ErrorsOf<Methods<C>[Name]> & string,
>(
  error: unknown,
  _contract: C,
  _method: Name,
  name: ErrorName,
): error is RpcError & { error: ErrorName; data: OutputOf<ErrorsOf<Methods<C>[Name]>[ErrorName]> } {
  return error instanceof RpcError && error.reason === "CONTRACT" && error.error === name;
}

const REASONS = new Map<number, RpcReason>(
  Object.entries(RPC_CODES).map(([name, code]) => [code, name as keyof typeof RPC_CODES]),
);
