// harpia/testing: an app under test, its clients, and the faults of the network between them. For any test runner.

export {
  type CutOptions,
  type Direction,
  FaultProxy,
  faultProxy,
  type Faults,
  type Target,
} from "./fault-proxy.js";
export { TestApp, testApp, type TestConnectArguments, type TestListenOptions } from "./test-app.js";
export { TestError, type TestErrorCode } from "./test-error.js";
export { type Closed, TestSocket, type TestSocketOptions, type WaitOptions } from "./test-socket.js";
