// The channel that is measured, once with each validator: a call with a room and a text, and a stream of words.

import { type } from "arktype";
import { defineChannel } from "harpia/contract";
import * as v from "valibot";
import { z } from "zod";

export const path = "/channel";

export const contracts = {
  zod: defineChannel({
    path,
    methods: {
      say: {
        params: z.object({ room: z.string().min(1).max(64), text: z.string().min(1).max(2_000) }),
        result: z.object({ room: z.string(), text: z.string(), offset: z.number() }),
      },
      count: { params: z.object({ to: z.number() }), stream: z.string() },
    },
  }),
  valibot: defineChannel({
    path,
    methods: {
      say: {
        params: v.object({
          room: v.pipe(v.string(), v.minLength(1), v.maxLength(64)),
          text: v.pipe(v.string(), v.minLength(1), v.maxLength(2_000)),
        }),
        result: v.object({ room: v.string(), text: v.string(), offset: v.number() }),
      },
      count: { params: v.object({ to: v.number() }), stream: v.string() },
    },
  }),
  arktype: defineChannel({
    path,
    methods: {
      say: {
        params: type({ room: "1 <= string <= 64", text: "1 <= string <= 2000" }),
        result: type({ room: "string", text: "string", offset: "number" }),
      },
      count: { params: type({ to: "number" }), stream: type("string") },
    },
  }),
};
