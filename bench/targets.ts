// Who is measured: how each server or client is started, and what a call looks like on its wire.

import { join } from "node:path";
import { path } from "./contract.js";
import { contract as topic, MESSAGE } from "./topic.js";

const BUN = process.execPath;
/** Pinned by bench/package.json, so that it is the same one however the benchmark is started. */
export const NODE = join(import.meta.dir, "node_modules/node/bin/node");

export interface Target {
  /** What is started, after the runtime. */
  script: string;
  on: "bun" | "node";
  env?: Record<string, string>;
  /** The npm package; its version is recorded. harpia and raw Bun have none. */
  package?: string;
  wire?: Wire;
}

/** What the load generator needs to know of a server's protocol. `######` stands for an id. */
export interface Wire {
  /** Default: the workload's own. */
  path?: string;
  socketio?: true;
  call?: { request: string; answer: string };
  stream?: { request: string; start?: string; value: string; end: string };
  /** How what is published begins; the rest is not the same each time. */
  publish?: { request: string; prefix: string; hello?: string };
}

/** Servers of bare sockets; the mode of the workload is their path. */
const SOCKET: Record<string, Target> = {
  raw: { script: "servers/socket/raw.ts", on: "bun" },
  harpia: { script: "servers/socket/harpia.ts", on: "bun" },
  crossws: { script: "servers/socket/crossws.mjs", on: "bun", package: "crossws" },
  elysia: { script: "servers/socket/elysia.mjs", on: "bun", package: "elysia" },
  hono: { script: "servers/socket/hono.mjs", on: "bun", package: "hono" },
  ws: { script: "servers/socket/ws.mjs", on: "node", package: "ws" },
  "socket.io": {
    script: "servers/socket/socketio.mjs",
    on: "node",
    package: "socket.io",
    wire: { path: "/socket.io/?EIO=4&transport=websocket&r=", socketio: true },
  },
};

const TEXT = "x".repeat(64);
const SAY = JSON.stringify({ room: "lobby", text: TEXT });
const SAID = JSON.stringify({ room: "lobby", text: TEXT, offset: TEXT.length });
export const STREAM_LENGTH = 100;
const COUNT = JSON.stringify({ to: STREAM_LENGTH });

const JSON_RPC: Wire = {
  path,
  call: {
    request: `{"jsonrpc":"2.0","id":######,"method":"say","params":${SAY}}`,
    answer: `{"jsonrpc":"2.0","id":######,"result":${SAID}}`,
  },
  stream: {
    request: `{"jsonrpc":"2.0","id":######,"method":"count","params":${COUNT}}`,
    value: `{"jsonrpc":"2.0","method":"$/next","params":{"id":######,"value":"word "}}`,
    end: `{"jsonrpc":"2.0","id":######,"result":null}`,
  },
};

const TRPC: Wire = {
  path: "/",
  call: {
    request: `{"id":######,"method":"mutation","params":{"path":"say","input":${SAY}}}`,
    answer: `{"id":######,"result":{"type":"data","data":${SAID}}}`,
  },
  stream: {
    request: `{"id":######,"method":"subscription","params":{"path":"count","input":${COUNT}}}`,
    start: `{"id":######,"result":{"type":"started"}}`,
    value: `{"id":######,"result":{"type":"data","data":"word "}}`,
    end: `{"id":######,"result":{"type":"stopped"}}`,
  },
};

/** Servers that answer calls. harpia's name alone stands for zod, which most people use. */
const CHANNEL: Record<string, Target> = {
  raw: { script: "servers/channel/raw.ts", on: "bun", wire: JSON_RPC },
  harpia: { script: "servers/channel/harpia.ts", on: "bun", env: { VALIDATOR: "zod" }, wire: JSON_RPC },
  "harpia, valibot": {
    script: "servers/channel/harpia.ts",
    on: "bun",
    env: { VALIDATOR: "valibot" },
    wire: JSON_RPC,
  },
  "harpia, arktype": {
    script: "servers/channel/harpia.ts",
    on: "bun",
    env: { VALIDATOR: "arktype" },
    wire: JSON_RPC,
  },
  elysia: { script: "servers/channel/elysia.mjs", on: "bun", package: "elysia", wire: JSON_RPC },
  trpc: { script: "servers/channel/trpc.mjs", on: "node", package: "@trpc/server", wire: TRPC },
  "trpc on Bun": { script: "servers/channel/trpc.mjs", on: "bun", package: "@trpc/server", wire: TRPC },
  "socket.io": {
    script: "servers/channel/socketio.mjs",
    on: "node",
    package: "socket.io",
    wire: {
      path: "/socket.io/?EIO=4&transport=websocket&r=",
      socketio: true,
      call: { request: `42######["say",${SAY}]`, answer: `43######[${SAID}]` },
    },
  },
};

/** Clients: all of them call the raw channel server. */
const CLIENT: Record<string, Target> = {
  raw: { script: "clients/raw.ts", on: "bun" },
  harpia: { script: "clients/harpia.ts", on: "bun" },
};

const TOPIC_WIRE: Wire = {
  path: topic.path,
  publish: {
    request: `{"jsonrpc":"2.0","method":"post","params":${JSON.stringify(MESSAGE)}}`,
    prefix: `{"jsonrpc":"2.0","method":"$/message","params":{"topic":"room","epoch":"`,
    hello: `{"jsonrpc":"2.0","id":1,"method":"$/subscribe","params":{"topic":"room"}}`,
  },
};

/** Servers of a topic that remembers. */
const TOPIC: Record<string, Target> = {
  raw: { script: "servers/topic/raw.ts", on: "bun", wire: TOPIC_WIRE },
  harpia: { script: "servers/topic/harpia.ts", on: "bun", wire: TOPIC_WIRE },
  "socket.io": {
    script: "servers/topic/socketio.mjs",
    on: "node",
    package: "socket.io",
    wire: {
      path: "/socket.io/?EIO=4&transport=websocket&r=",
      socketio: true,
      publish: {
        request: `42["post",${JSON.stringify(MESSAGE)}]`,
        prefix: `42["message",${JSON.stringify(MESSAGE)},"`,
      },
    },
  },
};

/** Processes that publish by themselves, through a broker; `raw` does what the broker cannot do without. */
const SQLITE: Record<string, Target> = {
  raw: { script: "publishers/sqlite-raw.ts", on: "bun" },
  harpia: { script: "publishers/sqlite.ts", on: "bun" },
};

const REDIS: Record<string, Target> = {
  raw: { script: "publishers/redis-raw.ts", on: "bun" },
  harpia: { script: "publishers/redis.ts", on: "bun" },
};

export const TARGETS = {
  socket: SOCKET,
  channel: CHANNEL,
  client: CLIENT,
  topic: TOPIC,
  sqlite: SQLITE,
  redis: REDIS,
};

/** Its runtime and script, with the runtime's flags before it. */
export function commandOf({ script, on }: Target, noOptimizer: boolean): string[] {
  if (on === "bun") return [BUN, script];
  return [NODE, "--expose-gc", ...(noOptimizer ? ["--no-opt"] : []), script];
}
