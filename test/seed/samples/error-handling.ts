import { harpia } from "harpia";

const app = harpia();

// sample
app.ws("/reliable", {
  message(ws, message) {
    try {
      // Process message
    } catch (error) {
      ws.send("Error processing message");
      ws.close(1011, "Processing error");
    }
  }
});
// end

export { app };
