// The channel of the topics that the page and its server share.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

export const rooms = defineChannel({
  path: "/rooms",
  topics: {
    "room/:room": {
      message: z.object({ room: z.string(), text: z.string() }),
      history: { size: 10_000, ttl: 3600 },
      presence: z.object({ name: z.string() }),
    },
    /** Nobody is present: only messages make a component render. */
    "feed/:room": {
      message: z.object({ room: z.string(), text: z.string() }),
      history: { size: 10_000, ttl: 3600 },
    },
    "secret/:room": { message: z.object({ room: z.string(), text: z.string() }) },
  },
});
