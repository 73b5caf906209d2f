// Topics under whatever goes wrong, in small: a fixed seed for each setting (`SEED=…` takes another). The nightly size
// is `npm run test:chaos`.

import { expect, test } from "bun:test";
import { type Setting, simulate } from "./simulation.js";

const seed = Number(process.env.SEED ?? 5);

test.each<[string, Setting]>([
  ["restarts begin new epochs", "memory"],
  ["restarts go on where they were", "sqlite"],
  ["the broker loses, delays, fails, and changes epochs", "chaotic"],
])(
  "nothing is lost, doubled or out of order, and all converge, where %s",
  async (_what, setting) => {
    const { wrong, faults } = await simulate({ seed, setting, faults: 130 });
    // The seed is in the message, for the next run.
    expect({ seed, setting, wrong }).toEqual({ seed, setting, wrong: [] });
    expect(faults).toBeGreaterThanOrEqual(130);
  },
  120_000,
);
