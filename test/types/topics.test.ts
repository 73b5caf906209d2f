// What the compiler promises of topics: their messages, members and errors follow from the contract on both ends.

import { expectTypeOf, test } from "bun:test";
import { harpia } from "harpia";
import { connect, type Member, type Message, type Position } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";

const chat = defineChannel({
  path: "/chat",
  topics: {
    "room/:room": {
      message: z.object({ text: z.string(), at: z.date().transform(Number) }),
      history: { size: 100, ttl: 3600 },
      presence: z.object({ name: z.string() }),
      errors: { FULL: z.object({ most: z.number() }) },
    },
    news: { message: z.string() },
    "game/:game/player/:player": { message: z.number(), history: { size: 1, ttl: 60 }, coalesce: true },
  },
});

/** Only compiled. */
const compiled = (_act: () => unknown): void => {};

const others = {
  news: { subscribe: "public" },
  "game/:game/player/:player": { subscribe: () => true },
} as const;

test("the server's side", () => {
  compiled(async () => {
    const live = harpia()
      .channel(chat, { upgrade: () => ({ user: "ada" }) })
      .implement({
        topics: {
          ...others,
          "room/:room": {
            async subscribe({ room }, { ws, error }) {
              expectTypeOf(room).toEqualTypeOf<string>();
              expectTypeOf(ws.data.user).toEqualTypeOf<string>();
              // @ts-expect-error its data has a number
              void error("FULL", { most: "7" });
              // @ts-expect-error no such error in the contract
              void error("FUL", { most: 7 });
              if (room === "full") throw error("FULL", { most: 7 });
              return true;
            },
            presence: {
              info: (_params, { ws }) => ({ name: ws.data.user }),
              key: (_params, { ws }) => ws.id,
            },
          },
          "game/:game/player/:player": {
            subscribe: (params) => {
              expectTypeOf(params).toEqualTypeOf<{ game: string; player: string }>();
              return true;
            },
          },
        },
      });
    const room = live.topic("room/:room", { room: "a" });
    // What goes in is what the schema takes; what comes out is what it makes of it.
    expectTypeOf(room.publish({ text: "hi", at: new Date() })).toEqualTypeOf<Promise<Position>>();
    expectTypeOf(live.topic("news").publish("hi")).toEqualTypeOf<Promise<void>>();
    const [message] = (await room.history({ last: 1 })).messages;
    expectTypeOf(message!.data).toEqualTypeOf<{ text: string; at: number }>();
    expectTypeOf(await room.members()).toEqualTypeOf<{ key: string; info: { name: string } }[]>();
    const [ws] = live.connections;
    void room.publish({ text: "hi", at: new Date() }, { except: ws!, idempotencyKey: "k" });
    void live.kick(ws!, "room/:room", { room: "a" });
    // @ts-expect-error at is a date here
    void room.publish({ text: "hi", at: 5 });
    // @ts-expect-error no such topic
    live.topic("rom/:room", { room: "a" });
    // @ts-expect-error the room is missing
    live.topic("room/:room");
    // @ts-expect-error it has no such param
    live.topic("room/:room", { rom: "a" });
    // @ts-expect-error a topic without params takes none
    live.topic("news", { room: "a" });
    // @ts-expect-error a page is after a position, before one, or the last
    void room.history({ limit: 5 });
  });
});

test("what is missing or wrong in an implementation is an error", () => {
  const presence = () => ({ name: "ada" });
  compiled(() => {
    const channel = harpia().channel(chat);
    // @ts-expect-error no topic is open by omission
    channel.implement({});
    // @ts-expect-error room is missing
    channel.implement({ topics: others });
    // @ts-expect-error subscribe is missing
    channel.implement({ topics: { ...others, "room/:room": { presence } } });
    // @ts-expect-error presence is missing
    channel.implement({ topics: { ...others, "room/:room": { subscribe: "public" } } });
    channel.implement({
      // @ts-expect-error subscribe is a function or "public"
      topics: { ...others, "room/:room": { subscribe: true, presence } },
    });
    channel.implement({
      // @ts-expect-error the info has a name
      topics: { ...others, "room/:room": { subscribe: "public", presence: () => ({}) } },
    });
    channel.implement({
      topics: { ...others, "room/:room": { subscribe: "public", presence: () => undefined } },
    });
  });
});

test("the client's side", () => {
  compiled(async () => {
    const client = connect(chat, { url: "ws://localhost" });
    const room = client.subscribe("room/:room", { room: "a" }, { last: 5 });
    for await (const message of room) {
      expectTypeOf(message).toEqualTypeOf<Message<{ text: string; at: number }>>();
      expectTypeOf(message.offset).toEqualTypeOf<number | undefined>();
    }
    room.on("message", ({ data }) => expectTypeOf(data.at).toEqualTypeOf<number>());
    room.on("state", (state) => expectTypeOf(state).toEqualTypeOf<"pending" | "live" | "ended">());
    expectTypeOf(room.presence.members).toEqualTypeOf<readonly Member<{ name: string }>[]>();
    room.presence.on("change", ([first]) => expectTypeOf(first!.info.name).toEqualTypeOf<string>());
    const { messages } = await room.history({ limit: 5 });
    expectTypeOf(messages[0]!.data.text).toEqualTypeOf<string>();
    expectTypeOf(room.position).toEqualTypeOf<Position | undefined>();
    for await (const { data } of client.subscribe("news")) expectTypeOf(data).toEqualTypeOf<string>();
    client.subscribe("news", undefined, { after: { epoch: "e", offset: 1 } });
    // @ts-expect-error no such topic
    client.subscribe("new");
    // @ts-expect-error the player is missing
    client.subscribe("game/:game/player/:player", { game: "a" });
    // @ts-expect-error a position has an epoch
    client.subscribe("room/:room", { room: "a" }, { after: { offset: 1 } });
    // @ts-expect-error no such event
    room.on("messages", () => {});
    // @ts-expect-error without presence there is nobody with a name
    void client.subscribe("news").presence.members[0]!.info.name;
  });
});
