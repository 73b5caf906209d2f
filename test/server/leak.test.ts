// Nothing is left of a connection once it has closed; the long run of this is `npm run test:soak`.

import { expect, test } from "bun:test";
import { soak } from "../support/soak.js";

test("connections that were opened, used and closed leave no object behind, and the heap does not grow", async () => {
  const rounds = await soak(4, 1_000, 50);
  for (const { connections } of rounds) expect(connections).toBe(0);
  const [, second, , last] = rounds;
  for (const [name, count] of Object.entries(last!.objects)) {
    // 2,000 connections lie between; what the collector finds on the stack by chance is a handful.
    expect([name, count - second!.objects[name]! < 50]).toEqual([name, true]);
  }
  // 1,000 connections that left 100 bytes each would show as 200,000 over the last two rounds.
  expect(rounds[3]!.heap - rounds[1]!.heap).toBeLessThan(200_000);
}, 60_000);
