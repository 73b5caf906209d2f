// The yardstick: what harpia's subscribers get, by Bun's own publish. Nothing is parsed, checked or kept.

import { contract, MESSAGE } from "../../topic.js";

const DATA = JSON.stringify(MESSAGE);
let offset = 0;
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch: (request, server) =>
    server.upgrade(request) ? undefined : new Response("not a WebSocket handshake", { status: 400 }),
  websocket: {
    open: (ws) => void ws.subscribe(contract.path),
    message(ws, message) {
      if ((message as string).includes("$/subscribe")) return void ws.send("true");
      server.publish(
        contract.path,
        `{"jsonrpc":"2.0","method":"$/message","params":{"topic":"room","epoch":"AAAAAAAA","offset":${++offset},"data":${DATA}}}`,
      );
    },
  },
});
console.log(server.port);
