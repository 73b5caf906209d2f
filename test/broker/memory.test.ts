// The broker in memory keeps what broker.ts promises.

import { MemoryBroker } from "../../src/broker/memory.js";
import { conformance } from "./conformance.js";

conformance("memory", () => new MemoryBroker());
