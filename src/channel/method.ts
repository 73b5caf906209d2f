// One call of one method: params validated, the method run, its result validated, and whatever goes wrong turned into
// what the client may know of it. Sync as long as the schemas and the method are.

import type { Contract, Method } from "../contract/contract.js";
import { type ErrorObject, RPC_CODES } from "../contract/frames.js";
import { RpcError, type RpcReason } from "../contract/rpc-error.js";
import { type Issue, validate } from "../contract/schema.js";
import { toError } from "../server/errors.js";
import type { Bucket } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";

/** A method as it runs, its types erased: the compiler has checked them where they were written. */
export interface RunningMethod {
  readonly name: string;
  readonly contract: Method;
  readonly run: (params: unknown, context: object) => unknown;
  /** Milliseconds. */
  readonly timeout: number | undefined;
  readonly bucket: Bucket | undefined;
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
const OURS = new Set<RpcReason | undefined>(["FORBIDDEN", "RATE_LIMITED", "UNAVAILABLE"]);

/** Runs a method; never throws. */
export function runMethod(
  channel: ChannelParts,
  ws: ServerWebSocket,
  method: RunningMethod,
  params: unknown,
  signal: AbortSignal,
): Outcome | Promise<Outcome> {
  const failed = (error: unknown): Outcome | Promise<Outcome> => failure(ws, method, error);
  try {
    const outcome = after(validate(method.contract.params, params), (checked): Outcome | Promise<Outcome> => {
      if (checked.issues) return { error: invalidParams(checked.issues) };
      return after(invoke(channel, ws, method, checked.value, signal), (result) => {
        if (!channel.validateResults) return { result };
        return checkResult(ws, method, result);
      });
    });
    return outcome instanceof Promise ? outcome.catch(failed) : outcome;
  } catch (error) {
    return failed(error);
  }
}

/** Calls the method itself, inside the `before` hook if there is one. */
export function invoke(
  channel: ChannelParts,
  ws: ServerWebSocket,
  method: RunningMethod,
  params: unknown,
  signal: AbortSignal,
): unknown {
  const context = { ws, signal, error: (name: string, data: unknown) => new ContractError(name, data) };
  if (channel.before === undefined) return method.run(params, context);
  return channel.before(async () => await method.run(params, context), { method: method.name, params, ws });
}

export function invalidParams(issues: Issue[]): ErrorObject {
  return { code: RPC_CODES.INVALID_PARAMS, message: "Invalid params", data: { issues } };
}

/** What the client may know of an error; the rest goes to the log, under a reference that both have. */
export function failure(
  ws: ServerWebSocket,
  method: RunningMethod,
  thrown: unknown,
): Outcome | Promise<Outcome> {
  if (thrown instanceof RpcError && OURS.has(thrown.reason)) {
    const code = RPC_CODES[thrown.reason as keyof typeof RPC_CODES];
    return { error: { code, message: thrown.message, data: thrown.data } };
  }
  if (!(thrown instanceof ContractError)) return internal(ws, method, toError(thrown));
  const schema = method.contract.errors?.[thrown.name];
  if (schema === undefined) {
    return internal(
      ws,
      method,
      new Error(`${method.name} threw error("${thrown.name}"), which the contract does not have`),
    );
  }
  return after(validate(schema, thrown.data), (valid) => {
    if (valid.issues)
      return internal(ws, method, mismatch(`the data of error("${thrown.name}")`, valid.issues));
    const data = { name: thrown.name, data: valid.value };
    return { error: { code: RPC_CODES.CONTRACT, message: thrown.name, data } };
  });
}

/** An error of the server's own: the client gets a reference, the log the error. */
export function internal(ws: ServerWebSocket, method: RunningMethod, error: Error): Outcome {
  const ref = crypto.randomUUID();
  const { hub, path } = ws.route;
  hub.counters.errors++;
  hub.settings.logger.error(`the method ${method.name} failed`, {
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

/** `await` for what may be no promise, without making it one. */
function after<T, R>(value: T | PromiseLike<T>, next: (value: T) => R | Promise<R>): R | Promise<R> {
  return isPromise(value) ? Promise.resolve(value).then(next) : next(value);
}

function checkResult(
  ws: ServerWebSocket,
  method: RunningMethod,
  result: unknown,
): Outcome | Promise<Outcome> {
  const schema = method.contract.result;
  if (schema === undefined) return { result: null };
  return after(validate(schema, result), (valid) =>
    valid.issues
      ? internal(ws, method, mismatch(`the result of ${method.name}`, valid.issues))
      : { result: valid.value },
  );
}

function isPromise<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}
