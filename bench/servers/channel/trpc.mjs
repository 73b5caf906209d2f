// tRPC's WebSocket adapter over ws, validated by zod.

import { createServer } from "node:http";
import { initTRPC } from "@trpc/server";
import { applyWSSHandler } from "@trpc/server/adapters/ws";
import { WebSocketServer } from "ws";
import { z } from "zod";

const t = initTRPC.create();
const router = t.router({
  say: t.procedure
    .input(z.object({ room: z.string().min(1).max(64), text: z.string().min(1).max(2_000) }))
    .output(z.object({ room: z.string(), text: z.string(), offset: z.number() }))
    .mutation(({ input: { room, text } }) => ({ room, text, offset: text.length })),
  count: t.procedure.input(z.object({ to: z.number() })).subscription(async function* ({ input: { to } }) {
    for (let value = 0; value < to; value++) yield "word ";
  }),
});

const http = createServer();
const wss = new WebSocketServer({ server: http });
wss.on("connection", (socket) => socket.on("error", () => {})); // the load generator leaves with a reset
applyWSSHandler({ wss, router });
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));
