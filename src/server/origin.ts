// Which web pages may connect: browsers send `Origin` and hold no page back by themselves (WebSockets know no
// CORS), so this is what stands between a stranger's page and a visitor's cookies.

import { HarpiaError, show } from "./errors.js";

/**
 * `"*"`: every origin. A list: origins such as `"https://app.example.com"`; a host may begin with `*.` to allow all
 * its subdomains (`"https://*.example.com"`). `"null"` is the origin of sandboxed frames and files.
 */
export type Origins = "*" | readonly string[];

export type OriginTest = (origin: string) => boolean;

/** Makes the test for an `origins` option, or throws `INVALID_OPTION` for an entry that could never match. */
export function compileOrigins(origins: Origins, where: string): OriginTest {
  if (origins === "*") return () => true;
  if (!Array.isArray(origins)) {
    throw new HarpiaError(
      "INVALID_OPTION",
      `${where}: "origins" must be "*" or a list of origins, and is ${show(origins)}.`,
      {
        value: origins,
      },
    );
  }
  const exact = new Set<string>();
  const suffixes: { scheme: string; suffix: string }[] = [];
  for (const entry of origins as readonly unknown[]) {
    const origin = entry === "null" ? "null" : normalise(entry);
    if (origin === undefined) {
      throw new HarpiaError(
        "INVALID_OPTION",
        `${where}: ${show(entry)} in "origins" is no origin: write scheme, host and port only, as in "https://app.example.com" or "https://*.example.com".`,
        { value: entry },
      );
    }
    const wildcard = /^([a-z][a-z0-9+.-]*:\/\/)\*(\..+)$/.exec(origin);
    if (wildcard) suffixes.push({ scheme: wildcard[1]!, suffix: wildcard[2]! });
    else exact.add(origin);
  }
  return (origin) =>
    exact.has(origin) ||
    suffixes.some(({ scheme, suffix }) => origin.startsWith(scheme) && origin.endsWith(suffix));
}

/** Whether a page of `origin` is on the host that the request was sent to. A port that is the scheme's default counts as none. */
export function isSameHost(origin: string, host: string): boolean {
  if (!URL.canParse(origin)) return false;
  const page = new URL(origin);
  return URL.canParse(`${page.protocol}//${host}`) && new URL(`${page.protocol}//${host}`).host === page.host;
}

/** Whether both ends are this machine, under whatever names and ports: a dev server's page and its API, say. */
export function isLoopbackPair(origin: string, host: string): boolean {
  return isLoopback(origin) && isLoopback(`http://${host}`);
}

function isLoopback(url: string): boolean {
  if (!URL.canParse(url)) return false;
  const { hostname } = new URL(url);
  return (
    hostname === "localhost" ||
    hostname.endsWith(".localhost") ||
    hostname === "[::1]" ||
    /^127\.\d+\.\d+\.\d+$/.test(hostname)
  );
}

function normalise(entry: unknown): string | undefined {
  if (
    typeof entry !== "string" ||
    !/^[a-z][a-z0-9+.-]*:\/\/[^/?#\s]+$/i.test(entry) ||
    !URL.canParse(entry)
  ) {
    return undefined;
  }
  const { protocol, host } = new URL(entry);
  const stars = host.split("*").length - 1;
  if (stars > 1 || (stars === 1 && !host.startsWith("*."))) return undefined;
  return `${protocol}//${host}`;
}
