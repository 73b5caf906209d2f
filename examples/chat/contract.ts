// What the chat's page and its server say to each other. Both import this file.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

/** A room's name in the URL: what needs no escaping in a path and reads well. */
export const ROOM = /^[a-z0-9-]{1,40}$/;
export const Name = z.string().trim().min(1).max(32);

const Room = z.string().regex(ROOM);
const Text = z.string().trim().min(1).max(2_000);
const Message = z.object({ from: Name, text: Text, at: z.number() });

export type Message = z.infer<typeof Message>;

export const chat = defineChannel({
  path: "/chat",
  methods: {
    /** To everybody in the room, oneself included. Said twice with one id it is said once, so it may be sent again. */
    say: {
      params: z.object({ room: Room, text: Text, id: z.uuid() }),
      result: z.object({ offset: z.number() }),
      errors: { SLOW_DOWN: z.object({ retryAfter: z.number() }) }, // milliseconds
      idempotent: true,
    },
    /** No result, so it can be sent and forgotten. */
    typing: { params: z.object({ room: Room }) },
    /** Waves at a member, and waits for what they do. */
    wave: {
      params: z.object({ to: Name }),
      result: z.enum(["waved back", "did not wave back", "is not there"]),
    },
    /** An answer, word by word. */
    ask: { params: z.object({ room: Room, question: Text }), stream: z.string() },
  },
  events: {
    /** The server has something to say to everybody. */
    notice: { params: z.object({ text: z.string() }) },
    /** With a result, the server asks and the page answers. */
    waved: { params: z.object({ from: Name }), result: z.boolean() },
  },
  topics: {
    /** What was said in the last week, in order, each once; and who is there. */
    "room/:room": {
      message: Message,
      history: { size: 1_000, ttl: 7 * 24 * 3600 },
      presence: z.object({ name: Name }),
    },
    /** Who is typing. Nobody needs to know it later: no history. */
    "typing/:room": { message: Name },
  },
});
