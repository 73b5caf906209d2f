// `npm run test:chaos:cluster`: a cluster, and what goes wrong in it, several at a time, in orders that seeds give.
// SEED (1), RUNS (8) and FAULTS (12 a run) change that. Ends with 1 if topics did not keep what they promise.

import { type Setting, simulate } from "./cluster/simulation.js";

const SETTINGS: readonly Setting[] = ["nothing", "snapshots", "append-only", "durable"];
const first = Number(process.env.SEED ?? 1);
const runs = Number(process.env.RUNS ?? 8);
const faults = Number(process.env.FAULTS ?? 12);

let wrong = 0;
for (let seed = first; seed < first + runs; seed++) {
  const setting = SETTINGS[seed % SETTINGS.length]!;
  const began = performance.now();
  const report = await simulate(seed, setting, faults);
  const took = ((performance.now() - began) / 1_000).toFixed(1);
  console.log(
    `seed ${seed}, ${setting}: ${took} s, ${JSON.stringify(report.counts)}, faults ${JSON.stringify(report.events)}`,
  );
  for (const what of report.wrong) console.error(`  WRONG: ${what}`);
  wrong += report.wrong.length;
}
console.log(wrong === 0 ? "Nothing was lost, doubled or out of order." : `${wrong} things were wrong.`);
process.exit(wrong === 0 ? 0 : 1);
