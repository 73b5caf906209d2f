// Hono on Bun.

import { Hono } from "hono";
import { upgradeWebSocket, websocket } from "hono/bun";

const app = new Hono()
  .get("/gc", (context) => {
    Bun.gc(true);
    return context.text("");
  })
  .get(
    "/echo",
    upgradeWebSocket(() => ({ onMessage: (event, ws) => ws.send(event.data) })),
  )
  .get(
    "/broadcast",
    upgradeWebSocket(() => ({
      onOpen: (_event, ws) => ws.raw.subscribe("all"),
      onMessage: (event) => server.publish("all", event.data),
    })),
  )
  .get(
    "/idle",
    upgradeWebSocket(() => ({})),
  )
  .get(
    "/r/0",
    upgradeWebSocket(() => ({})),
  );
const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: app.fetch, websocket });
console.log(server.port);
