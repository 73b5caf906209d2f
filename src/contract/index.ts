// harpia/contract: what both ends import. Runs anywhere; knows of no socket.

export {
  type AskName,
  type CallName,
  type Contract,
  defineChannel,
  type Event,
  type EventName,
  type Method,
  type MethodName,
  type NotificationName,
  type StreamName,
  type TellName,
  type Topic,
  type TopicName,
} from "./contract.js";
export { RPC_CODES } from "./frames.js";
export type { PathParams } from "./path.js";
export { isContractError, RpcError, type RpcReason } from "./rpc-error.js";
export { topicName, type TopicParams } from "./topic.js";
export type { InputOf, Issue, OutputOf, Schema } from "./schema.js";
