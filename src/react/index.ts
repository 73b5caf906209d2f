"use client";
// harpia/react: hooks over the client. A component owns a connection, others use it.

export type { Client, ConnectOptions } from "../client/client.js";
export type { ConnectionState } from "../client/connection.js";
export { useAnswer, useConnectionState, useEvent } from "./hooks.js";
export { useChannel } from "./use-channel.js";
