// Subscribers spread over several nodes, and publications that all of them must get, in order: once spaced out, for the
// time that each takes, and once as many as go, with 16 under way.

import { once } from "node:events";
import { contract, MESSAGE } from "../topic.js";

const { PORTS = "", PROTOCOL, SECONDS = "3", SUBSCRIBERS = "200" } = process.env;
const SPACED = 300;
const SPACE_MS = 5;
const UNDER_WAY = 16;
const ports = PORTS.split(",").map(Number);
const isSocketIo = PROTOCOL === "socketio";

interface Publication {
  sentAt: number;
  got: number;
}

const publications: Publication[] = [];
const latencies: number[] = [];
let complete = 0;
let completed: () => void = () => {};

const sockets = await Promise.all(
  Array.from({ length: Number(SUBSCRIBERS) }, (_, index) => open(ports[index % ports.length]!)),
);

/** What is published comes from a client of the first node; who is on another node tells how long it took. */
async function open(port: number): Promise<WebSocket> {
  const path = isSocketIo ? "/socket.io/?EIO=4&transport=websocket" : contract.path;
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`);
  const ready = Promise.withResolvers<void>();
  let next = 0;
  socket.onmessage = ({ data }) => {
    const text = data as string;
    const at = text.indexOf('"text":"');
    if (at < 0) {
      if (text === "2") socket.send("3");
      else if (text.startsWith("0{")) socket.send("40");
      else if (text.startsWith("40") || text.includes('"result"')) ready.resolve();
      return;
    }
    const number = Number.parseInt(text.slice(at + 8));
    if (number !== next) throw new Error(`publication ${number} came where ${next} was due`);
    next++;
    const publication = publications[number]!;
    if (port !== ports[0] || ports.length === 1) latencies.push(performance.now() - publication.sentAt);
    if (++publication.got < sockets.length) return;
    complete++;
    completed();
  };
  await once(socket, "open");
  if (!isSocketIo) socket.send('{"jsonrpc":"2.0","id":1,"method":"$/subscribe","params":{"topic":"room"}}');
  await ready.promise;
  return socket;
}

function publish(): void {
  const message = { ...MESSAGE, text: `${publications.length} ${MESSAGE.text}` };
  publications.push({ sentAt: performance.now(), got: 0 });
  const params = JSON.stringify(message);
  sockets[0]!.send(
    isSocketIo ? `42["post",${params}]` : `{"jsonrpc":"2.0","method":"post","params":${params}}`,
  );
}

async function allComplete(): Promise<void> {
  while (complete < publications.length) await new Promise<void>((resolve) => (completed = resolve));
}

async function spaced(): Promise<object> {
  // Compilers warm up in the first hundred.
  for (let count = 0; count < SPACED + 100; count++) {
    if (count === 100) {
      await allComplete();
      latencies.length = 0;
    }
    publish();
    await Bun.sleep(SPACE_MS);
  }
  await allComplete();
  latencies.sort((a, b) => a - b);
  const at = (part: number): number => latencies[Math.floor(latencies.length * part)]!;
  return { p50: at(0.5), p99: at(0.99) };
}

async function atOnce(): Promise<object> {
  const before = complete;
  const began = performance.now();
  while (performance.now() - began < Number(SECONDS) * 1_000) {
    while (publications.length - complete < UNDER_WAY) publish();
    await new Promise<void>((resolve) => (completed = resolve));
  }
  await allComplete();
  return { count: complete - before, seconds: (performance.now() - began) / 1_000 };
}

console.log("READY");
const steps = [spaced, atOnce];
for await (const _line of console) {
  console.log(JSON.stringify(await steps.shift()!()));
  if (steps.length === 0) process.exit();
}
