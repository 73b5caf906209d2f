// Elysia on Bun: a WebSocket route with schemas in its own language for what comes and what goes.

import { Elysia, t } from "elysia";

const app = new Elysia()
  .ws("/channel", {
    body: t.Object({
      jsonrpc: t.Literal("2.0"),
      id: t.Number(),
      method: t.Literal("say"),
      params: t.Object({
        room: t.String({ minLength: 1, maxLength: 64 }),
        text: t.String({ minLength: 1, maxLength: 2_000 }),
      }),
    }),
    response: t.Object({
      jsonrpc: t.Literal("2.0"),
      id: t.Number(),
      result: t.Object({ room: t.String(), text: t.String(), offset: t.Number() }),
    }),
    message(ws, { id, params: { room, text } }) {
      ws.send({ jsonrpc: "2.0", id, result: { room, text, offset: text.length } });
    },
  })
  .listen({ port: 0, hostname: "127.0.0.1" });
console.log(app.server.port);
