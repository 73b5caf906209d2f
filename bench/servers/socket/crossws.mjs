// crossws on Bun: one set of hooks, so the mode decides what they do.

import crossws from "crossws/adapters/bun";

const broadcast = process.env.MODE === "broadcast";
const ws = crossws({
  hooks: {
    open(peer) {
      if (broadcast) peer.subscribe("all");
    },
    message(peer, message) {
      if (broadcast) ws.publish("all", message.text());
      else peer.send(message.text());
    },
  },
});
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  websocket: ws.websocket,
  fetch(request, server) {
    if (request.headers.get("upgrade") === "websocket") return ws.handleUpgrade(request, server);
    Bun.gc(true);
    return new Response();
  },
});
console.log(server.port);
