// What is measured: each workload, who takes part, and the bar that harpia has to reach.

import { STREAM_LENGTH, type TARGETS, type Target } from "./targets.js";

export type Mode =
  | "echo"
  | "broadcast"
  | "handshake"
  | "idle"
  | "call"
  | "stream"
  | "client"
  | "publish"
  | "subscribe"
  | "resume"
  | "publisher";

export interface Workload {
  name: string;
  title: string;
  /** Which of the targets: a family has one `raw`, to which all others are compared (or the first of `targets`). */
  family: keyof typeof TARGETS;
  mode: Mode;
  connections: number;
  /** Of the load generator, after the seconds; for a client or publisher, how many calls are in flight. */
  args: string[];
  /** Who of the family takes part; default everybody. */
  targets?: string[];
  /** harpia's ratio to others must reach these. */
  bars?: Record<string, number>;
}

export const WORKLOADS: Workload[] = [
  {
    name: "echo-64-1",
    title: "echo, 64 B, 100 connections, 1 in flight",
    family: "socket",
    mode: "echo",
    connections: 100,
    args: ["64", "1"],
    bars: { raw: 0.97 },
  },
  {
    name: "echo-64-16",
    title: "echo, 64 B, 100 connections, 16 in flight",
    family: "socket",
    mode: "echo",
    connections: 100,
    args: ["64", "16"],
    bars: { raw: 0.97 },
  },
  {
    name: "echo-16k",
    title: "echo, 16 KiB, 100 connections, 1 in flight",
    family: "socket",
    mode: "echo",
    connections: 100,
    args: ["16384", "1"],
  },
  {
    name: "broadcast",
    title: "broadcast, 64 B, to 1,000 connections (deliveries)",
    family: "socket",
    mode: "broadcast",
    connections: 1_000,
    args: ["64"],
    bars: { raw: 0.98 },
  },
  {
    name: "handshake-1",
    title: "handshakes, 1 route",
    family: "socket",
    mode: "handshake",
    connections: 64,
    args: ["1"],
    bars: { raw: 0.9 },
  },
  {
    name: "handshake-1000",
    title: "handshakes, 1,000 routes",
    family: "socket",
    mode: "handshake",
    connections: 64,
    args: ["1000"],
    targets: ["raw", "harpia"],
    bars: { raw: 0.9 },
  },
  {
    name: "idle",
    title: "an idle connection, of 10,000 (bytes, lower is better)",
    family: "socket",
    mode: "idle",
    connections: 10_000,
    args: [],
  },
  {
    name: "call-1",
    title: "validated call, 100 connections, 1 in flight",
    family: "channel",
    mode: "call",
    connections: 100,
    args: ["1"],
    bars: { raw: 0.7 },
  },
  {
    name: "call-8",
    title: "validated call, 100 connections, 8 in flight",
    family: "channel",
    mode: "call",
    connections: 100,
    args: ["8"],
    // Not with 1 in flight: there the kernel has most of the work, and raw Bun itself is at 2.3 × Socket.IO.
    bars: { raw: 0.7, "socket.io": 5 },
  },
  {
    name: "stream",
    title: `stream of ${STREAM_LENGTH}, to 100 connections (values)`,
    family: "channel",
    mode: "stream",
    connections: 100,
    args: [`${STREAM_LENGTH}`],
    targets: ["raw", "harpia", "trpc"],
  },
  {
    name: "client-1",
    title: "calls of a client in Bun, 1 in flight",
    family: "client",
    mode: "client",
    connections: 1,
    args: ["1"],
  },
  {
    name: "client-16",
    title: "calls of a client in Bun, 16 in flight",
    family: "client",
    mode: "client",
    connections: 1,
    args: ["16"],
  },
  {
    name: "topic-publish",
    title: "topic with history, to 1,000 subscribers (deliveries)",
    family: "topic",
    mode: "publish",
    connections: 1_000,
    args: [],
    bars: { raw: 0.9 },
  },
  {
    name: "topic-subscribe",
    title: "subscribe, then unsubscribe, 100 connections (pairs)",
    family: "topic",
    mode: "subscribe",
    connections: 100,
    args: [],
    targets: ["harpia", "socket.io"],
  },
  {
    name: "topic-resume",
    title: "connect, and get the 100 messages that were missed, 32 at a time (resumes)",
    family: "topic",
    mode: "resume",
    connections: 32,
    args: [],
    targets: ["harpia", "socket.io"],
  },
  {
    name: "topic-sqlite-full",
    title: "publish on SQLite, synchronous FULL, 64 in flight",
    family: "sqlite",
    mode: "publisher",
    connections: 1,
    args: ["64", "full"],
    bars: { raw: 0.7 },
  },
  {
    name: "topic-sqlite-normal",
    title: "publish on SQLite, synchronous NORMAL, 64 in flight",
    family: "sqlite",
    mode: "publisher",
    connections: 1,
    args: ["64", "normal"],
    bars: { raw: 0.7 },
  },
  {
    name: "topic-redis",
    title: "publish over Redis, 64 in flight",
    family: "redis",
    mode: "publisher",
    connections: 1,
    args: ["64"],
    bars: { raw: 0.7 },
  },
];

/** What of the load generator's command line depends on whom it speaks to. */
export function loadArguments(
  { mode, args }: Pick<Workload, "mode" | "args">,
  { wire = {} }: Target,
): { protocol: string[]; path: string; frames: string[] } {
  const path = wire.path ?? (mode === "handshake" ? "/r" : `/${mode}`);
  return { protocol: wire.socketio ? ["socketio"] : [], path, frames: [...args, ...frames(mode, wire)] };
}

function frames(mode: Mode, { call, stream, publish }: NonNullable<Target["wire"]>): string[] {
  if (mode === "publish") {
    const { request, prefix, hello } = publish!;
    return hello ? [request, prefix, hello] : [request, prefix];
  }
  if (mode === "call") return [call!.request, call!.answer];
  if (mode !== "stream") return [];
  const { request, value, end, start = "" } = stream!;
  return [request, value, end, start];
}
