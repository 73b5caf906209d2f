// Opens, uses and closes connections by the thousand, and counts what is left of them in memory. The server is a
// process of its own, so that its heap holds nothing of the clients.

import { heapStats } from "bun:jsc";
import { harpia } from "harpia";

/** What is left after a round. */
export interface Left {
  connections: number;
  /** Live objects by what JavaScriptCore takes them for. */
  objects: Record<string, number>;
  /** Bytes of the JavaScript heap. */
  heap: number;
  /** Bytes of the whole process. */
  rss: number;
}

// JavaScriptCore counts the instances of JavaScript classes, harpia's sockets and lanes among them, as "Object";
// "ServerWebSocket" are Bun's own.
const CLASSES = [
  "Object",
  "ServerWebSocket",
  "BunRequest",
  "Headers",
  "Promise",
  "Array",
  "Function",
  "Timeout",
];

/** The server: echo, a topic, a param, an async open; asked over its standard input to count. */
export function serveSoak(): void {
  const app = harpia({ logger: false, maxConnections: 1_000_000 });
  app.ws("/room/:id", {
    concurrency: 4,
    async upgrade(_request, { token }) {
      return { token: token ?? "none", seen: [] as string[] };
    },
    async open(ws) {
      await Promise.resolve();
      ws.subscribe(ws.params.id);
    },
    async message(ws, message) {
      ws.data.seen.push(ws.id);
      await Promise.resolve();
      ws.send(message);
    },
  });
  console.log(app.listen({ port: 0 }).port);
  process.stdin.on("data", () => {
    Bun.gc(true);
    // A second one: what the first one finalised may have held more.
    setTimeout(() => {
      Bun.gc(true);
      const { objectTypeCounts, heapSize } = heapStats();
      const left: Left = {
        connections: app.websocket.connections.size,
        objects: Object.fromEntries(CLASSES.map((name) => [name, objectTypeCounts[name] ?? 0])),
        heap: heapSize,
        rss: process.memoryUsage().rss,
      };
      console.log(JSON.stringify(left));
    }, 50);
  });
}

/** Runs rounds of `count` connections, `width` at a time, and gives what was left after each. */
export async function soak(
  rounds: number,
  count: number,
  width: number,
  onRound?: (left: Left) => void,
): Promise<Left[]> {
  const child = Bun.spawn([process.execPath, import.meta.path], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const port = Number((await lines.read()).value);
  const all: Left[] = [];
  for (let round = 0; round < rounds; round++) {
    let next = 0;
    await Promise.all(
      Array.from({ length: width }, async () => {
        while (next < count) await useOne(port, next++);
      }),
    );
    let left: Left;
    do {
      child.stdin.write("count\n");
      await child.stdin.flush();
      left = JSON.parse((await lines.read()).value!) as Left;
    } while (left.connections > 0);
    all.push(left);
    onRound?.(left);
  }
  child.kill();
  await child.exited;
  return all;
}

/** One connection's life: a message there and back, then one of four ways to end. */
async function useOne(port: number, index: number): Promise<void> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/room/${index % 10}?token=t`);
  await new Promise<void>((resolve, reject) => {
    socket.onopen = () => socket.send("hello");
    socket.onerror = () => reject(new Error(`connection ${index} failed`));
    socket.onmessage = () => {
      if (index % 4 === 0) (socket as WebSocket & { terminate(): void }).terminate();
      else socket.close(1000 + (index % 4 === 1 ? 0 : 3000), "done");
    };
    socket.onclose = () => resolve();
  });
}

if (import.meta.main) serveSoak();
