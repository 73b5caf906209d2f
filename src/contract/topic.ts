// A topic's name: from its template and params to the wire, and back. Pure, and the same on both ends.

import { fillPath, type PathParams } from "./path.js";

/** What a topic's name may measure on the wire: bytes, encoded. */
export const LONGEST_TOPIC = 256;

/** The params of a topic's template: `"room/:room"` has `{ room: string }`. */
export type TopicParams<Template extends string> = PathParams<`/${Template}`>;

/**
 * Fills a template: `topicName("room/:room", { room: "a/b" })` is `room/a%2Fb`.
 * @throws TypeError for a param that is missing or empty, and for a name that is too long.
 */
export function topicName(template: string, params?: Readonly<Record<string, string>>): string {
  const name = fillPath(template, params);
  // What is encoded is ASCII, and so is what templates may say.
  if (name.length <= LONGEST_TOPIC) return name;
  throw new TypeError(`The topic ${name.slice(0, 64)}… has more than ${LONGEST_TOPIC} bytes`);
}

/** The params of a name that this template could have made; `undefined` for any other spelling. */
export function parseTopic(template: string, name: string): Record<string, string> | undefined {
  const segments = template.split("/");
  const given = name.split("/");
  if (segments.length !== given.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, segment] of segments.entries()) {
    if (!segment.startsWith(":")) {
      if (segment !== given[index]) return undefined;
      continue;
    }
    const value = decode(given[index]!);
    // Two spellings of one topic would be two topics.
    if (value === undefined || value === "" || encodeURIComponent(value) !== given[index]) return undefined;
    params[segment.slice(1)] = value;
  }
  return params;
}

/** Whether some name would fit both templates. */
export function overlaps(one: string, other: string): boolean {
  const [a, b] = [one.split("/"), other.split("/")];
  if (a.length !== b.length) return false;
  return a.every((segment, index) => segment === b[index] || segment[0] === ":" || b[index]![0] === ":");
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
