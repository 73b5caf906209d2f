// ws on Node.

import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const broadcast = process.env.MODE === "broadcast";
const http = createServer((_request, response) => {
  globalThis.gc?.();
  response.end();
});
const server = new WebSocketServer({ server: http });
server.on("connection", (socket) => {
  socket.on("error", () => {}); // the load generator leaves with a reset
  socket.on("message", (data, isBinary) => {
    if (!broadcast) return socket.send(data, { binary: isBinary });
    for (const client of server.clients) client.send(data, { binary: isBinary });
  });
});
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));
