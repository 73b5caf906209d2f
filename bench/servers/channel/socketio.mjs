// Socket.IO on Node: an event with an acknowledgement, over its WebSocket transport. It has no validation.

import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("say", ({ room, text }, ack) => ack({ room, text, offset: text.length }));
});
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));
