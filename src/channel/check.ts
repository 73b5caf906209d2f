// What an implementation of a channel is held to, beyond its types: each thing that cannot work is an error that names it.

import type { Contract } from "../contract/contract.js";
import { HarpiaError, refuseUnknown, show } from "../server/errors.js";
import { checkCount, compileRateLimit } from "../server/route.js";
import type { ServerWebSocket } from "../server/socket.js";
import type { RunningMethod } from "./method.js";
import type { RunningPresence, RunningTopic } from "./topics.js";

const DEFAULT_MOST_MEMBERS = 1_000;

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

/** The topics of a contract with their hooks. Throws `UNKNOWN_OPTION`, `INVALID_OPTION`. */
export function topicsOf(
  contract: Contract,
  given: Record<string, unknown>,
  where: string,
): Map<string, RunningTopic> {
  const templates = Object.keys(contract.topics ?? {});
  if (typeof given !== "object" || given === null) {
    const message = `${where}: "topics" must be an object of topics, and is ${show(given)}.`;
    throw invalid(message, given);
  }
  refuseUnknown(given, templates, `${where}: topics`);
  return new Map(
    templates.map((template) => {
      const topic = contract.topics![template]!;
      const what = `${where}: the topic "${template}"`;
      const hooks = (given[template] ?? {}) as Record<string, unknown>;
      refuseUnknown(hooks, topic.presence ? ["subscribe", "presence"] : ["subscribe"], what);
      const { subscribe } = hooks;
      if (subscribe !== "public" && typeof subscribe !== "function") {
        throw invalid(
          `${what} needs "subscribe": a function that says who may subscribe, or "public"; it is ${show(subscribe)}.`,
          subscribe,
        );
      }
      return [
        template,
        {
          template,
          contract: topic,
          subscribe: subscribe as RunningTopic["subscribe"],
          presence: topic.presence ? presenceOf(hooks.presence, what) : undefined,
        },
      ];
    }),
  );
}

function presenceOf(given: unknown, what: string): RunningPresence {
  const options = (typeof given === "function" ? { info: given } : (given ?? {})) as Record<string, unknown>;
  refuseUnknown(options, ["info", "key", "max"], `${what}: "presence"`);
  const { info, key, max } = options;
  if (typeof info !== "function" || (key !== undefined && typeof key !== "function")) {
    throw invalid(
      `${what} needs "presence": a function that says who a subscriber is, or { info, key, max }; it is ${show(given)}.`,
      given,
    );
  }
  return {
    info: info as RunningPresence["info"],
    key: (key ?? ((_params: object, { ws }: { ws: ServerWebSocket }) => ws.id)) as RunningPresence["key"],
    max: checkCount(max, "max", `${what}: "presence"`) ?? DEFAULT_MOST_MEMBERS,
  };
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
