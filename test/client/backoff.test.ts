// What each close code means, and how long a client waits: the tables of docs/protocol.md, as numbers.

import { expect, test } from "bun:test";
import { backoff, type Verdict, verdict } from "../../src/client/backoff.js";

const verdicts: [Verdict, number[]][] = [
  ["end", [1000, 1002, 1003, 1007, 1008, 1010, 4400, 4402, 4403, 4404, 4407, 4409, 4426, 4499]],
  ["new token", [4401]],
  ["later", [4408, 4425, 4429]],
  ["again", [1001, 1005, 1006, 1009, 1011, 1012, 1013, 1014, 1015, 3000, 4000, 4399, 4500, 4503, 4999]],
];

for (const [meaning, codes] of verdicts) {
  test(`${codes.join(", ")}: ${meaning}`, () => {
    for (const code of codes) expect([code, verdict(code)]).toEqual([code, meaning]);
  });
}

test("the wait is at most 0.5 s · 2ⁿ, and 20 s; four times as long for a later; 10 s at least after a restart", () => {
  const rows: [number, number[]][] = [
    [1006, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]],
    [1012, [10_000, 10_000, 10_000, 10_000, 10_000, 16_000, 20_000]],
    [1013, [10_000, 10_000, 10_000, 10_000, 10_000, 16_000, 20_000]],
    [4429, [2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 80_000, 80_000]],
  ];
  for (const [code, most] of rows) {
    expect(most.map((_, attempt) => backoff(attempt, code, () => 1))).toEqual(most);
    expect(most.map((_, attempt) => backoff(attempt, code, () => 0.25))).toEqual(most.map((ms) => ms / 4));
  }
  expect(backoff(5_000, 1006, () => 1)).toBe(20_000);
});

test("jitter is full: any number from 0 up to the most, each as likely", () => {
  const waits = Array.from({ length: 4_000 }, () => backoff(3, 1006));
  const quarters = [0, 1, 2, 3].map(
    (quarter) => waits.filter((ms) => Math.floor(ms / 1_000) === quarter).length,
  );
  expect(quarters.reduce((sum, count) => sum + count, 0)).toBe(4_000);
  // 1,000 each, give or take; less than 800 would be seven standard deviations off.
  for (const count of quarters) expect(count).toBeGreaterThan(800);
});
