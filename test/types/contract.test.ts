// What the compiler promises of contracts: both ends follow from one object, and wrong use is an error where it is
// written.

import { expectTypeOf, test } from "bun:test";
import { type ChannelSocket, harpia } from "harpia";
import { type Client, connect, isContractError } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";

const chat = defineChannel({
  path: "/chat/:room",
  methods: {
    say: {
      params: z.object({ text: z.string(), at: z.string().transform(Number) }),
      result: z.object({ id: z.number() }),
      errors: { MUTED: z.object({ until: z.number() }) },
    },
    typing: { params: z.object({ on: z.boolean() }) },
    ask: { params: z.object({ question: z.string() }), stream: z.string() },
    plain: { result: z.number() },
  },
  events: {
    notice: { params: z.object({ text: z.string() }) },
    confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
  },
});

/** Only compiled. */
const compiled = (_act: () => unknown): void => {};

test("the server's side", () => {
  compiled(() => {
    const app = harpia();
    const live = app
      .channel(chat, {
        upgrade: (_request, { params }) => ({ user: { name: params.room } }),
      })
      .implement({
        methods: {
          say({ text, at }, { ws, signal, error }) {
            expectTypeOf(text).toEqualTypeOf<string>();
            expectTypeOf(at).toEqualTypeOf<number>();
            expectTypeOf(signal).toEqualTypeOf<AbortSignal>();
            expectTypeOf(ws.data.user.name).toEqualTypeOf<string>();
            expectTypeOf(ws.params).toEqualTypeOf<{ room: string }>();
            // @ts-expect-error no such error in the contract
            void error("MUTE", { until: 1 });
            // @ts-expect-error its data has a number
            void error("MUTED", { until: "1" });
            if (at > 5) throw error("MUTED", { until: 1 });
            return { id: 1 };
          },
          typing: {
            timeout: 5,
            run: ({ on }) => expectTypeOf(on).toEqualTypeOf<boolean>() as unknown as void,
          },
          async *ask({ question }) {
            yield question;
          },
          plain(_params, context) {
            const handedOn = (_context: typeof context): void => {};
            handedOn({ ...context, signal: context.signal });
            // @ts-expect-error the signal is made when asked for: a spread does not have it
            handedOn({ ...context });
            return 5;
          },
        },
      });
    const [ws] = live.connections;
    void live.emit(ws!, "notice", { text: "a" });
    expectTypeOf(live.ask(ws!, "confirm", { what: "a" })).toEqualTypeOf<Promise<boolean>>();
    // @ts-expect-error no such event
    void live.broadcast("notise", { text: "a" });
    // @ts-expect-error an event with a result is asked, not told
    void live.broadcast("confirm", { what: "a" });
    // @ts-expect-error the text is a string
    void live.broadcast("notice", { text: 5 });
  });
});

test("what is missing or wrong in an implementation is an error", () => {
  compiled(() => {
    const app = harpia();
    const others = { typing() {}, async *ask() {}, plain: () => 5 };
    // @ts-expect-error say is missing
    app.channel(chat).implement({ methods: others });
    // @ts-expect-error say must return an id
    app.channel(chat).implement({ methods: { ...others, say: () => ({}) } });
    // @ts-expect-error a stream is a generator
    app.channel(chat).implement({ methods: { ...others, say: () => ({ id: 1 }), ask: () => 5 } });
    // @ts-expect-error methods are missing
    app.channel(chat).implement({ methods: {} });
  });
});

test("the client's side", () => {
  compiled(async () => {
    const client = connect(chat, { url: "ws://localhost", params: { room: "a" } });
    expectTypeOf(client).toEqualTypeOf<Client<typeof chat>>();
    // What goes in is what the schema takes: a string, which the server makes a number.
    expectTypeOf(client.call("say", { text: "a", at: "5" })).toEqualTypeOf<Promise<{ id: number }>>();
    expectTypeOf(client.call("plain")).toEqualTypeOf<Promise<number>>();
    expectTypeOf(client.call("typing", { on: true })).toEqualTypeOf<Promise<void>>();
    for await (const answer of client.stream("ask", { question: "a" }))
      expectTypeOf(answer).toEqualTypeOf<string>();
    client.on("notice", ({ text }) => expectTypeOf(text).toEqualTypeOf<string>());
    client.answer("confirm", ({ what }) => what === "a");
    client.notify("typing", { on: true });
    // @ts-expect-error no such method
    void client.call("sya", { text: "a", at: "5" });
    // @ts-expect-error at is a string here
    void client.call("say", { text: "a", at: 5 });
    // @ts-expect-error params are needed
    void client.call("say");
    // @ts-expect-error a stream is not called
    void client.call("ask", { question: "a" });
    // @ts-expect-error a method with a result is not only notified
    client.notify("plain");
    // @ts-expect-error an event with a result is answered
    client.on("confirm", () => {});
    // @ts-expect-error the answer is a boolean
    client.answer("confirm", () => "yes");
    // @ts-expect-error the path needs a room
    connect(chat, { url: "ws://localhost" });
    // @ts-expect-error the path has no such param
    connect(chat, { url: "ws://localhost", params: { rom: "a" } });
    const error: unknown = new Error("any");
    if (isContractError(error, chat, "say", "MUTED")) expectTypeOf(error.data.until).toEqualTypeOf<number>();
    // @ts-expect-error say has no such error
    isContractError(error, chat, "say", "GONE");
  });
});

test("what a method returns is not widened: enums, tuples, literals", () => {
  const exact = defineChannel({
    path: "/exact",
    methods: {
      pick: { result: z.enum(["a", "b"]) },
      pair: { result: z.tuple([z.string(), z.number()]) },
      kind: { params: z.object({ x: z.number() }), result: z.object({ kind: z.literal("k") }) },
      letters: { stream: z.literal("q") },
    },
  });
  compiled(() =>
    harpia()
      .channel(exact, { upgrade: (_request, { token }) => ({ name: token ?? "a" }) })
      .implement({
        methods: {
          pick: (_params, { ws }) => (ws.data.name ? "a" : "b"),
          pair: async () => ["a", 1],
          kind: ({ x }) => ({ kind: x > 1 ? "k" : "k" }),
          async *letters() {
            yield "q";
          },
        },
      }),
  );
});

test("a function for the sockets of a channel", () => {
  compiled(() => (ws: ChannelSocket<typeof chat, { user: string }>) => {
    expectTypeOf(ws.data.user).toEqualTypeOf<string>();
    expectTypeOf(ws.params.room).toEqualTypeOf<string>();
  });
});
