// What an implementation of a channel is held to, beyond its types: each thing that cannot work is an error that names it.

import type { Contract } from "../contract/contract.js";
import { HarpiaError, refuseUnknown, show } from "../server/errors.js";
import { compileRateLimit } from "../server/route.js";
import type { RunningMethod } from "./method.js";

/** Timers take no more: 24 days. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

const FUNCTIONS = ["upgrade", "open", "close", "refresh", "before"] as const;
const KNOWN: readonly string[] = [...FUNCTIONS, "origins", "rateLimit", "concurrency", "validateResults"];

/** Throws `UNKNOWN_OPTION` or `INVALID_OPTION` for hooks that cannot work. */
export function checkHooks(hooks: object, where: string): void {
  refuseUnknown(hooks, KNOWN, `${where}: hooks`);
  const given = hooks as Record<string, unknown>;
  for (const name of FUNCTIONS) {
    if (given[name] !== undefined && typeof given[name] !== "function")
      throw invalid(`${where}: "${name}" must be a function, and is ${show(given[name])}.`, given[name]);
  }
  const { validateResults } = given;
  if (validateResults !== undefined && typeof validateResults !== "boolean")
    throw invalid(
      `${where}: "validateResults" must be true or false, and is ${show(validateResults)}.`,
      validateResults,
    );
}

/** The contract's methods with what was given for them, each there and right. */
export function methodsOf(
  contract: Contract,
  given: Record<string, unknown>,
  { before, validateResults = true }: Partial<Pick<RunningMethod, "before" | "validateResults">>,
  where: string,
): Record<string, RunningMethod> {
  const names = Object.keys(contract.methods ?? {});
  if (typeof given !== "object" || given === null)
    throw invalid(`${where}: "methods" must be an object of functions, and is ${show(given)}.`, given);
  refuseUnknown(given, names, `${where}: methods`);
  const entries = names.map((name): [string, RunningMethod] => {
    // `toString` and its like are there on every object.
    const method =
      given[name] === (Object.prototype as Record<string, unknown>)[name] ? undefined : given[name];
    const options = typeof method === "function" ? { run: method } : method;
    const { run, timeout, rateLimit } = (options ?? {}) as Record<string, unknown>;
    if (typeof run !== "function") {
      throw invalid(
        `${where}: the contract has the method ${show(name)}, so implement({ methods }) needs a function for it, (params, context) => …, or { run: that function }; it has ${show(method)}.`,
        name,
      );
    }
    const of = `${where}: the method ${show(name)}`;
    refuseUnknown(options as object, ["run", "timeout", "rateLimit"], of);
    const limit = rateLimit as { messages: number; per: number; burst?: number } | undefined;
    if (typeof limit === "object" && limit !== null)
      refuseUnknown(limit, ["messages", "per", "burst"], `${of}: "rateLimit"`);
    return [
      name,
      {
        name,
        contract: contract.methods![name]!,
        run: run.bind(given) as RunningMethod["run"],
        timeout: checkTimeout(timeout, of),
        bucket: compileRateLimit(limit, of),
        mayLast: undefined,
        before,
        validateResults,
      },
    ];
  });
  return Object.assign(Object.create(null), Object.fromEntries(entries)) as Record<string, RunningMethod>;
}

/** Milliseconds that a timer can wait, or throws `INVALID_OPTION`. */
export function checkTimeout(timeout: unknown, where: string): number | undefined {
  if (timeout === undefined) return undefined;
  if (typeof timeout === "number" && timeout > 0 && timeout <= LONGEST_TIMER_MS) return timeout;
  const range = `milliseconds, more than 0 and at most ${LONGEST_TIMER_MS}`;
  throw invalid(`${where}: "timeout" must be ${range}, and is ${show(timeout)}.`, timeout);
}

function invalid(message: string, value: unknown): HarpiaError {
  return new HarpiaError("INVALID_OPTION", message, { value });
}
