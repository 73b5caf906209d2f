// The options of `redis()`, checked before anything connects. Messages never show a URL: it may hold a password.

import { BrokerError } from "./broker.js";
import type { RedisOptions } from "./redis.js";

const KNOWN = ["url", "client", "cluster", "sentinel", "connection", "prefix", "timeout", "durable"] as const;
const PLACES = ["url", "client", "cluster", "sentinel"] as const;

/** Throws a `BROKER_INVALID_OPTION` that names the option. */
export function checkOptions(options: RedisOptions): { prefix: string; timeout: number; durable: boolean } {
  if (typeof options !== "object" || options === null) refuse("takes an object of options");
  const unknown = Object.keys(options).find((key) => !(KNOWN as readonly string[]).includes(key));
  if (unknown !== undefined) refuse(`does not take "${unknown}". It takes: ${KNOWN.join(", ")}`);
  const places = PLACES.filter((place) => options[place] !== undefined);
  if (places.length > 1) refuse(`takes one of ${PLACES.join(", ")}, and was given ${places.join(" and ")}`);
  const { url, client, cluster, sentinel, connection, prefix = "harpia:", timeout = 5_000 } = options;
  const { durable = false } = options;
  if (url !== undefined) checkUrl(url, "url");
  if (client !== undefined) checkClient(client);
  if (cluster !== undefined) checkUrls(cluster, "cluster");
  if (sentinel !== undefined) {
    if (typeof sentinel?.name !== "string" || sentinel.name === "")
      refuse('needs "sentinel.name", the name that the sentinels know the primary by');
    checkUrls(sentinel.nodes, "sentinel.nodes");
  }
  if (connection !== undefined && (typeof connection !== "object" || connection === null))
    refuse('needs "connection" to be an object, as createClient of the package "redis" takes it');
  if (client !== undefined && connection !== undefined)
    refuse('takes no "connection" beside "client": subscriptions connect as the client does');
  if (typeof prefix !== "string" || /[{}]/.test(prefix))
    refuse('needs "prefix" to be a string without braces, which are the hash tag\'s');
  if (typeof timeout !== "number" || !(timeout >= 10 && timeout <= 600_000))
    refuse('needs "timeout" to be milliseconds from 10 to 600,000');
  if (typeof durable !== "boolean") refuse('needs "durable" to be true or false');
  return { prefix, timeout, durable };
}

function checkUrls(urls: unknown, name: string): void {
  if (!Array.isArray(urls) || urls.length === 0) refuse(`needs "${name}" to be a list of URLs`);
  for (const url of urls) checkUrl(url, name);
}

function checkUrl(url: unknown, name: string): void {
  const example = "redis://user:password@host:6379, or rediss://… for TLS";
  if (typeof url !== "string" || !/^(rediss?:\/\/|unix:\/)/.test(url) || !URL.canParse(url))
    refuse(`needs "${name}" to be ${example}`);
}

function checkClient(client: unknown): void {
  const given = client as Record<string, unknown> | null;
  if (typeof given !== "object" || given === null || typeof given.sendCommand !== "function")
    refuse('needs "client" to be what createClient of the package "redis" returns');
  if (typeof given.nodeClient === "function" || typeof given.acquire === "function")
    refuse('takes no cluster or sentinel client as "client": give "cluster" or "sentinel" instead');
}

function refuse(why: string): never {
  throw new BrokerError("BROKER_INVALID_OPTION", `redis() ${why}.`);
}
