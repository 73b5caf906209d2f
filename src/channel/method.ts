// One call of one method: params validated, the method run, its result validated, and whatever goes wrong turned into
// what the client may know of it. Sync as long as the schemas and the method are.

import { BrokerError } from "../broker/broker.js";
import type { Contract, Method } from "../contract/contract.js";
import { type ErrorObject, RPC_CODES } from "../contract/frames.js";
import { RpcError, type RpcReason } from "../contract/rpc-error.js";
import { type Issue, type Schema, validate, type Validated } from "../contract/schema.js";
import { toError } from "../server/errors.js";
import type { Bucket } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";
import type { Call } from "./call.js";

/** A method as it runs, its types erased: the compiler has checked them where they were written. */
export interface RunningMethod {
  readonly name: string;
  readonly contract: Method;
  readonly run: (params: unknown, context: object) => unknown;
  /** Milliseconds. */
  readonly timeout: number | undefined;
  readonly bucket: Bucket | undefined;
}

/** What failed: for the contract's errors, and for the log. */
export interface Subject {
  readonly name: string;
  /** Default "method". */
  readonly kind?: string;
  readonly contract: { readonly errors?: Readonly<Record<string, Schema>> };
}

/** What all connections of a channel share. */
export interface ChannelParts {
  readonly contract: Contract;
  readonly methods: ReadonlyMap<string, RunningMethod>;
  readonly concurrency: number;
  readonly validateResults: boolean;
  readonly before: ((call: () => Promise<unknown>, context: object) => Promise<unknown>) | undefined;
  readonly refresh: ((token: string, context: object) => unknown) | undefined;
}

export type Outcome = { result: unknown } | { error: ErrorObject };

/** A contract's error on its way from a method to the client. */
export class ContractError extends Error {
  readonly data: unknown;

  constructor(name: string, data: unknown) {
    super(name);
    this.name = name;
    this.data = data;
  }
}

/** Reasons that a method or a hook may give by throwing an RpcError; others are about the server's own calls. */
const OURS = new Set<RpcReason | undefined>(["FORBIDDEN", "RATE_LIMITED", "TOO_LARGE", "UNAVAILABLE"]);

/** Runs a call's method; never throws or rejects. */
export function runMethod(call: Call): Outcome | Promise<Outcome> {
  try {
    const outcome = after(validate(call.method.contract.params, call.params), call, withParams);
    return outcome instanceof Promise ? outcome.catch((error: unknown) => failed(call, error)) : outcome;
  } catch (error) {
    return failed(call, error);
  }
}

function withParams(params: Validated, call: Call): Outcome | Promise<Outcome> {
  if (params.issues) return { error: invalidParams(params.issues) };
  return after(invoke(call, params.value), call, withResult);
}

function withResult(result: unknown, call: Call): Outcome | Promise<Outcome> {
  if (!call.channel.validateResults) return { result };
  const schema = call.method.contract.result;
  if (schema === undefined) return { result: null };
  return after(validate(schema, result), call, withValidResult);
}

function withValidResult(result: Validated, { ws, method }: Call): Outcome {
  if (result.issues) return internal(ws, method, mismatch(`the result of ${method.name}`, result.issues));
  return { result: result.value };
}

/** {@link failure}; but that a method obeyed its signal is none, and nobody waits for its answer. */
export function failed(call: Call, thrown: unknown): Outcome | Promise<Outcome> {
  const { reason } = call;
  if (reason && (thrown === reason || (thrown instanceof Error && thrown.name === "AbortError")))
    return { result: null };
  return failure(call.ws, call.method, thrown);
}

/** Calls the method itself, inside the `before` hook if there is one. */
export function invoke(call: Call, params: unknown): unknown {
  const { channel, ws, method } = call;
  const context = {
    ws,
    error: contractError,
    get signal() {
      return call.signal;
    },
  };
  if (channel.before === undefined) return method.run(params, context);
  return channel.before(async () => await method.run(params, context), { method: method.name, params, ws });
}

function contractError(name: string, data: unknown): ContractError {
  return new ContractError(name, data);
}

export function invalidParams(issues: Issue[]): ErrorObject {
  return { code: RPC_CODES.INVALID_PARAMS, message: "Invalid params", data: { issues } };
}

/** What the client may know of an error; the rest goes to the log, under a reference that both have. Never throws. */
export function failure(ws: ServerWebSocket, method: Subject, thrown: unknown): Outcome | Promise<Outcome> {
  // With a code, it came over the wire: an answer to `ask`, and not this method's word.
  if (thrown instanceof RpcError && thrown.code === undefined && OURS.has(thrown.reason)) {
    const code = RPC_CODES[thrown.reason as keyof typeof RPC_CODES];
    return { error: { code, message: thrown.message, data: thrown.data } };
  }
  if (thrown instanceof BrokerError) {
    return { error: { code: RPC_CODES.UNAVAILABLE, message: "The broker is unavailable" } };
  }
  if (!(thrown instanceof ContractError)) return internal(ws, method, toError(thrown));
  const { name, data } = thrown;
  const { errors = {} } = method.contract;
  if (!Object.hasOwn(errors, name)) {
    const message = `${method.name} threw error("${name}"), which the contract does not have`;
    return internal(ws, method, new Error(message));
  }
  const failedAgain = (error: unknown): Outcome => internal(ws, method, toError(error));
  try {
    const outcome = after(validate(errors[name], data), name, (valid, name): Outcome => {
      if (valid.issues) return internal(ws, method, mismatch(`the data of error("${name}")`, valid.issues));
      return {
        error: { code: RPC_CODES.CONTRACT, message: name, data: { name, data: valid.value } },
      };
    });
    return outcome instanceof Promise ? outcome.catch(failedAgain) : outcome;
  } catch (error) {
    return failedAgain(error);
  }
}

/** An error of the server's own: the client gets a reference, the log the error. */
export function internal(ws: ServerWebSocket, method: Subject, error: Error): Outcome {
  const ref = crypto.randomUUID();
  const { hub, path } = ws.route;
  hub.counters.errors++;
  hub.settings.logger.error(`the ${method.kind ?? "method"} ${method.name} failed`, {
    route: path,
    connection: ws.id,
    ref,
    error,
  });
  return { error: { code: RPC_CODES.INTERNAL, message: "Internal error", data: { ref } } };
}

export function mismatch(what: string, issues: Issue[]): Error {
  const all = issues.map(({ message, path }) =>
    path.length > 0 ? `${path.join(".")}: ${message}` : message,
  );
  return new Error(`${what} does not match the contract: ${all.join("; ")}`);
}

/** `await` for what may be no promise, without making it one. The argument spares each step of a call a closure. */
function after<T, A, R>(
  value: T | PromiseLike<T>,
  argument: A,
  next: (value: T, argument: A) => R | Promise<R>,
): R | Promise<R> {
  if (!isPromise(value)) return next(value, argument);
  return Promise.resolve(value).then((value) => next(value, argument));
}

function isPromise<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
