// Who a client is when proxies stand between: reads X-Forwarded-For, -Host and -Proto as far as `trustProxy`
// says that they can be believed, and no further.

import { BlockList, isIP } from "node:net";
import { HarpiaError, show } from "./errors.js";

/**
 * `false`: the headers are not read. A number: that many proxies stand in front, each of which appends to the headers.
 * A list of addresses and CIDR ranges: those are proxies; the client is the first address, from the right, that is none.
 */
export type TrustProxy = false | number | readonly string[];

/** What the headers were believed to say; `undefined` where they were not. */
export interface Forwarded {
  ip: string | undefined;
  host: string | undefined;
  proto: string | undefined;
}

export type ProxyReader = (headers: Headers, peer: string) => Forwarded;

/** Makes the reader for a `trustProxy` option; `undefined` when no proxy is trusted. Throws `INVALID_OPTION`. */
export function compileTrustProxy(option: TrustProxy | undefined): ProxyReader | undefined {
  if (option === undefined || option === false || option === 0) return undefined;
  if (typeof option === "number" && Number.isInteger(option) && option > 0) {
    return (headers) => pick(headers, list(headers, "x-forwarded-for"), option);
  }
  const proxies = Array.isArray(option) && option.length > 0 ? addressList(option) : undefined;
  if (!proxies) {
    throw new HarpiaError(
      "INVALID_OPTION",
      `harpia({ trustProxy }): it must be false, a number of proxies, or a list of addresses and CIDR ranges such as ["10.0.0.0/8"], and is ${show(option)}.`,
      { value: option },
    );
  }
  const trusts = (address: string): boolean => {
    const plain = withoutPort(address);
    const kind = isIP(plain);
    return kind !== 0 && proxies.check(plain, kind === 6 ? "ipv6" : "ipv4");
  };
  return (headers, peer) => {
    if (!trusts(peer)) return { ip: undefined, host: undefined, proto: undefined };
    const chain = list(headers, "x-forwarded-for");
    let hops = 1;
    while (hops < chain.length && trusts(chain[chain.length - hops]!)) hops++;
    return pick(headers, chain, hops);
  };
}

/** The entry that the outermost of `hops` proxies wrote, of each header. */
function pick(headers: Headers, chain: readonly string[], hops: number): Forwarded {
  const entry = (values: readonly string[]) => values[Math.max(0, values.length - hops)];
  const ip = entry(chain);
  return {
    ip: ip === undefined ? undefined : withoutPort(ip),
    host: entry(list(headers, "x-forwarded-host")),
    proto: entry(list(headers, "x-forwarded-proto"))?.toLowerCase(),
  };
}

function list(headers: Headers, name: string): string[] {
  const value = headers.get(name);
  return value === null ? [] : value.split(",").flatMap((entry) => entry.trim() || []);
}

// Some load balancers write "192.0.2.1:4711" or "[2001:db8::1]:4711"; Bun gives IPv4 peers of a dual-stack
// listener as "::ffff:192.0.2.1".
function withoutPort(address: string): string {
  const bare = /^\[(.+)\](?::\d+)?$/.exec(address)?.[1] ?? /^([^:]+):\d+$/.exec(address)?.[1] ?? address;
  return bare.replace(/^::ffff:(?=\d+\.)/i, "");
}

function addressList(entries: readonly unknown[]): BlockList | undefined {
  const blocks = new BlockList();
  for (const entry of entries) {
    if (typeof entry !== "string") return undefined;
    const [address = "", bits, more] = entry.split("/");
    const kind = isIP(address);
    const max = kind === 6 ? 128 : 32;
    if (kind === 0 || more !== undefined) return undefined;
    if (bits === undefined) blocks.addAddress(address, kind === 6 ? "ipv6" : "ipv4");
    else if (/^\d+$/.test(bits) && Number(bits) <= max) {
      blocks.addSubnet(address, Number(bits), kind === 6 ? "ipv6" : "ipv4");
    } else return undefined;
  }
  return blocks;
}
