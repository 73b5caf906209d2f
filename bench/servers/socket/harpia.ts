// harpia, with its defaults: origin check, heartbeat, error policy and counters are on.

import { harpia } from "harpia";

const { ROUTES = "1" } = process.env;

const app = harpia();
app.ws("/echo", {
  message(ws, message) {
    ws.send(message);
  },
});
app.ws("/broadcast", {
  open(ws) {
    ws.subscribe("all");
  },
  message(_ws, message) {
    app.publish("all", message);
  },
});
app.ws("/idle", {});
for (let route = 0; route < Number(ROUTES); route++) app.ws(`/r/${route}`, {});

const gc = () => {
  Bun.gc(true);
  return new Response();
};
console.log(app.listen({ port: 0, hostname: "127.0.0.1", routes: { "/gc": gc } }).port);
