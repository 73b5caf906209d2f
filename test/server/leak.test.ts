// Nothing is left of a connection once it has closed; the long run of this is `npm run test:soak`.

import { expect, test } from "bun:test";
import { soak } from "../support/soak.js";

test("connections that were opened, used and closed leave no object behind, and the heap does not grow", async () => {
  const rounds = await soak(4, 1_000, 50);
  for (const { connections, objects } of rounds) {
    expect(connections).toBe(0);
    // The conservative collector may see a stale pointer or two on the stack.
    for (const count of Object.values(objects)) expect(count).toBeLessThanOrEqual(10);
  }
  // 1,000 connections that left 100 bytes each would show as 200,000 over the last two rounds.
  expect(rounds[3]!.heap - rounds[1]!.heap).toBeLessThan(200_000);
}, 60_000);
