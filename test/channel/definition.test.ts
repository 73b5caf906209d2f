// What defineChannel, app.channel and implement can be given wrongly: each is an error that names it.

import { describe, expect, test } from "bun:test";
import { HarpiaError } from "harpia";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
import { listen, quiet } from "../support/app.js";
import { call, received } from "../support/channel.js";
import { open } from "../support/raw.js";

const schema = z.object({});

describe("defineChannel refuses", () => {
  const rows: [string, unknown, string][] = [
    ["nothing", undefined, "defineChannel(contract) must be an object"],
    ["a string", "/chat", "defineChannel(contract) must be an object"],
    ["no path", {}, '"path" must be a path such as "/chat"'],
    ["a path without a slash", { path: "chat" }, '"path" must be a path such as "/chat", and is chat'],
    [
      "a part that there is not",
      { path: "/", method: {} },
      'does not take "method". It takes: path, methods, events',
    ],
    ["a method that is no object", { path: "/", methods: { say: 5 } }, 'the method "say" must be an object'],
    [
      "a method that is undefined",
      { path: "/", methods: { say: undefined } },
      'the method "say" must be an object',
    ],
    [
      "a method with another part",
      { path: "/", methods: { say: { param: schema } } },
      'the method "say" does not take "param"',
    ],
    [
      "params that are no schema",
      { path: "/", methods: { say: { params: {} } } },
      'the method "say": "params" is no Standard Schema',
    ],
    [
      "a result that is no schema",
      { path: "/", methods: { say: { result: "string" } } },
      'the method "say": "result" is no Standard Schema',
    ],
    [
      "a stream that is no schema",
      { path: "/", methods: { say: { stream: () => {} } } },
      'the method "say": "stream" is no Standard Schema',
    ],
    [
      "a result and a stream",
      { path: "/", methods: { say: { result: schema, stream: schema } } },
      'the method "say" has both "result" and "stream"',
    ],
    [
      "errors that are no object",
      { path: "/", methods: { say: { errors: "MUTED" } } },
      'the method "say": "errors" must be an object',
    ],
    [
      "an error that is no schema",
      { path: "/", methods: { say: { errors: { MUTED: 5 } } } },
      'the method "say": "errors.MUTED" is no Standard Schema',
    ],
    [
      "idempotent that is no boolean",
      { path: "/", methods: { say: { idempotent: "yes" } } },
      'the method "say": "idempotent" must be true or false',
    ],
    ["a method without a name", { path: "/", methods: { "": {} } }, 'the method "" has no name'],
    [
      "a method of harpia's",
      { path: "/", methods: { "$/ping": {} } },
      `the method "$/ping": names that begin with "$/" are harpia's own`,
    ],
    [
      "a method of JSON-RPC's",
      { path: "/", methods: { "rpc.say": {} } },
      'the method "rpc.say": names that begin with',
    ],
    [
      "an event of harpia's",
      { path: "/", events: { "$/next": {} } },
      'the event "$/next": names that begin with',
    ],
    [
      "an event with another part",
      { path: "/", events: { said: { stream: schema } } },
      'the event "said" does not take "stream"',
    ],
    ["methods that are no object", { path: "/", methods: 5 }, '"methods" must be an object'],
    ["events that are null", { path: "/", events: null }, '"events" must be an object'],
    ["topics that are no object", { path: "/", topics: "room" }, '"topics" must be an object'],
    ["a topic that is no object", { path: "/", topics: { room: 5 } }, 'the topic "room" must be an object'],
    ["a topic without a message", { path: "/", topics: { room: {} } }, 'the topic "room" needs a "message"'],
    [
      "a topic with another part",
      { path: "/", topics: { room: { message: schema, params: schema } } },
      'the topic "room" does not take "params". It takes: message, history, presence, coalesce, errors',
    ],
    [
      "a message that is no schema",
      { path: "/", topics: { room: { message: 5 } } },
      'the topic "room": "message" is no Standard Schema',
    ],
    [
      "presence that is no schema",
      { path: "/", topics: { room: { message: schema, presence: true } } },
      'the topic "room": "presence" is no Standard Schema',
    ],
    [
      "a topic's errors that are no object",
      { path: "/", topics: { room: { message: schema, errors: "FULL" } } },
      'the topic "room": "errors" must be an object of schemas by name',
    ],
    [
      "a topic's error that is no schema",
      { path: "/", topics: { room: { message: schema, errors: { FULL: 5 } } } },
      'the topic "room": "errors.FULL" is no Standard Schema',
    ],
    [
      "a history that is no object",
      { path: "/", topics: { room: { message: schema, history: 100 } } },
      'the topic "room": "history" must be an object',
    ],
    [
      "a history with another part",
      { path: "/", topics: { room: { message: schema, history: { size: 1, ttl: 1, max: 1 } } } },
      'the topic "room": "history" does not take "max". It takes: size, ttl',
    ],
    ...[undefined, 0, -1, 1.5, 1_000_001, "5", Number.NaN].map((size): [string, unknown, string] => [
      `history.size ${String(size)}`,
      { path: "/", topics: { room: { message: schema, history: { size, ttl: 1 } } } },
      `"history.size" must be a whole number from 1 to 1000000, and is ${String(size)}`,
    ]),
    ...[undefined, 0, -1, 2_592_001, "5", Number.NaN].map((ttl): [string, unknown, string] => [
      `history.ttl ${String(ttl)}`,
      { path: "/", topics: { room: { message: schema, history: { size: 1, ttl } } } },
      `"history.ttl" must be seconds, at most 2592000 (30 days), and is ${String(ttl)}`,
    ]),
    [
      "coalesce without history",
      { path: "/", topics: { room: { message: schema, coalesce: true } } },
      'the topic "room": "coalesce" needs "history"',
    ],
    [
      "coalesce that is no boolean",
      { path: "/", topics: { room: { message: schema, coalesce: "yes" } } },
      'the topic "room": "coalesce" must be true or false',
    ],
    ...["", "/room", "room/", "room//a", "a b", "room/:", "größe", "a%2Fb", "room/a:b", "$/room"].map(
      (template): [string, unknown, string] => [
        `the topic ${JSON.stringify(template)}`,
        { path: "/", topics: { [template]: { message: schema } } },
        `the topic "${template}" must be like "room/:room"`,
      ],
    ),
    [
      "a topic with a param twice",
      { path: "/", topics: { "a/:id/b/:id": { message: schema } } },
      'the topic "a/:id/b/:id" has a param twice',
    ],
    [
      "a param that objects have",
      { path: "/", topics: { "a/:__proto__": { message: schema } } },
      'the topic "a/:__proto__": a param cannot be called "__proto__"',
    ],
    ...[
      ["room/:a", "room/:b"],
      ["room/:a", "room/lobby"],
      [":kind/a", "room/:id"],
    ].map(([one, other]): [string, unknown, string] => [
      `the topics ${one} and ${other}`,
      { path: "/", topics: { [one!]: { message: schema }, [other!]: { message: schema } } },
      `the topics "${one}" and "${other}" could have the same name`,
    ]),
    [
      "an event that is no schema",
      { path: "/", events: { said: { params: 5 } } },
      'the event "said": "params" is no Standard Schema',
    ],
  ];
  for (const [name, contract, message] of rows) {
    test(name, () => {
      expect(() => defineChannel(contract as never)).toThrow(message);
      // An object that nobody has checked fares no better.
      if (typeof contract !== "object") return;
      expect(() =>
        quiet()
          .channel(contract as never)
          .implement({} as never),
      ).toThrow(message);
    });
  }
});

describe("app.channel and implement refuse", () => {
  const chat = defineChannel({
    path: "/chat",
    methods: { say: { params: schema }, toString: {}, constructor: {}, ["__proto__"]: {} },
  });
  const methods = { say() {}, toString() {}, constructor() {}, ["__proto__"]() {} };
  const say = (value: unknown) => ({ methods: { ...methods, ["__proto__"]() {}, say: value } });
  const without = (name: string) => ({
    methods: Object.fromEntries(Object.entries(methods).filter(([key]) => key !== name)),
  });
  const rows: [string, object | undefined, unknown, string, string][] = [
    [
      "a hook that there is not",
      { befor: 5 },
      { methods },
      "UNKNOWN_OPTION",
      'hooks does not take "befor". Did you mean "before"?',
    ],
    [
      "hooks that are none",
      "upgrade" as never,
      { methods },
      "INVALID_OPTION",
      'hooks must be an object, and is "upgrade"',
    ],
    ...["upgrade", "open", "close", "refresh", "before"].map(
      (hook): [string, object, unknown, string, string] => [
        `${hook} that is no function`,
        { [hook]: 5 },
        { methods },
        "INVALID_OPTION",
        `"${hook}" must be a function, and is 5`,
      ],
    ),
    [
      "concurrency 0",
      { concurrency: 0 },
      { methods },
      "INVALID_OPTION",
      '"concurrency" must be a whole number from 1, and is 0',
    ],
    [
      "validateResults that is no boolean",
      { validateResults: "no" },
      { methods },
      "INVALID_OPTION",
      '"validateResults" must be true or false',
    ],
    [
      "a rate limit that is none",
      { rateLimit: { messages: 5 } },
      { methods },
      "INVALID_OPTION",
      'app.channel("/chat", …): "rateLimit.per" must be milliseconds',
    ],
    ["origins that are none", { origins: 5 }, { methods }, "INVALID_OPTION", 'app.channel("/chat", …)'],
    [
      "no implementation",
      {},
      undefined,
      "INVALID_OPTION",
      "implementation must be an object, and is undefined",
    ],
    ["another part", {}, { methods, method: {} }, "UNKNOWN_OPTION", 'does not take "method"'],
    ["no methods", {}, {}, "INVALID_OPTION", 'the contract has the method "say"'],
    [
      "methods that are no object",
      {},
      { methods: "say" },
      "INVALID_OPTION",
      '"methods" must be an object of functions, and is "say"',
    ],
    [
      "methods that are null",
      {},
      { methods: null },
      "INVALID_OPTION",
      '"methods" must be an object of functions, and is null',
    ],
    [
      "a missing method",
      {},
      without("say"),
      "INVALID_OPTION",
      'the contract has the method "say", so implement({ methods }) needs a function for it',
    ],
    [
      "a missing method that is called toString",
      {},
      without("toString"),
      "INVALID_OPTION",
      'the method "toString"',
    ],
    [
      "a missing method that is called constructor",
      {},
      without("constructor"),
      "INVALID_OPTION",
      'the method "constructor"',
    ],
    [
      "a missing method that is called __proto__",
      {},
      without("__proto__"),
      "INVALID_OPTION",
      'the method "__proto__"',
    ],
    [
      "a method that the contract does not have",
      {},
      { methods: { ...methods, sya() {} } },
      "UNKNOWN_OPTION",
      'methods does not take "sya". Did you mean "say"?',
    ],
    [
      "a method that is no function",
      {},
      say(5),
      "INVALID_OPTION",
      'the method "say", so implement({ methods }) needs a function for it, (params, context) => …, or { run: that function }; it has 5',
    ],
    ["a method without run", {}, say({ timeout: 5 }), "INVALID_OPTION", 'the method "say"'],
    [
      "a method with another limit",
      {},
      say({ run() {}, rate: 5 }),
      "UNKNOWN_OPTION",
      'the method "say" does not take "rate"',
    ],
    ...[0, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, "5"].map(
      (timeout): [string, object, unknown, string, string] => [
        `the timeout ${JSON.stringify(timeout) === "null" ? String(timeout) : JSON.stringify(timeout)}`,
        {},
        say({ run() {}, timeout }),
        "INVALID_OPTION",
        'the method "say": "timeout" must be milliseconds',
      ],
    ),
    [
      "a method's rate limit that is none",
      {},
      say({ run() {}, rateLimit: 5 }),
      "INVALID_OPTION",
      'the method "say": "rateLimit" must be like',
    ],
    [
      "a method's rate limit that would close",
      {},
      say({ run() {}, rateLimit: { messages: 1, per: 1, close: true } }),
      "UNKNOWN_OPTION",
      'the method "say": "rateLimit" does not take "close"',
    ],
  ];
  for (const [name, hooks, implementation, code, message] of rows) {
    test(name, () => {
      const app = quiet();
      let thrown: unknown;
      try {
        app.channel(chat, hooks as never).implement(implementation as never);
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toBeInstanceOf(HarpiaError);
      expect(thrown).toMatchObject({ code, message: expect.stringContaining(message) });
      // Nothing was registered by half.
      app.channel(chat).implement({ methods } as never);
    });
  }

  test("no contract at all", () => {
    expect(() =>
      quiet()
        .channel(undefined as never)
        .implement({} as never),
    ).toThrow("app.channel(contract): a contract is what defineChannel returns, and this is undefined.");
  });

  test("a path that Bun's router does not take, or that is taken", () => {
    const app = quiet();
    const at = (path: string) => () => app.channel(defineChannel({ path })).implement({});
    expect(at("/a?b")).toThrow('app.channel("/a?b", …): a path has no query');
    expect(at("/:a/:a")).toThrow('app.channel("/:a/:a", …): the param ":a" is there twice');
    at("/room/:a")();
    expect(at("/room/:b")).toThrow('app.channel("/room/:b", …): "/room/:a" matches the same requests');
    const channel = app.channel(defineChannel({ path: "/twice" }));
    channel.implement({});
    expect(() => channel.implement({})).toThrow('app.channel("/twice", …): it is registered already');
  });

  test("anything after app.stop()", async () => {
    const app = quiet();
    await app.stop();
    expect(() => app.channel(defineChannel({ path: "/late" })).implement({})).toThrow(
      'app.channel("/late", …): this app was stopped',
    );
  });
});

describe("implement refuses, of topics,", () => {
  const contract = defineChannel({
    path: "/topics",
    topics: {
      "room/:room": { message: schema, presence: schema },
      news: { message: schema },
      toString: { message: schema },
    },
  });
  const open = { subscribe: "public" } as const;
  const right = { "room/:room": { ...open, presence: () => ({}) }, news: open, toString: open };
  const room = (hooks: unknown) => ({ topics: { ...right, "room/:room": hooks } });
  const rows: [string, unknown, string, string][] = [
    ["none at all", {}, "INVALID_OPTION", 'the topic "room/:room" needs'],
    ["what is no object", { topics: 5 }, "INVALID_OPTION", '"topics" must be an object of topics, and is 5'],
    ["null", { topics: null }, "INVALID_OPTION", '"topics" must be an object of topics, and is null'],
    [
      "one that is missing",
      { topics: { ...right, news: undefined } },
      "INVALID_OPTION",
      'the topic "news" needs "subscribe": a function that says who may subscribe, or "public"; it is undefined',
    ],
    [
      "one that is missing, and called toString",
      { topics: { "room/:room": right["room/:room"], news: open } },
      "INVALID_OPTION",
      'the topic "toString" needs "subscribe"',
    ],
    [
      "one that the contract does not have",
      { topics: { ...right, nws: open } },
      "UNKNOWN_OPTION",
      'topics does not take "nws". Did you mean "news"?',
    ],
    [
      "one that is a function",
      { topics: { ...right, news: () => true } },
      "INVALID_OPTION",
      'the topic "news" needs "subscribe"',
    ],
    [
      "subscribe true: nothing is open by accident",
      { topics: { ...right, news: { subscribe: true } } },
      "INVALID_OPTION",
      '"subscribe": a function that says who may subscribe, or "public"; it is true',
    ],
    [
      "presence where the contract has none",
      { topics: { ...right, news: { ...open, presence: () => ({}) } } },
      "UNKNOWN_OPTION",
      'the topic "news" does not take "presence"',
    ],
    ["presence that is missing", room(open), "INVALID_OPTION", 'needs "presence": a function that says who'],
    ["presence that is a number", room({ ...open, presence: 5 }), "INVALID_OPTION", "it is 5"],
    ["presence without info", room({ ...open, presence: { max: 5 } }), "INVALID_OPTION", 'needs "presence"'],
    [
      "a presence key that is no function",
      room({ ...open, presence: { info: () => ({}), key: "id" } }),
      "INVALID_OPTION",
      'needs "presence"',
    ],
    [
      "presence max 0",
      room({ ...open, presence: { info: () => ({}), max: 0 } }),
      "INVALID_OPTION",
      '"presence": "max" must be a whole number from 1, and is 0',
    ],
    [
      "presence with another part",
      room({ ...open, presence: { info: () => ({}), most: 5 } }),
      "UNKNOWN_OPTION",
      '"presence" does not take "most"',
    ],
  ];
  for (const [name, implementation, code, message] of rows) {
    test(name, () => {
      const app = quiet();
      let thrown: unknown;
      try {
        app.channel(contract).implement(implementation as never);
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toBeInstanceOf(HarpiaError);
      expect(thrown).toMatchObject({ code, message: expect.stringContaining(message) });
      app.channel(contract).implement({ topics: right });
    });
  }
});

test("methods may be those of a class: `this` is what was given", async () => {
  class Counter {
    #count = 0;
    add(): number {
      return ++this.#count;
    }
  }
  const contract = defineChannel({ path: "/count", methods: { add: { result: z.number() } } });
  await using app = quiet();
  app.channel(contract).implement({ methods: new Counter() });
  await using client = await open(listen(app), "/count");
  client.send(call(1, "add"));
  client.send(call(2, "add"));
  expect(await received(client)).toMatchObject({ id: 1, result: 1 });
  expect(await received(client)).toMatchObject({ id: 2, result: 2 });
});
