// What people install: the packed tarball, in an empty project of its own, for TypeScript, Bun and bundlers; and on
// Node it says what it needs.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readme, ROOT } from "./docs/markdown.js";

const folder = mkdtempSync(join(tmpdir(), "harpia-package-"));
const project = join(folder, "project");
let tarball: string;
let files: string[];

beforeAll(async () => {
  const source = join(folder, "package");
  mkdirSync(project, { recursive: true });
  for (const file of ["package.json", "README.md", "CHANGELOG.md", "LICENSE"])
    cpSync(join(ROOT, file), join(source, file));
  run(
    [
      "node",
      join(ROOT, "node_modules/typescript/bin/tsc"),
      "-p",
      "tsconfig.build.json",
      "--outDir",
      join(source, "dist"),
    ],
    ROOT,
  );
  const packed = run(["npm", "pack", "--ignore-scripts", "--json"], source);
  const [pack] = JSON.parse(packed) as [{ filename: string; files: { path: string }[] }];
  tarball = join(source, pack.filename);
  files = pack.files.map(({ path }) => path);
  await Bun.write(
    join(project, "package.json"),
    JSON.stringify({ name: "empty", private: true, type: "module" }),
  );
  run(["npm", "install", "--prefer-offline", "--no-audit", "--no-fund", tarball], project);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true }));

test("it brings nothing but the types of Standard Schema", async () => {
  const { packages } = (await Bun.file(join(project, "package-lock.json")).json()) as { packages: object };
  expect(Object.keys(packages)).toEqual(["", "node_modules/@standard-schema/spec", "node_modules/harpia"]);
});

test("it has what it needs, and nothing else", () => {
  const unexpected = files.filter(
    (file) => !/^(dist\/.*\.(js|d\.ts)|package\.json|README\.md|CHANGELOG\.md|LICENSE)$/.test(file),
  );
  expect(unexpected).toEqual([]);
  expect(files).toContain("dist/index.d.ts");
});

test("publint finds nothing", () => {
  expect(
    run(["node", join(ROOT, "node_modules/publint/src/cli.js"), "run", tarball, "--strict"], folder),
  ).toContain("All good!");
});

test("arethetypeswrong finds nothing for ESM, which is all there is", async () => {
  const cli = join(ROOT, "node_modules/@arethetypeswrong/cli/dist/index.js");
  // It exits with 1 for a problem that the profile does not ignore.
  const said = run(["node", cli, tarball, "--profile", "esm-only"], folder);
  const { exports } = (await Bun.file(join(ROOT, "package.json")).json()) as { exports: object };
  // Each from ESM and in bundlers.
  expect(said.split("🟢").length - 1).toBeGreaterThanOrEqual(2 * Object.keys(exports).length);
}, 30_000);

test("the README's samples type-check against it, and run", async () => {
  // What the reader installs beside it: Bun's types.
  mkdirSync(join(project, "node_modules/@types"), { recursive: true });
  symlinkSync(join(ROOT, "node_modules/@types/bun"), join(project, "node_modules/@types/bun"));
  symlinkSync(join(ROOT, "node_modules/zod"), join(project, "node_modules/zod"));
  for (const name of ["chat.ts", "server.ts", "client.ts", "room.ts"]) {
    await Bun.write(join(project, name), readme(name).replace("port: 3000", "port: 0"));
  }
  const compilerOptions = {
    strict: true,
    noEmit: true,
    target: "ESNext",
    module: "nodenext",
    types: ["bun"],
    skipLibCheck: true,
  };
  await Bun.write(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  expect(run(["node", join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "."], project)).toBe("");

  await using room = await start("room.ts");
  const socket = new WebSocket(`${room.url}/room/lobby?token=token-of-ada`);
  const answer = new Promise((resolve) => (socket.onmessage = ({ data }) => resolve(data)));
  socket.onopen = () => socket.send("hello");
  expect(await answer).toBe("Ada: hello");
  socket.close();

  await using server = await start("server.ts");
  await Bun.write(join(project, "client.ts"), readme("client.ts").replace("ws://localhost:3000", server.url));
  await using client = Bun.spawn([process.execPath, "client.ts"], { cwd: project, stdout: "pipe" });
  let said = "";
  for await (const text of client.stdout.pipeThrough(new TextDecoderStream())) {
    said += text;
    if (said.endsWith("\n0\n")) break;
  }
  expect(said).toStartWith("open\nAda: hello\nsaid at ");
}, 30_000);

test("its hooks bundle for browsers beside the user's React, as a module for clients", async () => {
  for (const name of ["react", "react-dom"])
    symlinkSync(join(ROOT, "node_modules", name), join(project, "node_modules", name));
  expect(await Bun.file(join(project, "node_modules/harpia/dist/react/index.js")).text()).toStartWith(
    '"use client";',
  );
  await Bun.write(
    join(project, "page.js"),
    `import { createElement } from "react";
     import { renderToString } from "react-dom/server";
     import { useChannel, useConnectionState } from "harpia/react";
     const Page = () => useConnectionState(useChannel({ path: "/" }, { url: "/" }));
     console.log(renderToString(createElement(Page)));`,
  );
  run([process.execPath, "build", "page.js", "--target=browser", "--outfile=page.out.js"], project);
  // On a server it opens nothing, so any runtime will do.
  for (const runtime of ["node", process.execPath])
    expect(run([runtime, "page.js"], project)).toBe("connecting\n");
});

test("the broker on SQLite type-checks and runs", async () => {
  await Bun.write(
    join(project, "sqlite.ts"),
    `import { sqlite } from "harpia/sqlite";
     const broker = sqlite("data/chat.db");
     const position = await broker.publish("t", "x", { history: { size: 1, ttl: 60 } });
     console.log(position?.offset);
     await broker.close();`,
  );
  const compilerOptions = {
    strict: true,
    noEmit: true,
    target: "ESNext",
    module: "nodenext",
    types: ["bun"],
  };
  await Bun.write(
    join(project, "tsconfig.sqlite.json"),
    JSON.stringify({ compilerOptions, files: ["sqlite.ts"] }),
  );
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  expect(run(["node", tsc, "-p", "tsconfig.sqlite.json"], project)).toBe("");
  expect(run([process.execPath, "sqlite.ts"], project)).toBe("1\n");
}, 30_000);

test("the broker on Redis type-checks beside the user's node-redis, and runs", async () => {
  for (const name of ["redis", "@redis"])
    symlinkSync(join(ROOT, "node_modules", name), join(project, "node_modules", name));
  await Bun.write(
    join(project, "redis.ts"),
    `import { redis } from "harpia/redis";
     import { createClient } from "redis";
     // Nobody listens there.
     const broker = redis({ url: "redis://127.0.0.1:1", timeout: 1_000 });
     await broker.publish("t", "x", { history: { size: 1, ttl: 60 } }).catch((error) => console.log(error.code));
     await broker.close();
     await redis({ client: createClient() }).close();`,
  );
  const compilerOptions = {
    strict: true,
    noEmit: true,
    target: "ESNext",
    module: "nodenext",
    types: ["bun"],
  };
  await Bun.write(
    join(project, "tsconfig.redis.json"),
    // node-redis' own types do not compile without it.
    JSON.stringify({ compilerOptions: { ...compilerOptions, skipLibCheck: true }, files: ["redis.ts"] }),
  );
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  expect(run(["node", tsc, "-p", "tsconfig.redis.json"], project)).toBe("");
  expect(run([process.execPath, "redis.ts"], project)).toBe("BROKER_UNAVAILABLE\n");
}, 30_000);

test("Bun bundles it", () => {
  const built = run([process.execPath, "build", "room.ts", "--target=bun", "--outfile=out.js"], project);
  expect(built).toContain("out.js");
});

test("harpia/testing tests an app of harpia's, and asks for no test runner", async () => {
  const script = `
    import { harpia } from "harpia";
    import { testApp } from "harpia/testing";
    const app = harpia();
    app.ws("/echo", { message: (ws, message) => void ws.send(message) });
    {
      await using t = await testApp(app);
      const socket = await t.socket("/echo");
      socket.send("hello");
      console.log(await socket.next());
    }`;
  await Bun.write(join(project, "echo.mjs"), script);
  expect(run([process.execPath, "echo.mjs"], project)).toBe("hello\n");
});

test("on Node it says that it needs Bun, and how to get it", () => {
  const script = `import("harpia").then(({ harpia }) => harpia()).catch((error) => console.log(error.code, error.message))`;
  const said = run(["node", "-e", script], project);
  expect(said).toStartWith("BUN_REQUIRED");
  expect(said).toContain("npm install bun");
});

async function start(file: string): Promise<AsyncDisposable & { url: string }> {
  const child = Bun.spawn([process.execPath, file], { cwd: project, stdout: "pipe", stderr: "inherit" });
  const { value } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  const [, address] = /^listening on http(:\S+)\/$/m.exec(value ?? "")!;
  return { url: `ws${address}`, [Symbol.asyncDispose]: () => child[Symbol.asyncDispose]() };
}

function run(command: string[], cwd: string): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, {
    cwd,
    env: { ...process.env, CI: "true", NO_COLOR: "1" },
  });
  if (exitCode !== 0)
    throw new Error(`${command.join(" ")} failed:\n${stdout.toString()}${stderr.toString()}`);
  return stdout.toString();
}
