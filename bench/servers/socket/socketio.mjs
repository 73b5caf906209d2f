// Socket.IO on Node, over its WebSocket transport.

import { createServer } from "node:http";
import { Server } from "socket.io";

const broadcast = process.env.MODE === "broadcast";
const http = createServer((_request, response) => {
  globalThis.gc?.();
  response.end();
});
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("m", (data) => void (broadcast ? io : socket).emit("m", data));
});
http.listen(0, "127.0.0.1", 4096, () => console.log(http.address().port));
