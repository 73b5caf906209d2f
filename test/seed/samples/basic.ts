import { harpia } from "harpia";

// sample
type ConnectionData = {
  userId: string;
  username: string;
  sessionId: string;
};
const app = harpia();
app.ws<ConnectionData>("/chat", {
  open(ws) {
    // Connection established
    ws.data.userId = "123"; // Set custom data
    ws.send("Welcome to the chat!");
  },

  message(ws, message) {
    // Handle incoming messages
    console.log(`Message from ${ws.data.username}:`, message);
  },

  close(ws) {
    // Connection closed
    console.log(`${ws.data.username} disconnected`);
  },

  error(ws, error) {
    // Handle errors
    console.error("WebSocket error:", error);
  }
});
// end

export { app };
