// What the compiler promises of the hooks: everything follows from the contract.

import { expectTypeOf, test } from "bun:test";
import { type Client, connect, type RpcError } from "harpia/client";
import { defineChannel } from "harpia/contract";
import {
  type ConnectionState,
  type Member,
  type Message,
  type SubscriptionState,
  useAnswer,
  useChannel,
  useConnectionState,
  useEvent,
  useTopic,
} from "harpia/react";
import { z } from "zod";

const chat = defineChannel({
  path: "/chat/:room",
  methods: { say: { params: z.object({ text: z.string() }), result: z.object({ at: z.number() }) } },
  events: {
    said: { params: z.object({ text: z.string(), at: z.string().transform(Number) }) },
    cleared: {},
    confirm: { params: z.object({ what: z.string() }), result: z.boolean() },
  },
  topics: {
    "room/:room": {
      message: z.object({ text: z.string(), at: z.string().transform(Number) }),
      history: { size: 100, ttl: 60 },
      presence: z.object({ name: z.string() }),
    },
    load: { message: z.number() },
  },
});

/** Only compiled. */
const compiled = (_act: () => unknown): void => {};

test("useChannel takes what connect takes, and gives a client of the contract", () => {
  compiled(() => {
    const client = useChannel(chat, { url: "/", params: { room: "a" }, token: async () => "t", timeout: 5 });
    expectTypeOf(client).toEqualTypeOf<Client<typeof chat>>();
    expectTypeOf(client.call("say", { text: "a" })).toEqualTypeOf<Promise<{ at: number }>>();
    // @ts-expect-error the path needs a room
    useChannel(chat, { url: "/" });
    // @ts-expect-error the path has no such param
    useChannel(chat, { url: "/", params: { rom: "a" } });
    // @ts-expect-error it must be somewhere
    useChannel(chat, { params: { room: "a" } });
    // @ts-expect-error no such method
    void client.call("sya", { text: "a" });
  });
});

test("useEvent, useAnswer and useConnectionState take any client of the contract", () => {
  compiled(() => {
    const client = connect(chat, { url: "ws://localhost", params: { room: "a" } });
    expectTypeOf(useConnectionState(client)).toEqualTypeOf<ConnectionState>();
    useEvent(client, "said", (said) => expectTypeOf(said).toEqualTypeOf<{ text: string; at: number }>());
    useEvent(client, "cleared", () => {});
    useAnswer(client, "confirm", ({ what }) => what === "a");
    useAnswer(client, "confirm", async ({ what }) => what === "a");
    // @ts-expect-error no such event
    useEvent(client, "sayd", () => {});
    // @ts-expect-error it has no such field
    useEvent(client, "said", ({ texd }) => texd);
    // @ts-expect-error an event with a result is answered
    useEvent(client, "confirm", () => {});
    // @ts-expect-error an event without a result is only heard
    useAnswer(client, "said", () => {});
    // @ts-expect-error the answer is a boolean
    useAnswer(client, "confirm", () => "yes");
  });
});

test("useTopic infers params, messages and members from the contract", () => {
  compiled(() => {
    const client = connect(chat, { url: "ws://localhost", params: { room: "a" } });
    const room = useTopic(client, "room/:room", { room: "a" }, { last: 50, keep: 100 });
    expectTypeOf(room.messages).toEqualTypeOf<readonly Message<{ text: string; at: number }>[]>();
    expectTypeOf(room.members).toEqualTypeOf<readonly Member<{ name: string }>[]>();
    expectTypeOf(room.state).toEqualTypeOf<SubscriptionState>();
    expectTypeOf(room.error).toEqualTypeOf<RpcError | undefined>();
    expectTypeOf(room.loadOlder()).toEqualTypeOf<Promise<void>>();
    useTopic(
      client,
      "room/:room",
      { room: "a" },
      {
        after: { epoch: "e", offset: 1 },
        onMessage: ({ data, offset }) => {
          expectTypeOf(data).toEqualTypeOf<{ text: string; at: number }>();
          expectTypeOf(offset).toEqualTypeOf<number | undefined>();
        },
        onReset: () => {},
      },
    );
    expectTypeOf(useTopic(client, "load").messages).toEqualTypeOf<readonly Message<number>[]>();
    useTopic(client, "load", {}, { last: 1 });
    // @ts-expect-error no such topic
    useTopic(client, "rom/:room", { room: "a" });
    // @ts-expect-error it needs a room
    useTopic(client, "room/:room");
    // @ts-expect-error it has no such param
    useTopic(client, "room/:room", { rom: "a" });
    // @ts-expect-error no such option
    useTopic(client, "load", {}, { limit: 1 });
    // @ts-expect-error messages are replaced, never changed
    room.messages.push({ data: { text: "a", at: 1 }, offset: 1 });
  });
});
