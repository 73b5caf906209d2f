// A channel's contract: what its two ends may say to each other. One object, imported by both.

import { isSchema, type InputOf, type OutputOf, type Schema } from "./schema.js";
import { overlaps } from "./topic.js";

/** Something that a client asks of the server. */
export interface Method {
  /** What the client sends; without it, nothing. */
  readonly params?: Schema;
  /** What it gets back; without it, an empty answer. */
  readonly result?: Schema;
  /** Many results, then the end; instead of `result`. */
  readonly stream?: Schema;
  /** The errors that clients are meant to tell apart, by name, with their data. */
  readonly errors?: Readonly<Record<string, Schema>>;
  /** Whether running it twice is as good as once: then the client may send it again after a lost connection. */
  readonly idempotent?: boolean;
}

/** Something that the server tells a client; with a `result`, asks. */
export interface Event {
  readonly params?: Schema;
  readonly result?: Schema;
}

/** Something that is published to whoever subscribes. */
export interface Topic {
  readonly message: Schema;
  /**
   * Keeps the recent past and numbers it, so that nothing is lost, doubled or out of order for a subscriber. Without
   * it a message reaches whoever is there (at most once).
   */
  readonly history?: {
    /** Messages kept at most: 1 to 1,000,000. */
    readonly size: number;
    /** Seconds for which a message is kept: at most 30 days. */
    readonly ttl: number;
  };
  /** Who is there: what is known of each member. */
  readonly presence?: Schema;
  /** Only the latest message matters: a slow reader gets the newest, not what led to it. Needs `history`. */
  readonly coalesce?: boolean;
  /** The reasons to refuse a subscription that clients are meant to tell apart, by name, with their data. */
  readonly errors?: Readonly<Record<string, Schema>>;
}

export interface Contract {
  /** The channel's address: Bun's route syntax, as in `app.ws`. */
  readonly path: string;
  readonly methods?: Readonly<Record<string, Method>>;
  readonly events?: Readonly<Record<string, Event>>;
  /** By template: `"room/:room"` is a topic for each room. */
  readonly topics?: Readonly<Record<string, Topic>>;
}

export type Methods<C extends Contract> = C["methods"] extends object ? C["methods"] : Record<never, Method>;
export type Events<C extends Contract> = C["events"] extends object ? C["events"] : Record<never, Event>;

export type Topics<C extends Contract> = C["topics"] extends object ? C["topics"] : Record<never, Topic>;

// Names are keys of mapped types, not unions picked out of them: so the compiler's message about a wrong one lists
// those that there are, and not the whole contract.

export type MethodName<C extends Contract> = keyof { [Name in keyof Methods<C> & string]: never };
export type EventName<C extends Contract> = keyof { [Name in keyof Events<C> & string]: never };

/** Templates of topics. */
export type TopicName<C extends Contract> = keyof { [Name in keyof Topics<C> & string]: never };

/** Names of methods that are called: all but streams. */
export type CallName<C extends Contract> = keyof {
  [Name in MethodName<C> as Methods<C>[Name] extends { stream: Schema } ? never : Name]: never;
};

export type StreamName<C extends Contract> = keyof {
  [Name in MethodName<C> as Methods<C>[Name] extends { stream: Schema } ? Name : never]: never;
};

/** Names of methods without a result, which may be sent and forgotten. */
export type NotificationName<C extends Contract> = keyof {
  [Name in CallName<C> as Methods<C>[Name] extends { result: Schema } ? never : Name]: never;
};

/** Names of events that the server only tells. */
export type TellName<C extends Contract> = keyof {
  [Name in EventName<C> as Events<C>[Name] extends { result: Schema } ? never : Name]: never;
};

/** Names of events that the server asks, and awaits an answer to. */
export type AskName<C extends Contract> = keyof {
  [Name in EventName<C> as Events<C>[Name] extends { result: Schema } ? Name : never]: never;
};

type Part<T, Key extends string> = T extends { readonly [K in Key]: infer S } ? S : undefined;

/** On the client: what goes in; on the server: what comes out. */
export type ParamsIn<T> = InputOf<Part<T, "params">>;
export type ParamsOut<T> = OutputOf<Part<T, "params">>;
/** On the side that answers: what goes in; on the side that asked: what comes out. */
export type ResultIn<T> = Part<T, "result"> extends Schema ? InputOf<Part<T, "result">> : void;
export type ResultOut<T> = Part<T, "result"> extends Schema ? OutputOf<Part<T, "result">> : void;
export type ValueIn<T> = InputOf<Part<T, "stream">>;
export type ValueOut<T> = OutputOf<Part<T, "stream">>;
/** On the server, which publishes: what goes in; on the client: what comes out. */
export type MessageIn<T> = InputOf<Part<T, "message">>;
export type MessageOut<T> = OutputOf<Part<T, "message">>;
export type InfoIn<T> = InputOf<Part<T, "presence">>;
export type InfoOut<T> = OutputOf<Part<T, "presence">>;
export type ErrorsOf<T> = Part<T, "errors"> extends object ? Part<T, "errors"> : Record<never, Schema>;

/** Params as an argument: left out where there are none, or none are needed. */
export type ParamsArgument<P> = undefined extends P ? [params?: P] : [params: P];

/**
 * Defines a channel. Import the result on both ends; the server implements it with `app.channel`, a client reaches
 * it with `connect`.
 * @throws TypeError for a contract that cannot work, naming the part.
 * @example
 * export const chat = defineChannel({
 *   path: "/chat",
 *   methods: { say: { params: z.object({ text: z.string() }), result: z.object({ at: z.number() }) } },
 *   events: { said: { params: z.object({ from: z.string(), text: z.string() }) } },
 * });
 */
export function defineChannel<const C extends Contract>(contract: C): C {
  refuseUnknown(contract, ["path", "methods", "events", "topics"], "defineChannel(contract)");
  if (typeof contract.path !== "string" || !contract.path.startsWith("/")) {
    throw new TypeError(
      `defineChannel: "path" must be a path such as "/chat", and is ${String(contract.path)}.`,
    );
  }
  for (const part of ["methods", "events", "topics"] as const) {
    if (contract[part] === undefined || (typeof contract[part] === "object" && contract[part] !== null))
      continue;
    throw new TypeError(`defineChannel: "${part}" must be an object, by name.`);
  }
  for (const [name, method] of Object.entries(contract.methods ?? {})) checkMethod(name, method);
  for (const [name, event] of Object.entries(contract.events ?? {})) {
    const where = `defineChannel: the event "${name}"`;
    checkName(name, where);
    refuseUnknown(event, ["params", "result"], where);
    for (const part of ["params", "result"] as const) checkSchema(event[part], part, where);
  }
  const templates = Object.keys(contract.topics ?? {});
  for (const template of templates) {
    checkTopic(template, contract.topics![template]!);
    const twin = templates.find((other) => other !== template && overlaps(template, other));
    if (twin !== undefined)
      throw new TypeError(`defineChannel: the topics "${template}" and "${twin}" could have the same name.`);
  }
  return contract;
}

const MOST_KEPT = 1_000_000;
const LONGEST_TTL_S = 30 * 24 * 3600;

function checkTopic(template: string, topic: Topic): void {
  const where = `defineChannel: the topic "${template}"`;
  // What `encodeURIComponent` leaves as it is: then the name on the wire is the name in the contract.
  if (!/^(:[A-Za-z_$][\w$]*|[\w.~!*'()-]+)(\/(:[A-Za-z_$][\w$]*|[\w.~!*'()-]+))*$/.test(template)) {
    throw new TypeError(
      `${where} must be like "room/:room": segments of letters, digits, "-", "_" and ".", or ":" and a name; no "/" at the ends.`,
    );
  }
  const names: string[] = template.match(/:[\w$]+/g) ?? [];
  if (new Set(names).size < names.length) throw new TypeError(`${where} has a param twice.`);
  if (names.includes(":__proto__"))
    throw new TypeError(`${where}: a param cannot be called "__proto__": objects have one already.`);
  refuseUnknown(topic, ["message", "history", "presence", "coalesce", "errors"], where);
  if (topic.message === undefined) throw new TypeError(`${where} needs a "message": a schema.`);
  for (const part of ["message", "presence"] as const) checkSchema(topic[part], part, where);
  checkErrors(topic.errors, where);
  if (topic.coalesce !== undefined && typeof topic.coalesce !== "boolean")
    throw new TypeError(`${where}: "coalesce" must be true or false.`);
  if (topic.coalesce && topic.history === undefined)
    throw new TypeError(`${where}: "coalesce" needs "history"; { size: 1, ttl: 3600 } keeps the latest.`);
  if (topic.history === undefined) return;
  refuseUnknown(topic.history, ["size", "ttl"], `${where}: "history"`);
  const { size, ttl } = topic.history;
  if (!Number.isInteger(size) || size < 1 || size > MOST_KEPT)
    throw new TypeError(
      `${where}: "history.size" must be a whole number from 1 to ${MOST_KEPT}, and is ${String(size)}.`,
    );
  if (typeof ttl !== "number" || !(ttl > 0) || ttl > LONGEST_TTL_S)
    throw new TypeError(
      `${where}: "history.ttl" must be seconds, at most ${LONGEST_TTL_S} (30 days), and is ${String(ttl)}.`,
    );
}

function checkMethod(name: string, method: Method): void {
  const where = `defineChannel: the method "${name}"`;
  checkName(name, where);
  refuseUnknown(method, ["params", "result", "stream", "errors", "idempotent"], where);
  for (const part of ["params", "result", "stream"] as const) checkSchema(method[part], part, where);
  if (method.result && method.stream)
    throw new TypeError(`${where} has both "result" and "stream": give it one.`);
  if (method.idempotent !== undefined && typeof method.idempotent !== "boolean")
    throw new TypeError(`${where}: "idempotent" must be true or false.`);
  checkErrors(method.errors, where);
}

function checkErrors(errors: Method["errors"], where: string): void {
  if (errors === undefined) return;
  if (typeof errors !== "object" || errors === null)
    throw new TypeError(`${where}: "errors" must be an object of schemas by name.`);
  for (const [error, schema] of Object.entries(errors)) checkSchema(schema, `errors.${error}`, where);
}

function checkName(name: string, where: string): void {
  if (name === "") throw new TypeError(`${where} has no name.`);
  // JSON-RPC 2.0 section 4 keeps "rpc." for itself.
  if (!name.startsWith("$/") && !name.startsWith("rpc.")) return;
  throw new TypeError(
    `${where}: names that begin with "$/" are harpia's own, and those with "rpc." JSON-RPC's.`,
  );
}

function checkSchema(schema: unknown, part: string, where: string): void {
  if (schema === undefined || isSchema(schema)) return;
  throw new TypeError(
    `${where}: "${part}" is no Standard Schema. Use zod 3.24, valibot 1, arktype 2 or later.`,
  );
}

function refuseUnknown(given: object, known: readonly string[], where: string): void {
  if (typeof given !== "object" || given === null) throw new TypeError(`${where} must be an object.`);
  const key = Object.keys(given).find((key) => !known.includes(key));
  if (key !== undefined)
    throw new TypeError(`${where} does not take "${key}". It takes: ${known.join(", ")}.`);
}
