// Many clients that lose their server together: it is a process of its own, is stopped as for a deployment (1012), and
// another takes its place, which has published before they are back. What each of them has seen is counted here.

import { join } from "node:path";
import { harpia } from "harpia";
import { connect } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { sqlite } from "harpia/sqlite";
import { z } from "zod";

const contract = defineChannel({
  path: "/resume",
  topics: { "room/:room": { message: z.number(), history: { size: 1_000, ttl: 3_600 } } },
});

const ROOMS = 10;
/** Published to each room before the restart, and after. */
const BEFORE = 3;
const MISSED = 20;
const AT_ONCE = 200;

export interface Resumed {
  /** Clients that were handed exactly what they missed, in order. */
  recovered: number;
  /** Clients that were told exactly one reset, and nothing that was before it. */
  resetOnce: number;
  /** From the command to stop until the last one had everything. */
  seconds: number;
  /** In the fullest second, as the server counted them. */
  peakHandshakes: number;
}

/**
 * @param broker `memory`, or the path of an SQLite file.
 * @param hurry Tell all clients that they are online again, as soon as there is a server: no jitter.
 */
export async function resume(count: number, broker: string, hurry: boolean): Promise<Resumed> {
  let server = await startServer(broker, 0);
  const url = `ws://127.0.0.1:${server.port}`;
  const seen: { resets: number; handed: number[] }[] = [];
  const clients: Disposable[] = [];
  const caughtUp = new Set<number>();
  const all = Promise.withResolvers<void>();
  const last = BEFORE + MISSED;
  try {
    for (let start = 0; start < count; start += AT_ONCE) {
      const live: Promise<void>[] = [];
      for (let index = start; index < Math.min(count, start + AT_ONCE); index++) {
        const client = connect(contract, { url, timeout: 60_000 });
        const subscription = client.subscribe("room/:room", { room: String(index % ROOMS) });
        const mine = { resets: 0, handed: [] as number[] };
        seen.push(mine);
        clients.push(client);
        const look = (): void => {
          const { position, state } = subscription;
          const end = broker === "memory" ? MISSED : last;
          if (state !== "live" || position?.offset !== end || mine.handed.length + mine.resets === 0) return;
          caughtUp.add(index);
          if (caughtUp.size === count) all.resolve();
        };
        live.push(
          new Promise((resolve) => {
            subscription.on("state", (state) => {
              if (state === "live") resolve();
              queueMicrotask(look); // the page that comes with it is handed over first
            });
          }),
        );
        subscription.on("message", ({ data }) => {
          mine.handed.push(data);
          look();
        });
        subscription.on("reset", () => mine.resets++);
      }
      await Promise.all(live);
    }
    const begun = performance.now();
    await server.stop();
    server = await startServer(broker, server.port);
    if (hurry) globalThis.dispatchEvent(new Event("online"));
    await all.promise;
    const seconds = (performance.now() - begun) / 1000;
    const missed = Array.from({ length: MISSED }, (_, index) => BEFORE + index + 1).join();
    return {
      recovered: seen.filter(({ resets, handed }) => resets === 0 && handed.join() === missed).length,
      resetOnce: seen.filter(({ resets, handed }) => resets === 1 && handed.length === 0).length,
      seconds,
      peakHandshakes: await server.peak(),
    };
  } finally {
    for (const client of clients) client[Symbol.dispose]();
    await server.kill();
  }
}

interface Server {
  port: number;
  stop(): Promise<void>;
  peak(): Promise<number>;
  kill(): Promise<void>;
}

async function startServer(broker: string, port: number): Promise<Server> {
  const child = Bun.spawn([process.execPath, import.meta.path, broker, String(port)], {
    cwd: join(import.meta.dir, "../.."),
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const line = async (): Promise<number> => Number((await lines.read()).value);
  const say = (what: string): void => {
    child.stdin.write(what);
    child.stdin.flush();
  };
  return {
    port: await line(),
    async stop() {
      say("stop");
      await child.exited;
    },
    async peak() {
      say("peak");
      return await line();
    },
    async kill() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

/** The server: publishes, listens, and then does what it is told on its standard input. */
async function serve(broker: string, port: number): Promise<void> {
  const app = harpia({ logger: false, ...(broker === "memory" ? {} : { broker: sqlite(broker) }) });
  const handshakes = new Map<number, number>();
  const live = app
    .channel(contract, {
      upgrade() {
        const second = Math.floor(performance.now() / 1000);
        handshakes.set(second, (handshakes.get(second) ?? 0) + 1);
        return {};
      },
    })
    .implement({ topics: { "room/:room": { subscribe: "public" } } });
  const count = port === 0 ? BEFORE : MISSED;
  for (let room = 0; room < ROOMS; room++) {
    const topic = live.topic("room/:room", { room: String(room) });
    const { offset } = await topic.history({ last: 1 });
    for (let number = 1; number <= count; number++) await topic.publish(offset + number);
  }
  console.log(app.listen({ port, hostname: "127.0.0.1" }).port);
  process.stdin.on("data", (command) => {
    if (String(command) === "peak") console.log(Math.max(...handshakes.values()));
    else void app.stop({ restart: true, timeout: 30_000 }).then(() => process.exit(0));
  });
}

if (import.meta.main) await serve(process.argv[2]!, Number(process.argv[3]));
