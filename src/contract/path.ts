// The path template of a route or a channel, and the params that follow from it, as types and as text.

/** The params of a path template: `"/room/:roomId"` gives `{ roomId: string }`. */
export type PathParams<Path extends string> = string extends Path
  ? Record<string, string>
  : { [Name in ParamNames<Path>]: string };

type ParamNames<Path extends string> = Path extends `${string}:${infer Name}/${infer Rest}`
  ? Name | ParamNames<`/${Rest}`>
  : Path extends `${string}:${infer Name}`
    ? Name
    : never;

/** Fills a template: each `:name` becomes its param, percent-encoded. Throws a TypeError for one that is missing. */
export function fillPath(path: string, params: Record<string, string> = {}): string {
  return path.replace(/:([A-Za-z_$][\w$]*)/g, (_all, name: string) => {
    const value = params[name];
    if (typeof value !== "string" || value === "") {
      throw new TypeError(`${path} needs the param "${name}": a non-empty string`);
    }
    return encodeURIComponent(value);
  });
}
