"use client";
// harpia/react: hooks over the client. A component owns a connection, others use it.

export type { Client, ConnectOptions } from "../client/client.js";
export type { ConnectionState } from "../client/connection.js";
export type { Member, Message, SubscriptionState } from "../client/subscription.js";
export { useAnswer, useConnectionState, useEvent } from "./hooks.js";
export type { TopicView } from "./topic-store.js";
export { useChannel } from "./use-channel.js";
export { type TopicOptions, useTopic } from "./use-topic.js";
