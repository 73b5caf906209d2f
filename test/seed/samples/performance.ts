import { harpia } from "harpia";

const app = harpia();

// sample
app.ws("/high-volume", {
  drain(ws) {
    // Handle backpressure when send buffer is full
    console.log("Client receive buffer full");
  }
});
// end

export { app };
