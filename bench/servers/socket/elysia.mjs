// Elysia on Bun.

import { Elysia } from "elysia";

const app = new Elysia()
  .get("/gc", () => {
    Bun.gc(true);
    return "";
  })
  .ws("/echo", { message: (ws, message) => void ws.send(message) })
  .ws("/broadcast", {
    open: (ws) => void ws.subscribe("all"),
    message: (_ws, message) => void app.server.publish("all", message),
  })
  .ws("/idle", {})
  .ws("/r/0", {})
  .listen({ port: 0, hostname: "127.0.0.1" });
console.log(app.server.port);
