import { harpia } from "harpia";

const app = harpia();
app.ws("/", { open: (ws) => void ws.send(ws.url) });

// sample
app.listen({
  port: 3000,
  tls: {
    key: Bun.file("/path/to/key.pem"),
    cert: Bun.file("/path/to/cert.pem")
  }
});
// end

export { app };
