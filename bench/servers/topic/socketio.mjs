// Socket.IO on Node, with connection state recovery, over its WebSocket transport.

import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], connectionStateRecovery: {} });
io.on("connection", (socket) => {
  socket.on("post", (message) => void io.emit("message", message));
  socket.on("subscribe", (room, ack) => {
    socket.join(room);
    ack(true);
  });
  socket.on("unsubscribe", (room, ack) => {
    socket.leave(room);
    ack(true);
  });
  socket.on("fill", (count, message, ack) => {
    for (let i = 0; i < count; i++) io.emit("message", message);
    ack(true);
  });
});
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));
