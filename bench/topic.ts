// The channel whose topic is measured: whoever subscribes to the room gets what is posted there.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

const Message = z.object({ from: z.string().min(1).max(64), text: z.string().min(1).max(2_000) });

export const contract = defineChannel({
  path: "/topic",
  methods: { post: { params: Message } },
  topics: {
    room: { message: Message, history: { size: 1_000, ttl: 3_600 } },
  },
});

/** What is published, always. */
export const MESSAGE = { from: "someone", text: "x".repeat(64) };
