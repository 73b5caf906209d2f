// What is believed of the forwarding headers: the pure function in a table, and one connection through all of it.

import { describe, expect, test } from "bun:test";
import { compileTrustProxy, type TrustProxy } from "../../src/server/proxy.js";
import { listen, quiet } from "../support/app.js";
import { open } from "../support/raw.js";

describe("trustProxy", () => {
  const rows: {
    name: string;
    trust: TrustProxy;
    peer?: string;
    headers: Record<string, string>;
    ip?: string;
    host?: string;
    proto?: string;
  }[] = [
    {
      name: "one hop: the last entry",
      trust: 1,
      headers: { "x-forwarded-for": "6.6.6.6, 192.0.2.1" },
      ip: "192.0.2.1",
    },
    {
      name: "two hops: the last but one",
      trust: 2,
      headers: { "x-forwarded-for": "6.6.6.6, 192.0.2.1, 10.0.0.2" },
      ip: "192.0.2.1",
    },
    {
      name: "more hops than entries: the first",
      trust: 3,
      headers: { "x-forwarded-for": "192.0.2.1" },
      ip: "192.0.2.1",
    },
    { name: "no header: nothing", trust: 1, headers: {} },
    {
      name: "an entry with a port",
      trust: 1,
      headers: { "x-forwarded-for": "192.0.2.1:4711" },
      ip: "192.0.2.1",
    },
    {
      name: "an IPv6 entry with a port",
      trust: 1,
      headers: { "x-forwarded-for": "[2001:db8::1]:4711" },
      ip: "2001:db8::1",
    },
    {
      name: "host and proto",
      trust: 1,
      headers: { "x-forwarded-host": "chat.example", "x-forwarded-proto": "HTTPS" },
      host: "chat.example",
      proto: "https",
    },
    {
      name: "addresses: the first from the right that is no proxy",
      trust: ["10.0.0.0/8", "2001:db8::/32"],
      peer: "10.0.0.1",
      headers: { "x-forwarded-for": "6.6.6.6, 192.0.2.1, 10.9.9.9" },
      ip: "192.0.2.1",
    },
    {
      name: "addresses: a peer that is no proxy is not believed",
      trust: ["10.0.0.0/8"],
      peer: "192.0.2.9",
      headers: { "x-forwarded-for": "1.2.3.4", "x-forwarded-host": "evil.example" },
    },
    {
      name: "addresses: an IPv4 peer as a dual-stack listener shows it",
      trust: ["10.0.0.1"],
      peer: "::ffff:10.0.0.1",
      headers: { "x-forwarded-for": "192.0.2.1" },
      ip: "192.0.2.1",
    },
    {
      name: "addresses: all entries proxies, the first",
      trust: ["10.0.0.0/8"],
      peer: "10.0.0.1",
      headers: { "x-forwarded-for": "10.0.0.3, 10.0.0.2" },
      ip: "10.0.0.3",
    },
  ];
  for (const { name, trust, peer = "10.0.0.1", headers, ip, host, proto } of rows) {
    test(name, () => {
      expect(compileTrustProxy(trust)!(new Headers(headers), peer)).toEqual({ ip, host, proto });
    });
  }

  test("is off by default", () => {
    for (const off of [undefined, false, 0] as const) expect(compileTrustProxy(off)).toBeUndefined();
  });

  for (const wrong of [
    true,
    -1,
    1.5,
    [],
    ["localhost"],
    ["10.0.0.0/33"],
    ["10.0.0.0/8/8"],
    [5],
    "10.0.0.1",
  ] as unknown[]) {
    test(`${JSON.stringify(wrong)} is refused`, () => {
      expect(() => compileTrustProxy(wrong as TrustProxy)).toThrow(
        expect.objectContaining({ code: "INVALID_OPTION" }),
      );
    });
  }
});

test("ip, url and remoteAddress are the client's when the proxy is trusted, the peer's when not", async () => {
  const headers = {
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Host": "chat.example",
    "X-Forwarded-Proto": "https",
  };
  const seen: unknown[] = [];
  for (const trustProxy of [1, false] as const) {
    await using app = quiet({ trustProxy });
    app.ws("/room", {
      upgrade: (_request, { ip, url }) => void seen.push(ip, url),
      open: (ws) => void seen.push(ws.remoteAddress, ws.url, ws.data.url),
    });
    await using _client = await open(listen(app), "/room?a=1", headers);
  }
  const [trusted, not] = ["https://chat.example/room?a=1", "http://localhost/room?a=1"];
  expect(seen).toEqual([
    "192.0.2.1",
    trusted,
    "192.0.2.1",
    trusted,
    trusted,
    "127.0.0.1",
    not,
    "127.0.0.1",
    not,
    not,
  ]);
});
