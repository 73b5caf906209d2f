// `npm run test:chaos:cluster`: a cluster, and what goes wrong in it, several at a time, in orders that seeds give. Ends
// with 1 if topics did not keep what they promise. SEED (1), RUNS (8) and FAULTS (12 a run) change that; for a night:
// `RUNS=100 FAULTS=60`, with a SEED that nobody has had.

import { type Report, type Setting, simulate } from "./cluster/simulation.js";

const SETTINGS: readonly Setting[] = ["nothing", "snapshots", "append-only", "durable"];
const first = Number(process.env.SEED ?? 1);
const runs = Number(process.env.RUNS ?? 8);
const faults = Number(process.env.FAULTS ?? 12);

const reports: Report[] = [];
const began = performance.now();
const since = (then: number): string => ((performance.now() - then) / 1_000).toFixed(1);
for (let seed = first; seed < first + runs; seed++) {
  const setting = SETTINGS[seed % SETTINGS.length]!;
  const began = performance.now();
  const report = await simulate(seed, setting, faults);
  reports.push(report);
  console.log(
    `seed ${seed}, ${setting}: ${since(began)} s, slowest publish ${Math.round(report.slowest)} ms, ` +
      `${JSON.stringify(report.counts)}, faults ${JSON.stringify(report.events)}`,
  );
  for (const what of report.wrong) console.error(`  WRONG: ${what}`);
}

const sum = (of: (report: Report) => number): number => reports.reduce((all, each) => all + of(each), 0);
const events = new Map<string, number>();
for (const { events: some } of reports)
  for (const [name, times] of Object.entries(some)) events.set(name, (events.get(name) ?? 0) + times);
for (const [name, times] of [...events].sort(([, a], [, b]) => b - a)) console.log(`${times} × ${name}`);
console.log(
  `${[...events.values()].reduce((all, times) => all + times, 0)} faults in ${since(began)} s: ` +
    `${sum(({ counts }) => counts.published)} publications, ${sum(({ counts }) => counts.resolved)} resolved, ` +
    `${sum(({ counts }) => counts.received)} handed over, ${sum(({ counts }) => counts.resets)} resets told`,
);
const wrong = sum((report) => report.wrong.length);
console.log(wrong === 0 ? "Nothing was lost, doubled or out of order." : `${wrong} things were wrong.`);
process.exit(wrong === 0 ? 0 : 1);
