// harpia/client: runs in browsers, Bun, Deno and Node.

export { isContractError, RpcError, type RpcReason } from "../contract/rpc-error.js";
export type { CallOptions } from "./calls.js";
export { Client, connect, type ConnectOptions } from "./client.js";
export type { ConnectionState, TokenSource, WebSocketConstructor, WebSocketLike } from "./connection.js";
export type { Member, Message, Presence, Subscription, SubscriptionState } from "./subscription.js";
export type { Position } from "./reader.js";
export type { SubscribeOptions } from "./topics.js";
