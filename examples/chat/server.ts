// The chat demo: rooms by URL, who is there and what they said, live and kept. Run it with `npm start`.

import { type Broker, BrokerError, type Harpia, harpia, HarpiaError } from "harpia";
import { sqlite } from "harpia/sqlite";
import { answer } from "./answer.js";
import { chat, Name, ROOM } from "./contract.js";
import page from "./index.html";

/** Milliseconds in which a person has to wave back. */
const WAVE_MS = 20_000;
/** So many messages may be said in so many milliseconds. */
const PACE = { messages: 5, per: 5_000 };

export interface Chat {
  app: Harpia;
  port: number;
  /** Tells everybody, and stops; the pages come back by themselves. */
  restart(): Promise<void>;
}

/** @param broker Where what was said is kept; by default in memory. */
export function startChat({ port, broker }: { port: number; broker?: Broker }): Chat {
  const app = harpia(broker ? { broker } : {});

  const live = app
    .channel(chat, {
      // The name stands for a token here: everybody is who they say they are. A real app verifies one.
      upgrade(_request, { token }) {
        const name = Name.safeParse(token);
        if (!name.success) return new Response("A name has 1 to 32 characters.\n", { status: 400 });
        return { name: name.data, said: [] as number[] };
      },
    })
    .implement({
      methods: {
        async say({ room, text, id }, { ws, error }) {
          const at = Date.now();
          const said = ws.data.said.filter((then) => then > at - PACE.per);
          if (said.length >= PACE.messages)
            throw error("SLOW_DOWN", { retryAfter: said[0]! + PACE.per - at });
          ws.data.said = [...said, at];
          const message = { from: ws.data.name, text, at };
          return await live.topic("room/:room", { room }).publish(message, { idempotencyKey: id });
        },
        async typing({ room }, { ws }) {
          await live.topic("typing/:room", { room }).publish(ws.data.name, { except: ws });
        },
        async wave({ to }, { ws }) {
          const other = [...live.connections].find(({ data }) => data.name === to);
          if (!other) return "is not there";
          try {
            const back = await live.ask(other, "waved", { from: ws.data.name }, { timeout: WAVE_MS });
            return back ? "waved back" : "did not wave back";
          } catch {
            return "is not there"; // gone, or looking elsewhere
          }
        },
        async *ask({ room, question }, { signal }) {
          const members = await live.topic("room/:room", { room }).members();
          yield* answer(
            question,
            members.map(({ info }) => info.name),
            signal,
          );
        },
      },
      topics: {
        "room/:room": {
          subscribe: ({ room }) => ROOM.test(room),
          // One person in several tabs is one member.
          presence: {
            key: (_params, { ws }) => ws.data.name,
            info: (_params, { ws }) => ({ name: ws.data.name }),
          },
        },
        "typing/:room": { subscribe: ({ room }) => ROOM.test(room) },
      },
    });

  const server = app.listen({ port, routes: { "/": page, "/room/:room": page, "/healthz": app.healthz } });
  return {
    app,
    port: server.port!,
    async restart() {
      await live.broadcast("notice", { text: "The server restarts. You will be back in a moment." });
      await app.stop({ restart: true, timeout: 2_000 });
    },
  };
}

if (import.meta.main) {
  try {
    const broker = sqlite(process.env.CHAT_DB ?? "./data/chat.db");
    const chat = startChat({ port: Number(process.env.PORT ?? 3000), broker });
    console.log(`http://localhost:${chat.port}`);
    for (const signal of ["SIGINT", "SIGTERM"])
      process.once(signal, () => void chat.restart().then(() => process.exit(0)));
  } catch (error) {
    if (!(error instanceof HarpiaError || error instanceof BrokerError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}
