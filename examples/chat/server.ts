// The chat demo: rooms by URL, who is there and what they say, live. Run it with `npm start`.

import { type Harpia, harpia, HarpiaError } from "harpia";
import { answer } from "./answer.js";
import { chat, type Member, Name, ROOM } from "./contract.js";
import page from "./index.html";

/** Milliseconds in which a person has to wave back. */
const WAVE_MS = 20_000;
/** So many messages may be said in so many milliseconds. */
const PACE = { messages: 5, per: 5_000 };

export function startChat({ port }: { port: number }): { app: Harpia; port: number } {
  const app = harpia();

  const live = app
    .channel(chat, {
      // The name stands for a token here: everybody is who they say they are. A real app verifies one.
      upgrade(_request, { params, token }) {
        const name = Name.safeParse(token);
        if (!name.success) return new Response("A name has 1 to 32 characters.\n", { status: 400 });
        if (!ROOM.test(params.room))
          return new Response("A room is named by a-z, 0-9 and -.\n", { status: 400 });
        return { name: name.data, said: [] as number[] };
      },
      async open(ws) {
        const members = inRoom(ws.params.room).map(memberOf);
        await live.emit(ws, "welcome", { you: memberOf(ws), members });
        for (const other of others(ws)) await live.emit(other, "joined", memberOf(ws));
      },
      async close(ws) {
        for (const other of others(ws)) await live.emit(other, "left", memberOf(ws));
      },
    })
    .implement({
      methods: {
        async say({ text }, { ws, error }) {
          const at = Date.now();
          const said = ws.data.said.filter((then) => then > at - PACE.per);
          if (said.length >= PACE.messages)
            throw error("SLOW_DOWN", { retryAfter: said[0]! + PACE.per - at });
          ws.data.said = [...said, at];
          const message = { from: memberOf(ws), text, at };
          for (const each of inRoom(ws.params.room)) await live.emit(each, "said", message);
          return { at };
        },
        async typing(_params, { ws }) {
          for (const other of others(ws)) await live.emit(other, "typing", memberOf(ws));
        },
        async wave({ to }, { ws }) {
          const other = others(ws).find(({ id }) => id === to);
          if (!other) return "is not there";
          try {
            const back = await live.ask(other, "waved", { from: memberOf(ws) }, { timeout: WAVE_MS });
            return back ? "waved back" : "did not wave back";
          } catch {
            return "is not there"; // gone, or looking elsewhere
          }
        },
        ask: ({ question }, { ws, signal }) =>
          answer(
            question,
            inRoom(ws.params.room).map(({ data }) => data.name),
            signal,
          ),
      },
    });

  // A room is the connections that asked for it.
  const inRoom = (room: string) => [...live.connections].filter(({ params }) => params.room === room);
  const others = (ws: { id: string; params: { room: string } }) =>
    inRoom(ws.params.room).filter(({ id }) => id !== ws.id);

  const server = app.listen({ port, routes: { "/": page, "/room/:room": page } });
  return { app, port: server.port! };
}

function memberOf({ id, data }: { id: string; data: { name: string } }): Member {
  return { id, name: data.name };
}

if (import.meta.main) {
  try {
    const { app, port } = startChat({ port: Number(process.env.PORT ?? 3000) });
    console.log(`http://localhost:${port}`);
    for (const signal of ["SIGINT", "SIGTERM"]) {
      process.once(
        signal,
        () => void app.stop({ restart: true, timeout: 2_000 }).then(() => process.exit(0)),
      );
    }
  } catch (error) {
    if (!(error instanceof HarpiaError)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}
