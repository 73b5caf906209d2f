// Socket.IO on Node, over its WebSocket transport: with connection state recovery, in memory or on Redis Streams; or on
// Redis pub/sub, which has none. ADAPTER says which.

import { createServer } from "node:http";
import { Server } from "socket.io";

const { ADAPTER = "memory" } = process.env;

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  ...(ADAPTER !== "pubsub" && { connectionStateRecovery: {} }),
  ...(ADAPTER !== "memory" && { adapter: await redisAdapter() }),
});
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

async function redisAdapter() {
  const { createClient } = await import("redis");
  const client = await createClient({ url: process.env.REDIS_URL }).connect();
  if (ADAPTER === "streams") {
    const { createAdapter } = await import("@socket.io/redis-streams-adapter");
    return createAdapter(client);
  }
  const { createAdapter } = await import("@socket.io/redis-adapter");
  return createAdapter(client, await client.duplicate().connect());
}
