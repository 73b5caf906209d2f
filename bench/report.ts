// What the numbers mean: medians, intervals, bars; and the files that `--record` writes.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Workload, WORKLOADS } from "./workloads.js";

export interface Measured {
  /** One a round: work per second of CPU, or bytes. */
  values: number[];
  /** One a round: to `raw` in the same round. */
  ratios: number[];
  /** Mean share of its core that it used, and that its counterpart did. */
  busy: number;
  otherBusy: number;
}

/** What is no race: measured once, and shown as it is. */
export interface Table {
  title: string;
  notes: string;
  head: string[];
  rows: string[][];
}

export interface Results {
  command: string;
  date: string;
  cpu: string;
  versions: Record<string, string>;
  rounds: number;
  seconds: number;
  workloads: Ran[];
  tables: Table[];
}

interface Ran {
  workload: Workload;
  measured: Record<string, Measured>;
  /** Where a later record kept it: the run that it is of. */
  of?: string;
}

const IDLE_BAR = 400;
const ROUTES_BAR = 0.85;
/** What `raw` is, in each family. */
const RAW: Record<Workload["family"], string> = {
  socket: "raw Bun.serve",
  channel: "raw Bun.serve",
  client: "bare WebSocket",
  topic: "raw server.publish",
  sqlite: "bare inserts",
  redis: "bare EVALSHA",
};

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The interval that holds the median with at least 95 % confidence, by order statistics: no shape is assumed. */
export function interval(values: readonly number[]): [number, number] {
  const sorted = values.toSorted((a, b) => a - b);
  const n = sorted.length;
  let outside = 0;
  let rank = 0;
  // P(fewer than rank + 1 of n fall below the median), twice.
  for (let ways = 1, k = 0; k < n / 2; ways = (ways * (n - k)) / (k + 1), k++) {
    outside += (2 * ways) / 2 ** n;
    if (outside > 0.05) break;
    rank = k + 1;
  }
  const low = Math.max(0, rank - 1);
  return [sorted[low]!, sorted[n - 1 - low]!];
}

interface Bar {
  what: string;
  bar: string;
  got: string;
  met: boolean;
}

/** Who is measured, and who is at the other end. */
export function sides({ mode }: Workload): [string, string] {
  if (mode === "client") return ["client", "server"];
  return mode === "publisher" ? ["publisher", "broker"] : ["server", "load"];
}

/** The bars of the design, as far as their workloads ran. A bar is met when the interval reaches it. */
export function bars({ workloads }: Results): Bar[] {
  const all: Bar[] = [];
  const show = (values: number[], digits: number): string => {
    const [low, high] = interval(values);
    return `${median(values).toFixed(digits)} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
  };
  for (const { workload, measured } of workloads) {
    const { harpia, raw } = measured;
    if (!harpia || !raw) continue;
    for (const [name, bar] of Object.entries(workload.bars ?? {})) {
      const other = measured[name];
      if (!other) continue;
      const ratios = harpia.values.map((value, round) => value / other.values[round]!);
      const met = interval(ratios)[1] >= bar;
      all.push({ what: workload.title, bar: `≥ ${bar} × ${name}`, got: show(ratios, bar > 1 ? 1 : 3), met });
    }
    if (workload.mode === "idle") {
      const more = harpia.values.map((value, round) => value - raw.values[round]!);
      all.push({
        what: "an idle connection",
        bar: `≤ raw + ${IDLE_BAR} B`,
        got: `raw + ${show(more, 0)} B`,
        met: interval(more)[0] <= IDLE_BAR,
      });
    }
  }
  const handshakes = (name: string) =>
    workloads.find(({ workload }) => workload.name === name)?.measured.harpia;
  const [one, thousand] = [handshakes("handshake-1"), handshakes("handshake-1000")];
  if (one && thousand) {
    const ratios = thousand.values.map((value, round) => value / one.values[round]!);
    all.push({
      what: "handshakes with 1,000 routes, to 1 route",
      bar: `≥ ${ROUTES_BAR}`,
      got: show(ratios, 3),
      met: interval(ratios)[1] >= ROUTES_BAR,
    });
  }
  return all;
}

/** Prints the bars, and writes the files if asked. @returns whether every bar is met. */
export function writeResults(results: Results, record: boolean): boolean {
  const judged = bars(results);
  console.log("\nBars");
  for (const { what, bar, got, met } of judged)
    console.log(`  ${met ? "met   " : "MISSED"} ${what}: ${got}, ${bar}`);
  if (record) {
    const [json, page] = ["results.json", "RESULTS.md"].map((name) => join(import.meta.dir, name));
    const all = withKept(results, JSON.parse(readFileSync(json!, "utf8")) as Results);
    writeFileSync(json!, `${JSON.stringify(all, undefined, 1)}\n`);
    writeFileSync(page!, markdown(all, bars(all)));
    for (const command of [["fmt", "--no-script", json!, page!], [join(import.meta.dir, "plot.ts")]]) {
      Bun.spawnSync([process.execPath, ...command], { stdout: "inherit", stderr: "inherit" });
    }
  }
  return judged.every(({ met }) => met);
}

/** A run of some workloads is recorded beside what earlier runs have recorded of the others. */
function withKept(results: Results, kept: Results): Results {
  const { command, date, versions, workloads, tables } = results;
  const ran = new Map<string, Ran>();
  for (const each of kept.workloads)
    ran.set(each.workload.name, { ...each, of: each.of ?? `${kept.command}, ${kept.date}` });
  for (const each of workloads) ran.set(each.workload.name, { ...each, of: `${command}, ${date}` });
  const newTables = new Set(tables.map(({ title }) => title));
  return {
    ...results,
    versions: { ...kept.versions, ...versions },
    workloads: WORKLOADS.flatMap(({ name }) => ran.get(name) ?? []),
    tables: [...kept.tables.filter(({ title }) => !newTables.has(title)), ...tables],
  };
}

function markdown({ cpu, versions, rounds, seconds, workloads, tables }: Results, judged: Bar[]): string {
  const lines = [
    "# Results",
    "",
    "Written by `npm run bench -- --record`, in one run or several. How it measures, and how to read it: [README.md](README.md).",
    "",
    `* Machine: ${cpu}; what is measured on one core, its counterpart on another; kernel ${versions.kernel}.`,
    `* Versions: ${Object.entries(versions)
      .filter(([name]) => name !== "kernel")
      .map(([name, version]) => `${name} ${version}`)
      .join(", ")}.`,
    `* ${rounds} interleaved rounds of ${seconds} s. Each cell: the median, and in brackets the interval that holds it with 95 % confidence.`,
    "",
    "## Bars",
    "",
    "| what | bar | measured | |",
    "| --- | --- | --- | --- |",
    ...judged.map(
      ({ what, bar, got, met }) => `| ${what} | ${bar} | ${got} | ${met ? "met" : "**missed**"} |`,
    ),
  ];
  for (const { workload, measured, of } of workloads) {
    const idle = workload.mode === "idle";
    const [side, otherSide] = sides(workload);
    lines.push("", `## ${workload.title[0]!.toUpperCase()}${workload.title.slice(1)}`, "", `\`${of}\``, "");
    lines.push(
      idle
        ? "| | bytes a connection | × raw |"
        : `| | per second of ${side} CPU | × ${Object.keys(measured)[0]} | ${side} busy | ${otherSide} busy |`,
    );
    lines.push(idle ? "| --- | ---: | ---: |" : "| --- | ---: | ---: | ---: | ---: |");
    for (const [name, { values, ratios, busy, otherBusy }] of Object.entries(measured)) {
      const [low, high] = interval(ratios);
      const [from, to] = interval(values).map((value) => Math.round(value).toLocaleString("en"));
      const cells = [
        name === "raw" ? RAW[workload.family] : name,
        `${Math.round(median(values)).toLocaleString("en")} [${from}, ${to}]`,
        `${median(ratios).toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]`,
      ];
      if (!idle) cells.push(`${Math.round(busy * 100)} %`, `${Math.round(otherBusy * 100)} %`);
      lines.push(`| ${cells.join(" | ")} |`);
    }
  }
  for (const { title, notes, head, rows } of tables) {
    lines.push("", `## ${title}`, "", notes, "", `| ${head.join(" | ")} |`);
    lines.push(`| ${head.map((_, column) => (column === 0 ? "---" : "---:")).join(" | ")} |`);
    lines.push(...rows.map((row) => `| ${row.join(" | ")} |`));
  }
  return `${lines.join("\n")}\n`;
}
