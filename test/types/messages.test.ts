// What the compiler says of a wrong implementation: the message names the method, so that an editor shows which one.

import { expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "../..");

const HEAD = `
import { harpia } from "harpia";
import { connect } from "harpia/client";
import { defineChannel } from "harpia/contract";
import { z } from "zod";
const chat = defineChannel({
  path: "/chat",
  methods: { say: { params: z.object({ text: z.string() }), result: z.number() }, typing: {} },
  events: { notice: { params: z.object({ text: z.string() }) }, left: {} },
});
const channel = harpia().channel(chat);
const client = connect(chat, { url: "/" });
void [channel, client];
`;

/** A wrong line, and what its error must say. */
const rows: [string, string, RegExp][] = [
  ["a missing method", `channel.implement({ methods: { say: () => 1 } });`, /'typing' is missing/],
  ["all methods missing", `channel.implement({ methods: {} });`, /properties.*say, typing/],
  [
    "an unknown method",
    `channel.implement({ methods: { say: () => 1, typing() {}, tping() {} } });`,
    /'tping' does not exist/,
  ],
  [
    "a wrong result",
    `channel.implement({ methods: { say: () => "one", typing() {} } });`,
    /'string' is not assignable to type .*number/,
  ],
  [
    "an unknown event",
    `void channel.implement({ methods: { say: () => 1, typing() {} } }).broadcast("notise", { text: "a" });`,
    /"notise".*"notice"/,
  ],
  ["an unknown method, called", `void client.call("sya", { text: "a" });`, /"sya".*"say"/],
  ["a missing param", `void client.call("say", {});`, /'text' is missing/],
  ["a wrong param", `void client.call("say", { text: 5 });`, /'number' is not assignable to type 'string'/],
  ["a method with a result, notified", `client.notify("say", { text: "a" });`, /"say".*"typing"/],
  [
    "an unknown event, heard",
    `client.on("notise", () => {});`,
    /"notise".*("notice" \| "left"|"left" \| "notice")/,
  ],
];

test("the message names the method, the event or the param", async () => {
  const folder = join(ROOT, ".cache/messages");
  await rm(folder, { recursive: true, force: true });
  const config = { extends: "../../tsconfig.json", include: ["./*.ts"], exclude: [] };
  await Bun.write(join(folder, "tsconfig.json"), JSON.stringify(config));
  for (const [index, [, code]] of rows.entries()) {
    await Bun.write(join(folder, `row${index}.ts`), `${HEAD}${code}\n`);
  }
  const tsc = Bun.spawnSync([process.execPath, "x", "tsc", "-p", folder, "--pretty", "false"], { cwd: ROOT });
  const errors = tsc.stdout.toString().split(/\n(?=\S)/);
  for (const [index, [name, , message]] of rows.entries()) {
    const own = errors.filter((error) => error.includes(`row${index}.ts`)).join("\n");
    expect([name, own]).toEqual([name, expect.stringMatching(message)]);
  }
}, 30_000);
