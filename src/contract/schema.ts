// Validation by whatever schema library the user has: anything that implements Standard Schema
// (https://standardschema.dev), as zod, valibot and arktype do. Types only; no validator is imported.

import type { StandardSchemaV1 } from "@standard-schema/spec";

/** A Standard Schema of any library. */
export type Schema<Input = unknown, Output = Input> = StandardSchemaV1<Input, Output>;

/** What a schema takes; `undefined` where there is none. */
export type InputOf<S> = S extends Schema ? StandardSchemaV1.InferInput<S> : undefined;

/** What a schema gives; `undefined` where there is none. */
export type OutputOf<S> = S extends Schema ? StandardSchemaV1.InferOutput<S> : undefined;

/** One thing that a value has wrong, and where. */
export interface Issue {
  message: string;
  path: (string | number)[];
}

export type Validated = { value: unknown; issues?: undefined } | { issues: Issue[] };

/** More would help nobody, and an answer stays small. */
const MOST_ISSUES = 20;

/** Validates a value; async only if the schema is. Without a schema everything is valid. */
export function validate(schema: Schema | undefined, value: unknown): Validated | Promise<Validated> {
  if (schema === undefined) return { value };
  const result = schema["~standard"].validate(value);
  // Not only of this realm's Promise: a thenable taken for a result would be "valid", and undefined.
  return "then" in result ? Promise.resolve(result).then(validated) : validated(result);
}

export function isSchema(value: unknown): value is Schema {
  // arktype's schemas are functions.
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return false;
  const standard = (value as { "~standard"?: { version?: unknown; validate?: unknown } })["~standard"];
  return standard?.version === 1 && typeof standard.validate === "function";
}

function validated(result: StandardSchemaV1.Result<unknown>): Validated {
  if (result.issues === undefined) return result;
  return {
    issues: result.issues.slice(0, MOST_ISSUES).map(({ message, path = [] }) => ({
      message,
      path: path.map((segment) => {
        const key = typeof segment === "object" ? segment.key : segment;
        return typeof key === "number" ? key : String(key);
      }),
    })),
  };
}
