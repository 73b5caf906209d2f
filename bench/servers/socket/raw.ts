// The yardstick: the same handlers on Bun.serve itself.

const { MODE = "echo", ROUTES = "1" } = process.env;

const upgrade = (request: Request, server: Bun.Server<undefined>): Response | undefined =>
  server.upgrade(request) ? undefined : new Response("not a WebSocket handshake", { status: 400 });

const routes: Record<string, typeof upgrade | (() => Response)> = {
  "/echo": upgrade,
  "/broadcast": upgrade,
  "/idle": upgrade,
  "/gc": () => {
    Bun.gc(true);
    return new Response();
  },
};
for (let route = 0; route < Number(ROUTES); route++) routes[`/r/${route}`] = upgrade;

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  routes: routes as Record<string, typeof upgrade>,
  fetch: () => new Response("Not found", { status: 404 }),
  websocket: {
    open: MODE === "broadcast" ? (ws) => void ws.subscribe("all") : undefined,
    message:
      MODE === "broadcast"
        ? (_ws, message) => void server.publish("all", message)
        : (ws, message) => void ws.send(message),
  },
});
console.log(server.port);
