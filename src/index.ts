// harpia: what `import … from "harpia"` gives.

import { harpia } from "./app.js";

export default harpia;
export { harpia };
export { Harpia, type Health, type ServeOptions, type ServeOptionsInput, type StopOptions } from "./app.js";
export type { Connections, Counters } from "./server/connections.js";
export {
  ERROR_CODES,
  type ErrorCode,
  HarpiaError,
  ProtocolError,
  type ProtocolErrorCode,
} from "./server/errors.js";
export type { Logger } from "./server/logger.js";
export type { HarpiaOptions, ListenOptions, WebSocketLimits } from "./server/options.js";
export type { Origins } from "./server/origin.js";
export type { TrustProxy } from "./server/proxy.js";
export type {
  AnyData,
  ConnectionData,
  ConnectionInfo,
  RateLimit,
  UpgradeContext,
  WebSocketHandlers,
  WebSocketRoute,
} from "./server/route.js";
export { type PublishOptions, type Sendable, ServerWebSocket } from "./server/socket.js";
export {
  type Broker,
  BrokerError,
  type BrokerErrorCode,
  type BrokerHealth,
  type Position,
} from "./broker/broker.js";
export type {
  Channel,
  ChannelHooks,
  ChannelSocket,
  HistoryPage,
  HistoryRange,
  Implementation,
  Live,
  MethodContext,
  MethodImplementation,
  MethodImplementations,
  PresenceImplementation,
  TopicContext,
  TopicHandle,
  TopicImplementation,
  TopicImplementations,
} from "./channel/implementation.js";
export { isContractError, type PathParams, RpcError, type RpcReason } from "./contract/index.js";
