// What a client offers in the handshake beside the route: subprotocols and a bearer token. Pure functions.

const BEARER = "bearer.";

/** The subprotocols offered, in the client's order (RFC 6455 section 11.3.4). */
export function offeredProtocols(header: string | null): string[] {
  if (header === null) return [];
  return header.split(",").flatMap((name) => name.trim() || []);
}

/**
 * The token that the client presented: `Authorization: Bearer …`, else the subprotocol `bearer.<base64url>` (the
 * only place for one that a browser has beside the URL), else `?token=`.
 */
export function tokenOf(
  authorization: string | null,
  offered: readonly string[],
  url: string,
): string | undefined {
  const header = authorization === null ? null : /^Bearer +(\S+) *$/i.exec(authorization);
  if (header) return header[1];
  for (const name of offered) {
    const token = name.startsWith(BEARER) ? decode(name.slice(BEARER.length)) : undefined;
    if (token !== undefined) return token;
  }
  if (!url.includes("token=")) return undefined;
  return new URL(url).searchParams.get("token") || undefined;
}

/** What to answer to a client's offer: a subprotocol, `""` for none, or `undefined` to refuse it. */
export function chooseProtocol(
  offered: readonly string[],
  spoken: readonly string[] | undefined,
  required: boolean,
): string | undefined {
  const names = offered.filter((name) => !name.startsWith(BEARER));
  const chosen = spoken ? spoken.find((name) => names.includes(name)) : names[0];
  if (chosen !== undefined) return chosen;
  if (required || names.length > 0) return undefined;
  // A browser that offered something and is answered nothing hangs up: it gets its credential's name back.
  return offered[0] ?? "";
}

/** A URL without the token's value, for log lines. */
export function redactUrl(url: string): string {
  return url.replace(/([?&]token=)[^&#]*/gi, "$1[redacted]");
}

function decode(base64url: string): string | undefined {
  if (base64url === "" || !/^[\w-]+$/.test(base64url)) return undefined;
  const bytes = Buffer.from(base64url, "base64url");
  const text = bytes.toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? text : undefined;
}
