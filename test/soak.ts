// `npm run test:soak`: 10,000 connections opened, used and closed, thirty times over; fails if anything is left of them.
// The same in small runs with the tests: test/server/leak.test.ts.

import { type Left, soak } from "./support/soak.js";

const ROUNDS = 30;
const COUNT = 10_000;
const MIB = 1024 * 1024;

const show = ({ connections, objects, heap, rss }: Left): void =>
  console.log(
    `connections ${connections}, ${JSON.stringify(objects)}, heap ${(heap / MIB).toFixed(1)} MiB, rss ${(rss / MIB).toFixed(1)} MiB`,
  );

console.log(`${ROUNDS} rounds of ${COUNT} connections, 500 at a time`);
const rounds = await soak(ROUNDS, COUNT, 500, show);

// The first two rounds warm up compilers and allocators.
const settled = rounds.slice(2);
const slope = (values: number[]): number => {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const up = values.reduce((sum, value, index) => sum + (index - middle) * (value - mean), 0);
  return up / values.reduce((sum, _value, index) => sum + (index - middle) ** 2, 0);
};
const heapSlope = slope(settled.map(({ heap }) => heap)) / COUNT;
const rssSlope = slope(settled.map(({ rss }) => rss)) / COUNT;
console.log(`slope: heap ${heapSlope.toFixed(1)}, rss ${rssSlope.toFixed(1)} bytes a connection`);

const grown = Object.entries(rounds.at(-1)!.objects).filter(
  ([name, count]) => count > rounds[1]!.objects[name]! + 50,
);
const leftObjects = grown.length > 0;
const leaks = leftObjects || heapSlope > 10 || rssSlope > 50;
console.log(leaks ? "FAILED: something is left" : "ok: nothing is left");
process.exit(leaks ? 1 : 0);
