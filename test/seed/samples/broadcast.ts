import { harpia } from "harpia";

const app = harpia();

// sample
app.ws("/notifications", {
  message(ws, message) {
    // Broadcast to all connected clients
    app.websocket.connections.forEach(client => {
      if (client.readyState === 1) { // 1 = OPEN
        client.send(message);
      }
    });
  }
});
// end

export { app };
