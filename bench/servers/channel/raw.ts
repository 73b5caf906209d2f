// The yardstick: the same answers on Bun.serve itself, by JSON.parse and JSON.stringify alone. Nothing is validated.

import { path } from "../../contract.js";

interface Request {
  id: number | string;
  method: "say" | "count" | "$/ping";
  params: { room: string; text: string; to: number };
}

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  routes: {
    [path]: (request: Bun.BunRequest, server: Bun.Server<undefined>) =>
      server.upgrade(request) ? undefined : new Response("not a WebSocket handshake", { status: 400 }),
  },
  websocket: {
    message(ws, message) {
      const { id, method, params } = JSON.parse(message as string) as Request;
      if (method === "say") {
        const { room, text } = params;
        ws.send(JSON.stringify({ jsonrpc: "2.0", id, result: { room, text, offset: text.length } }));
        return;
      }
      // harpia's client takes a connection for open when it has an answer.
      if (method === "$/ping") return void ws.send(JSON.stringify({ jsonrpc: "2.0", id, result: "pong" }));
      for (let value = 0; value < params.to; value++) {
        ws.send(JSON.stringify({ jsonrpc: "2.0", method: "$/next", params: { id, value: "word " } }));
      }
      ws.send(JSON.stringify({ jsonrpc: "2.0", id, result: null }));
    },
  },
});
console.log(server.port);
