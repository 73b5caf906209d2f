// Which origins match: the pure functions, in tables. What a handshake makes of them is in handshake.test.ts.

import { describe, expect, test } from "bun:test";
import { compileOrigins, isLoopbackPair, isSameHost } from "../../src/server/origin.js";

describe("a list of origins", () => {
  const list = compileOrigins(
    [
      "https://App.example",
      "https://*.shop.example",
      "http://localhost:5173",
      "null",
      "https://a.example:443",
    ],
    "test",
  );
  const rows: [string, boolean][] = [
    ["https://app.example", true],
    ["http://app.example", false],
    ["https://app.example:8443", false],
    ["https://app.example.evil.example", false],
    ["https://evil-app.example", false],
    ["https://eu.shop.example", true],
    ["https://a.b.shop.example", true],
    ["https://shop.example", false],
    ["https://evilshop.example", false],
    ["http://eu.shop.example", false],
    ["http://localhost:5173", true],
    ["http://localhost", false],
    ["https://a.example", true], // 443 is https's own port: a browser does not send it
    ["null", true],
    ["", false],
  ];
  for (const [origin, allowed] of rows) {
    test(`${JSON.stringify(origin)} ${allowed ? "may" : "may not"} connect`, () => {
      expect(list(origin)).toBe(allowed);
    });
  }

  test('"*" lets everybody in', () => {
    expect(compileOrigins("*", "test")("https://anybody.example")).toBe(true);
  });

  for (const entry of [
    "app.example",
    "https://app.example/",
    "https://app.example/chat",
    "*",
    "https://*",
    "https://a.*.example",
    "https://*.*.example",
    "",
    5,
    null,
  ] as unknown[]) {
    test(`${JSON.stringify(entry)} could never match, and is refused`, () => {
      expect(() => compileOrigins([entry as string], "harpia(options)")).toThrow(
        expect.objectContaining({ code: "INVALID_OPTION", value: entry }),
      );
    });
  }
});

describe("same host", () => {
  const rows: [string, string, boolean][] = [
    ["https://chat.example", "chat.example", true],
    ["https://chat.example", "chat.example:443", true],
    ["http://chat.example", "chat.example:80", true],
    ["http://chat.example:3000", "chat.example:3000", true],
    ["http://chat.example:3000", "chat.example:3001", false],
    ["https://CHAT.example", "chat.Example", true],
    ["https://evil.example", "chat.example", false],
    ["null", "chat.example", false],
    ["https://chat.example", "", false],
    ["https://[::1]:3000", "[::1]:3000", true],
    ["garbage", "garbage", false],
  ];
  for (const [origin, host, same] of rows) {
    test(`${origin} at ${JSON.stringify(host)}: ${same}`, () => {
      expect(isSameHost(origin, host)).toBe(same);
    });
  }
});

describe("loopback to loopback", () => {
  const rows: [string, string, boolean][] = [
    ["http://localhost:5173", "127.0.0.1:3000", true],
    ["http://app.localhost", "localhost:3000", true],
    ["http://[::1]:1", "localhost", true],
    ["http://127.1.2.3", "localhost", true],
    ["https://evil.example", "localhost:3000", false],
    ["http://localhost", "chat.example", false],
    ["http://127.0.0.1.evil.example", "localhost", false],
    ["null", "localhost", false],
  ];
  for (const [origin, host, is] of rows) {
    test(`${origin} at ${host}: ${is}`, () => {
      expect(isLoopbackPair(origin, host)).toBe(is);
    });
  }
});
