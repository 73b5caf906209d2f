// The yardstick: a bare WebSocket, JSON by hand, and a Map of who waits for which id.

import { path } from "../contract.js";
import { takeTurns } from "./turns.js";

interface Answer {
  id: number;
  result: { offset: number };
}

const socket = new WebSocket(`${process.env.URL}${path}`);
const waiting = new Map<number, (result: Answer["result"]) => void>();
let lastId = 0;
socket.onmessage = ({ data }) => {
  const { id, result } = JSON.parse(data as string) as Answer;
  waiting.get(id)!(result);
  waiting.delete(id);
};
await new Promise((resolve) => (socket.onopen = resolve));
await takeTurns(
  (params) =>
    new Promise((resolve) => {
      const id = ++lastId;
      waiting.set(id, resolve);
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, method: "say", params }));
    }),
);
