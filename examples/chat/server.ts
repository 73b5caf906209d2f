// The chat demo: rooms by URL, who is there and what they say, live. Run it with `npm start`.

import { type Harpia, harpia, HarpiaError } from "harpia";
import page from "./index.html";
import {
  type ClientMessage,
  type Member,
  NAME_LENGTH,
  ROOM,
  type ServerMessage,
  TEXT_LENGTH,
} from "./protocol.js";

export function startChat({ port }: { port: number }): { app: Harpia; port: number } {
  const app = harpia();
  const rooms = new Map<string, Map<string, Member>>();

  app.ws("/socket/:room", {
    rateLimit: { messages: 10, per: 5_000 },
    upgrade(_request, { params, url }) {
      const name = new URL(url).searchParams.get("name")?.trim() ?? "";
      if (!ROOM.test(params.room))
        return new Response("A room is named by a-z, 0-9 and -.\n", { status: 400 });
      if (name === "" || name.length > NAME_LENGTH) {
        return new Response(`A name has 1 to ${NAME_LENGTH} characters.\n`, { status: 400 });
      }
      return { member: { id: crypto.randomUUID(), name } };
    },
    open(ws) {
      const { member } = ws.data;
      const members = rooms.get(ws.params.room) ?? new Map<string, Member>();
      rooms.set(ws.params.room, members.set(member.id, member));
      ws.send(encode({ type: "welcome", you: member, members: [...members.values()] }));
      ws.subscribe(ws.params.room);
      ws.publish(ws.params.room, encode({ type: "joined", member })); // to all but this one
    },
    message(ws, message) {
      const text = textOf(message);
      if (text === undefined) {
        ws.send(encode({ type: "refused", reason: `Say something of 1 to ${TEXT_LENGTH} characters.` }));
        return;
      }
      app.publish(ws.params.room, encode({ type: "said", from: ws.data.member, text, at: Date.now() })); // to all
    },
    close(ws) {
      const { member } = ws.data;
      const members = rooms.get(ws.params.room);
      members?.delete(member.id);
      if (members?.size === 0) rooms.delete(ws.params.room);
      app.publish(ws.params.room, encode({ type: "left", member }));
    },
  });

  const server = app.listen({ port, routes: { "/": page, "/room/:room": page } });
  return { app, port: server.port! };
}

function encode(message: ServerMessage): string {
  return JSON.stringify(message);
}

/** What somebody wants to say; `undefined` if the message is not one of ours. */
function textOf(message: string | Buffer): string | undefined {
  if (typeof message !== "string") return undefined;
  try {
    const { type, text } = JSON.parse(message) as Partial<ClientMessage>;
    if (type !== "say" || typeof text !== "string") return undefined;
    const said = text.trim();
    return said === "" || said.length > TEXT_LENGTH ? undefined : said;
  } catch {
    return undefined;
  }
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
