// A bare WebSocket, whose frames are awaited one by one and must begin as they should. It speaks harpia's channels, or
// the opening of Socket.IO.

import { contract } from "../topic.js";

const { PORT, PROTOCOL } = process.env;

export interface LoadSocket {
  send(text: string): void;
  /** The next frame. */
  next(prefix: string): Promise<string>;
  close(): void;
  /** What Socket.IO's server said to the greeting. */
  readonly greeting: string;
  /** How many frames came before it: what a recovered session has missed. */
  readonly missed: number;
}

/** @param auth what Socket.IO's client says in its greeting. */
export async function openSocket(auth = ""): Promise<LoadSocket> {
  const isSocketIo = PROTOCOL === "socketio";
  const path = isSocketIo ? "/socket.io/?EIO=4&transport=websocket" : contract.path;
  const raw = new WebSocket(`ws://127.0.0.1:${PORT}${path}`);
  const frames: string[] = [];
  let waiting: (() => void) | undefined;
  let closed = false;
  raw.onmessage = ({ data }) => {
    if (data === "2") return raw.send("3"); // Engine.IO asks whether we live
    frames.push(data as string);
    waiting?.();
  };
  raw.onclose = () => {
    closed = true;
    waiting?.();
  };
  const next = async (prefix: string): Promise<string> => {
    while (frames.length === 0) {
      if (closed) throw new Error("the server closed a connection");
      await new Promise<void>((resolve) => (waiting = resolve));
    }
    const frame = frames.shift()!;
    if (!frame.startsWith(prefix)) throw new Error(`the server sent ${frame.slice(0, 200)}, not ${prefix}`);
    return frame;
  };
  let greeting = "";
  let missed = 0;
  if (isSocketIo) {
    await next("0");
    raw.send(`40${auth}`);
    while (!(greeting = await next("4")).startsWith("40")) missed++;
  } else {
    await new Promise<void>((resolve, reject) => {
      raw.onopen = () => resolve();
      raw.onerror = () => reject(new Error("the server refused a connection"));
    });
  }
  return { send: (text) => raw.send(text), next, close: () => raw.close(), greeting, missed };
}
