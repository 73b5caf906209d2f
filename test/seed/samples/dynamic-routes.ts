import { harpia } from "harpia";

const app = harpia();

// sample
app.ws("/room/:roomId", {
  open(ws) {
    const roomId = new URL(ws.data.url).pathname.split("/")[2];
    ws.data.roomId = roomId; // Store dynamic parameter
  }
});
// end

export { app };
