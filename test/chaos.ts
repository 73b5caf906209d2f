// `npm run test:chaos`: the simulation of test/topics/simulation.ts for at least 10,000 faults, over all settings and
// many seeds. `SEED=…` begins with another seed, `FAULTS=…` sets how many there are.

import { type Setting, simulate } from "./topics/simulation.js";

const SETTINGS: readonly Setting[] = ["memory", "sqlite", "chaotic"];
const wanted = Number(process.env.FAULTS ?? 10_000);
const perRun = 600;
let seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1_000_000));
const only = process.env.SETTING as Setting | undefined;

const events = new Map<string, number>();
const total = { faults: 0, publications: 0, received: 0, resets: 0 };
const wrong: string[] = [];
const start = performance.now();
let runs = 0;
while (total.faults < wanted && wrong.length === 0) {
  const setting = only ?? SETTINGS[runs++ % SETTINGS.length]!;
  const begun = performance.now();
  const report = await simulate({ seed, setting, faults: Math.min(perRun, wanted - total.faults) });
  const took = ((performance.now() - begun) / 1000).toFixed(1);
  console.log(
    `seed ${seed} ${setting}: ${report.faults} faults, ${report.publications} publications, ${report.received} received, ${report.resets} resets, ${took} s`,
  );
  for (const key of ["faults", "publications", "received", "resets"] as const) total[key] += report[key];
  for (const [what, count] of Object.entries(report.events))
    events.set(what, (events.get(what) ?? 0) + count);
  for (const what of report.wrong) wrong.push(`seed ${seed} ${setting}: ${what}`);
  seed++;
}
for (const [what, count] of [...events].sort(([, a], [, b]) => b - a))
  console.log(`${String(count).padStart(8)} ${what}`);
console.log(
  `${total.faults} faults, ${total.publications} publications, ${total.received} received, ${total.resets} resets, ${((performance.now() - start) / 1000).toFixed(0)} s`,
);
console.log(wrong.length === 0 ? "lost 0, doubled 0, reordered 0" : wrong.join("\n"));
process.exit(wrong.length === 0 ? 0 : 1);
