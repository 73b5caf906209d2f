// `npm run bench`: measures harpia and its peers against raw Bun, in interleaved rounds, what is measured on one core
// and its counterpart on another. What is compared is work per second of CPU. See bench/README.md.
//
//   npm run bench                        everything, 11 rounds
//   npm run bench -- --quick             3 short rounds, to see that it works; no number to quote
//   npm run bench -- --only echo-64-16   one workload (or several, with commas; "call" is all that begin so)
//   npm run bench -- --targets harpia    raw and harpia only (or others, with commas)
//   npm run bench -- --record            also writes results.json and RESULTS.md

import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cluster } from "./cluster.js";
import { faults } from "./faults.js";
import { measure } from "./measure.js";
import { memory } from "./memory.js";
import { interval, median, type Results, sides, type Table, writeResults } from "./report.js";
import { NODE, TARGETS } from "./targets.js";
import { type Workload, WORKLOADS } from "./workloads.js";

const HERE = import.meta.dir;

const { values: flags } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    only: { type: "string" },
    targets: { type: "string" },
    record: { type: "boolean", default: false },
    rounds: { type: "string" },
  },
});
const rounds = Number(flags.rounds ?? (flags.quick ? 3 : 11));
const seconds = flags.quick ? 0.3 : 1;
const only = flags.only?.split(",");
const wanted = flags.targets?.split(",");

const workloads = WORKLOADS.filter(({ name }) => chosen(name));
/** What is no race; after the workloads. */
const TABLES: Record<string, (quick: boolean) => Table | Promise<Table>> = {
  "topic-memory": memory,
  "topic-cluster": cluster,
  "topic-faults": faults,
};
prepare();

const results: Results = {
  command: `npm run bench${process.argv.slice(2).length > 0 ? ` -- ${process.argv.slice(2).join(" ")}` : ""}`,
  date: new Date().toISOString().slice(0, 10),
  cpu: cpus()[0]!.model,
  versions: versions(),
  rounds,
  seconds,
  workloads: [],
  tables: [],
};
for (const workload of workloads) {
  console.log(`\n${workload.title}`);
  const measured = await measure({ workload, names: namesOf(workload), rounds, seconds });
  results.workloads.push({ workload, measured });
  const [side, otherSide] = sides(workload);
  for (const [name, { values, ratios, busy, otherBusy }] of Object.entries(measured)) {
    const [low, high] = interval(ratios);
    const busyness =
      workload.mode === "idle" ? "" : `   ${side} ${percent(busy)} busy, ${otherSide} ${percent(otherBusy)}`;
    const middle = Math.round(median(values)).toLocaleString("en");
    console.log(
      `  ${name.padEnd(15)} ${middle.padStart(10)}   ${median(ratios).toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]${busyness}`,
    );
  }
}
for (const [name, make] of Object.entries(TABLES)) {
  if (!chosen(name)) continue;
  console.log(`\n${name}`);
  const table = await make(flags.quick);
  results.tables.push(table);
  console.log(`${table.title}\n  ${table.notes}`);
  for (const row of [table.head, ...table.rows]) console.log(`  ${row.join(" | ")}`);
}
if (!writeResults(results, flags.record)) process.exitCode = 1;

function chosen(name: string): boolean {
  return only?.some((some) => name === some || name.startsWith(`${some}-`)) ?? true;
}

/** Who takes part: the one to whom others are compared always, and first. A flavour ("harpia, valibot") goes with its name. */
function namesOf({ family, targets = Object.keys(TARGETS[family]) }: Workload): string[] {
  const asked = (name: string): boolean => wanted?.includes(name.split(/,| on /)[0]!) ?? true;
  const [first, ...others] = targets;
  return [first!, ...others.filter(asked)];
}

function prepare(): void {
  const peers =
    workloads.some((workload) => namesOf(workload).some((name) => packageOf(workload, name))) ||
    Object.keys(TABLES).some((name) => chosen(name) && name !== "topic-memory");
  if (peers && !existsSync(NODE)) run(["npm", "ci", "--no-audit", "--no-fund"]);
  run(["mkdir", "-p", "bin"]);
  run(["cc", "-O2", "-o", "bin/load", "load.c"]);
}

function run(command: string[]): void {
  const { exitCode } = Bun.spawnSync(command, { cwd: HERE, stdout: "inherit", stderr: "inherit" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")} failed`);
}

/** Of what took part. */
function versions(): Record<string, string> {
  const found: Record<string, string> = { bun: Bun.version };
  for (const workload of workloads) {
    for (const name of namesOf(workload)) {
      const peer = packageOf(workload, name);
      if (peer) found[peer] = versionIn(join(HERE, "node_modules", peer));
      if (TARGETS[workload.family][name]!.on === "node")
        found.node = versionIn(join(HERE, "node_modules/node"));
    }
    if (workload.family === "channel") {
      for (const name of ["zod", "valibot", "arktype"])
        found[name] = versionIn(join(HERE, "../node_modules", name));
    }
  }
  found.kernel = Bun.spawnSync(["uname", "-r"]).stdout.toString().split(/[-+]/)[0]!.trim();
  return found;
}

function packageOf({ family }: Workload, name: string): string | undefined {
  return TARGETS[family][name]!.package;
}

function versionIn(folder: string): string {
  return (JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string }).version;
}

function percent(part: number): string {
  return `${Math.round(part * 100)} %`;
}
