// What the chat's page and its server say to each other. Both import this file.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

/** A room's name in the URL: what needs no escaping in a path and reads well. */
export const ROOM = /^[a-z0-9-]{1,40}$/;
export const Name = z.string().trim().min(1).max(32);

const Text = z.string().trim().min(1).max(2_000);
const Member = z.object({ id: z.string(), name: Name });
const Message = z.object({ from: Member, text: Text, at: z.number() });

export type Member = z.infer<typeof Member>;
export type Message = z.infer<typeof Message>;

export const chat = defineChannel({
  path: "/chat/:room",
  methods: {
    /** To everybody in the room, oneself included. */
    say: {
      params: z.object({ text: Text }),
      result: z.object({ at: z.number() }),
      errors: { SLOW_DOWN: z.object({ retryAfter: z.number() }) }, // milliseconds
    },
    /** No result, so it can be sent and forgotten. */
    typing: {},
    /** Waves at a member, and waits for what they do. */
    wave: {
      params: z.object({ to: z.string() }),
      result: z.enum(["waved back", "did not wave back", "is not there"]),
    },
    /** An answer, word by word. */
    ask: { params: z.object({ question: Text }), stream: z.string() },
  },
  events: {
    /** The first thing that a connection hears. */
    welcome: { params: z.object({ you: Member, members: z.array(Member) }) },
    joined: { params: Member },
    left: { params: Member },
    said: { params: Message },
    typing: { params: Member },
    /** With a result, the server asks and the page answers. */
    waved: { params: z.object({ from: Member }), result: z.boolean() },
  },
});
