import { harpia } from "harpia";

const app = harpia();
const isValidToken = (token: string | undefined): boolean => token === "let me in";

// sample
app.ws("/secure", {
  open(ws) {
    if (!isValidToken(ws.data.token)) {
      ws.close(1008, "Invalid token");
    }
  }
});
// end

export { app };
