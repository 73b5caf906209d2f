// One call of one method: params validated, the method run, its result validated, and whatever goes wrong turned into
// what the client may know of it. Sync as long as the schemas and the method are.

import { BrokerError } from "../broker/broker.js";
import type { Contract, Method } from "../contract/contract.js";
import { type ErrorObject, RPC_CODES } from "../contract/frames.js";
import { RpcError, type RpcReason } from "../contract/rpc-error.js";
import { type Issue, type Schema, validate, type Validated } from "../contract/schema.js";
import { toError } from "../server/errors.js";
import { isPromise } from "../server/life.js";
import type { Bucket } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";
import { Context, ContractError } from "./context.js";

/** A method as it runs, its types erased: the compiler has checked them where they were written. */
export interface RunningMethod {
  readonly name: string;
  readonly contract: Method;
  readonly run: (params: unknown, context: object) => unknown;
  /** Milliseconds. */
  readonly timeout: number | undefined;
  readonly bucket: Bucket | undefined;
  /** Whether it has ever returned a promise; `undefined` until it has returned. */
  mayLast: boolean | undefined;
  /** What the channel says of all its methods. */
  readonly before: ((call: () => Promise<unknown>, context: object) => Promise<unknown>) | undefined;
  readonly validateResults: boolean;
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
  /** Without a prototype. Not a Map, which takes three times as long for a name that has just been parsed. */
  readonly methods: Readonly<Record<string, RunningMethod>>;
  readonly concurrency: number;
  readonly refresh: ((token: string, context: object) => unknown) | undefined;
}

/** What a call came to. A validated result is the validator's own: a small call less an object. */
export type Outcome = { value: unknown; error?: undefined } | { error: ErrorObject };

/** Reasons that a method or a hook may give by throwing an RpcError; others are about the server's own calls. */
const OURS = new Set<RpcReason | undefined>(["FORBIDDEN", "RATE_LIMITED", "TOO_LARGE", "UNAVAILABLE"]);

/** Runs a method; never throws or rejects. */
export function runMethod(
  method: RunningMethod,
  context: Context,
  params: unknown,
): Outcome | Promise<Outcome> {
  try {
    const valid = validate(method.contract.params, params);
    const outcome =
      valid instanceof Promise
        ? valid.then((valid) => withParams(valid, method, context))
        : withParams(valid, method, context);
    if (!(outcome instanceof Promise)) return outcome;
    return outcome.catch((error: unknown) => failed(error, method, context));
  } catch (error) {
    return failed(error, method, context);
  }
}

function withParams(params: Validated, method: RunningMethod, context: Context): Outcome | Promise<Outcome> {
  if (params.issues) return { error: invalidParams(params.issues) };
  const result = invoke(method, context, params.value);
  if (!isPromise(result)) {
    method.mayLast ??= false;
    return withResult(result, method, context);
  }
  method.mayLast = true;
  return Promise.resolve(result).then((result) => withResult(result, method, context));
}

function withResult(result: unknown, method: RunningMethod, context: Context): Outcome | Promise<Outcome> {
  if (!method.validateResults) return { value: result };
  const schema = method.contract.result;
  if (schema === undefined) return { value: null };
  const valid = validate(schema, result);
  if (valid instanceof Promise) return valid.then((valid) => withValidResult(valid, method, context));
  return withValidResult(valid, method, context);
}

function withValidResult(result: Validated, method: RunningMethod, { ws }: Context): Outcome {
  if (!result.issues) return result;
  return internal(ws, method, mismatch(`the result of ${method.name}`, result.issues));
}

/** {@link failure}; but that a method obeyed its signal is none, and nobody waits for its answer. */
export function failed(thrown: unknown, method: RunningMethod, context: Context): Outcome | Promise<Outcome> {
  const reason = Context.reasonOf(context);
  if (reason && (thrown === reason || (thrown instanceof Error && thrown.name === "AbortError")))
    return { value: null };
  return failure(context.ws, method, thrown);
}

/** Calls the method itself, inside the `before` hook if there is one. */
export function invoke(method: RunningMethod, context: Context, params: unknown): unknown {
  const { name, run, before } = method;
  if (before === undefined) return run(params, context);
  return before(async () => await run(params, context), { method: name, params, ws: context.ws });
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
    const answer = (valid: Validated): Outcome => {
      if (valid.issues) return internal(ws, method, mismatch(`the data of error("${name}")`, valid.issues));
      return {
        error: { code: RPC_CODES.CONTRACT, message: name, data: { name, data: valid.value } },
      };
    };
    const valid = validate(errors[name], data);
    return valid instanceof Promise ? valid.then(answer).catch(failedAgain) : answer(valid);
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
