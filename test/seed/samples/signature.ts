import { harpia, type Harpia, type WebSocketHandlers } from "harpia";

// The API reference's signature: harpia's `ws` can stand wherever this is asked for.
interface Documented {
// sample
ws<T>(path: string, handlers: WebSocketHandlers<T>): void
// end
}

const app = harpia();
export const documented: Documented = app satisfies Harpia;
export { app };
