// The channel that the page and its server share.

import { defineChannel } from "harpia/contract";
import { z } from "zod";

export const chat = defineChannel({
  path: "/chat/:room",
  methods: {
    whoami: { result: z.string() },
    join: { params: z.object({ as: z.string() }) },
    never: {},
  },
  events: {
    said: { params: z.object({ text: z.string() }) },
    confirm: { params: z.object({ what: z.string() }), result: z.string() },
  },
});
