// Who is present when a process dies, with a lease of 7.5 s instead of 30; with that of harpia: `npm run test:rolling`.

import { expect } from "bun:test";
import { testWith } from "../support/programs.js";
import { membersOfTheDead } from "./members.js";

testWith("redis-server")(
  "kill -9 of a process with 1,000 members: those who come back elsewhere were never away, the others are gone in time",
  async () => {
    const { wrong } = await membersOfTheDead({ members: 1_000, pollMs: 2_500 });
    expect(wrong).toEqual([]);
  },
  180_000,
);
