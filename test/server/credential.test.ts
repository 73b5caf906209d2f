// Tokens and subprotocols: what a client offers and what becomes of it, as functions and on the wire.

import { describe, expect, test } from "bun:test";
import { redactUrl, tokenOf } from "../../src/server/credential.js";
import { listen, quiet, shake } from "../support/app.js";
import { launchChromium } from "../support/chromium.js";
import { testWith } from "../support/programs.js";

const bearer = (token: string) => `bearer.${Buffer.from(token).toString("base64url")}`;

describe("the token", () => {
  const rows: [string, string | null, string[], string, string | undefined][] = [
    ["from Authorization", "Bearer abc", [], "http://h/", "abc"],
    ["from Authorization, in any case", "bearer  abc ", [], "http://h/", "abc"],
    ["not from another scheme", "Basic abc", [], "http://h/", undefined],
    ["from the subprotocol", null, ["chat", bearer("a b/ü")], "http://h/", "a b/ü"],
    ["not from a subprotocol that is no base64url", null, ["bearer.a+b="], "http://h/", undefined],
    ["not from an empty one", null, ["bearer."], "http://h/", undefined],
    [
      "not from bytes that are no text",
      null,
      [`bearer.${Buffer.from([0xff, 0xfe]).toString("base64url")}`],
      "http://h/",
      undefined,
    ],
    ["from the query, decoded", null, [], "http://h/?a=1&token=x%20y", "x y"],
    ["not from an empty query field", null, [], "http://h/?token=", undefined],
    ["not from a field that only ends in it", null, [], "http://h/?mytoken=x", undefined],
    ["from the header first", "Bearer one", [bearer("two")], "http://h/?token=three", "one"],
    ["from the subprotocol next", null, [bearer("two")], "http://h/?token=three", "two"],
    ["none", null, [], "http://h/", undefined],
  ];
  for (const [name, authorization, offered, url, token] of rows) {
    test(name, () => {
      expect(tokenOf(authorization, offered, url)).toBe(token);
    });
  }

  test("is in upgrade's context and in ws.data, and no other query field is", async () => {
    await using app = quiet();
    const seen: unknown[] = [];
    app.ws("/", {
      upgrade: (_request, { token }) => void seen.push(token),
      open: (ws) => void seen.push(ws.data),
    });
    const port = listen(app);
    await shake(port, "/?token=abc&admin=true");
    await shake(port, "/?admin=true");
    expect(seen).toEqual([
      "abc",
      { url: "http://localhost/?token=abc&admin=true", token: "abc" },
      undefined,
      { url: "http://localhost/?admin=true" },
    ]);
  });

  test("is left out of URLs for the log", () => {
    expect(redactUrl("http://h/?a=1&token=x%20y&b=2#f")).toBe("http://h/?a=1&token=[redacted]&b=2#f");
    expect(redactUrl("http://h/?token=x&TOKEN=y")).toBe("http://h/?token=[redacted]&TOKEN=[redacted]");
  });
});

describe("the subprotocol answered", () => {
  const rows: [string, { protocols?: string[] }, string | undefined, string | null][] = [
    ["none offered: none", {}, undefined, null],
    ["none offered to a route that has some: none", { protocols: ["chat"] }, undefined, null],
    ["without a list: the first offered", {}, "chat.v1, chat.v2", "chat.v1"],
    ["without a list: the first that is no credential", {}, `${bearer("t")}, chat`, "chat"],
    [
      "with a list: the route's first that was offered",
      { protocols: ["chat.v2", "chat.v1"] },
      "chat.v1, chat.v2",
      "chat.v2",
    ],
    ["a credential alone: that one", {}, bearer("t"), bearer("t")],
    [
      "a credential alone, to a route that has some: that one",
      { protocols: ["chat"] },
      bearer("t"),
      bearer("t"),
    ],
  ];
  for (const [name, route, offer, chosen] of rows) {
    test(name, async () => {
      const seen: string[] = [];
      await using app = quiet();
      app.ws("/", { ...route, open: (ws) => void seen.push(ws.protocol) });
      const { status, headers } = await shake(listen(app), "/", { "Sec-WebSocket-Protocol": offer });
      expect([status, headers.get("sec-websocket-protocol")]).toEqual([101, chosen]);
      expect(seen).toEqual([chosen ?? ""]);
    });
  }
});

const OFFERS = [[bearer("t")], [bearer("t"), "chat"], ["chat", bearer("t")]];

test("Bun's client that offers a credential, alone or with others, connects", async () => {
  await using app = quiet();
  app.ws("/", { open: (ws) => void ws.send(ws.data.token ?? "none") });
  const port = listen(app);
  for (const offer of OFFERS) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`, offer);
    const { promise, resolve, reject } = Promise.withResolvers<[string, string]>();
    socket.onmessage = ({ data }) => resolve([String(data), socket.protocol]);
    socket.onerror = () => reject(new Error(`refused with ${offer}`));
    expect(await promise).toEqual(["t", offer.find((name) => name === "chat") ?? offer[0]!]);
    socket.close();
  }
});

testWith("chromium")("a browser that offers a credential, alone or with others, connects", async () => {
  await using app = quiet();
  app.ws("/", { open: (ws) => void ws.send(ws.data.token ?? "none") });
  const port = listen(app, {
    routes: { "/page": new Response("<title>page</title>", { headers: { "content-type": "text/html" } }) },
  });
  await using browser = await launchChromium();
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${port}/page`);
  for (const offer of OFFERS) {
    const answered = await page.evaluate(
      (protocols) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(`ws://${location.host}/`, protocols);
          socket.onmessage = ({ data }) => resolve([data, socket.protocol]);
          socket.onerror = () => reject(new Error("refused"));
        }),
      offer,
    );
    expect(answered).toEqual(["t", offer.find((name) => name === "chat") ?? offer[0]!]);
  }
});
