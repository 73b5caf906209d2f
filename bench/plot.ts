// Draws docs/bench.svg from results.json: for each workload, everybody's ratio to raw Bun. `npm run bench -- --record`
// calls it.

import { join } from "node:path";
import { interval, median, type Results } from "./report.js";

const SHOWN = [
  "echo-64-16",
  "echo-64-1",
  "echo-16k",
  "broadcast",
  "handshake-1",
  "call-8",
  "call-1",
  "stream",
];
const WIDTH = 820;
const LABEL = 130;
const NUMBER = 60;
const BAR = 15;
const GAP = 5;
const SCALE = WIDTH - LABEL - NUMBER - 20;

const { workloads, date, cpu, versions } = (await Bun.file(
  join(import.meta.dir, "results.json"),
).json()) as Results;

const parts: string[] = [];
let y = 24;
const most = Math.max(
  1.05,
  ...workloads.flatMap(({ measured }) => Object.values(measured).map(({ ratios }) => interval(ratios)[1])),
);
const at = (ratio: number): string =>
  (LABEL + (Math.min(ratio, 1.2) / Math.min(most, 1.2)) * SCALE).toFixed(1);

for (const name of SHOWN) {
  const found = workloads.find(({ workload }) => workload.name === name);
  if (!found) continue;
  parts.push(`<text class="title" x="0" y="${y}">${escape(found.workload.title)}</text>`);
  y += 10;
  const top = y;
  for (const [target, { ratios }] of Object.entries(found.measured)) {
    const middle = median(ratios);
    const [low, high] = interval(ratios);
    const label = target === "raw" ? "raw Bun.serve" : target;
    const kind = target === "harpia" ? "harpia" : target === "raw" ? "raw" : "peer";
    parts.push(
      `<text class="label" x="${LABEL - 8}" y="${y + BAR - 3}">${escape(label)}</text>`,
      `<rect class="${kind}" x="${LABEL}" y="${y}" width="${(Number(at(middle)) - LABEL).toFixed(1)}" height="${BAR}" rx="2"/>`,
      `<path class="spread" d="M${at(low)} ${y + BAR / 2}H${at(high)}"/>`,
      `<text class="number" x="${Math.max(Number(at(high)), Number(at(middle))) + 6}" y="${y + BAR - 3}">${middle.toFixed(2)}</text>`,
    );
    y += BAR + GAP;
  }
  parts.push(`<path class="one" d="M${at(1)} ${top - 3}V${y - GAP + 3}"/>`);
  y += 26;
}
const foot = `work per second of server CPU, raw Bun.serve = 1, higher is better; ${cpu}, Bun ${versions.bun}, ${date}`;
parts.push(`<text class="foot" x="0" y="${y}">${escape(foot)}</text>`);

const style = `
  text { font: 13px system-ui, sans-serif; fill: #1d2023 }
  .title { font-weight: 600 } .label { text-anchor: end } .foot { font-size: 11px; fill: #62676d }
  .harpia { fill: #0f6b52 } .raw { fill: #8a8f96 } .peer { fill: #c9ccd1 }
  .spread { stroke: #1d2023; stroke-width: 1.5 } .one { stroke: #8a8f96; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e9e7e2 } .foot { fill: #a0a5ab } .harpia { fill: #5fd0ab } .peer { fill: #4a4f56 } .spread { stroke: #e9e7e2 }
  }`;
await Bun.write(
  join(import.meta.dir, "../docs/bench.svg"),
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y + 12}" role="img" aria-label="Work per second of server CPU, as a ratio to raw Bun.serve"><style>${style}\n</style>\n${parts.join("\n")}\n</svg>\n`,
);
console.log("docs/bench.svg written");

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
