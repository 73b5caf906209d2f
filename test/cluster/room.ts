// What the processes of a cluster under test offer: rooms to read, and a method to write into one.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

const place = z.object({ epoch: z.string(), offset: z.number() });

export const rooms = defineChannel({
  path: "/rooms",
  methods: {
    /** `key`: an idempotency key. */
    say: {
      params: z.object({ room: z.string(), id: z.number(), key: z.string().optional() }),
      result: place,
    },
    /** The same, under a key of its own, so that a client may send it again by itself. */
    sayOnce: { params: z.object({ room: z.string(), id: z.number() }), result: place, idempotent: true },
    look: {
      params: z.object({ room: z.string() }),
      result: z.object({
        position: place,
        newest: z.number().optional(),
        members: z.array(z.string()),
        /** Milliseconds that the slowest `say` of this process has taken since it was last asked. */
        slowest: z.number(),
        ok: z.boolean(),
      }),
      idempotent: true,
    },
  },
  topics: {
    "room/:room": {
      message: z.object({ id: z.number() }),
      history: { size: 100_000, ttl: 3_600 },
      presence: z.object({ name: z.string() }),
    },
  },
});
