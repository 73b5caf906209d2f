// A contract in zod, in valibot and in arktype: each part of it is checked, transformed where the documentation says,
// and typed alike on both ends.

import { describe, expect, expectTypeOf, test } from "bun:test";
import { type } from "arktype";
import { connect, isContractError, type RpcError } from "harpia/client";
import { defineChannel, type Schema } from "harpia/contract";
import * as v from "valibot";
import { z } from "zod";
import { listen, quiet } from "../support/app.js";
import { keptLog } from "../support/log.js";

interface Parts {
  /** What the client writes is trimmed on the server. */
  params: Schema<{ text: string }, { text: string }>;
  /** What the server returns is written out as text before it is sent. */
  result: Schema<number, string>;
  value: Schema<number>;
  until: Schema<{ until: number }>;
  /** An event's: as with a result, its output travels. */
  told: Schema<{ at: number }, { at: string }>;
}

const libraries: Record<string, Parts> = {
  zod: {
    params: z.object({
      text: z
        .string()
        .min(1)
        .transform((text) => text.trim()),
    }),
    result: z.number().transform(String),
    value: z.number().max(2),
    until: z.object({ until: z.number() }),
    told: z.object({ at: z.number().transform(String) }),
  },
  valibot: {
    params: v.object({ text: v.pipe(v.string(), v.minLength(1), v.trim()) }),
    result: v.pipe(v.number(), v.transform(String)),
    value: v.pipe(v.number(), v.maxValue(2)),
    until: v.object({ until: v.number() }),
    told: v.object({ at: v.pipe(v.number(), v.transform(String)) }),
  },
  arktype: {
    params: type({ text: type("string >= 1").pipe((text) => text.trim()) }),
    result: type("number").pipe(String),
    value: type("number <= 2"),
    until: type({ until: "number" }),
    told: type({ at: type("number").pipe(String) }),
  },
  "zod, async": {
    params: z
      .object({ text: z.string().refine(async (text) => text !== "") })
      .transform(async ({ text }) => ({ text: text.trim() })),
    result: z.number().transform(async (number) => String(number)),
    value: z.number().refine(async (number) => number <= 2),
    until: z.object({ until: z.number().refine(async () => true) }),
    told: z.object({ at: z.number().transform(async (at) => String(at)) }),
  },
  "valibot, async": {
    params: v.objectAsync({
      text: v.pipeAsync(
        v.string(),
        v.checkAsync(async (text) => text !== ""),
        v.trim(),
      ),
    }),
    result: v.pipeAsync(
      v.number(),
      v.transformAsync(async (number) => String(number)),
    ),
    value: v.pipeAsync(
      v.number(),
      v.checkAsync(async (number) => number <= 2),
    ),
    until: v.objectAsync({
      until: v.pipeAsync(
        v.number(),
        v.checkAsync(async () => true),
      ),
    }),
    told: v.objectAsync({
      at: v.pipeAsync(
        v.number(),
        v.transformAsync(async (at) => String(at)),
      ),
    }),
  },
};

function serve(parts: Parts) {
  const contract = defineChannel({
    path: "/c",
    methods: {
      measure: { params: parts.params, result: parts.result, errors: { MUTED: parts.until } },
      count: { params: parts.params, stream: parts.value },
    },
    events: { told: { params: parts.told }, asked: { params: parts.told, result: parts.value } },
  });
  const log = keptLog();
  const app = quiet({ logger: log });
  const live = app.channel(contract).implement({
    methods: {
      measure({ text }, { error }) {
        if (text === "muted") throw error("MUTED", { until: 7 });
        if (text === "wrong error") throw error("MUTED", { until: "7" as unknown as number });
        return text === "lie" ? ("x" as unknown as number) : text.length;
      },
      async *count({ text }) {
        for (let value = 0; value < text.length; value++) yield value;
      },
    },
  });
  const client = connect(contract, { url: `ws://127.0.0.1:${listen(app)}` });
  return {
    contract,
    log,
    live,
    client,
    async [Symbol.asyncDispose]() {
      client.close();
      await app.stop({ timeout: 100 });
    },
  };
}

async function rejection(promise: Promise<unknown>): Promise<RpcError> {
  try {
    await promise;
  } catch (error) {
    return error as RpcError;
  }
  throw new Error("it did not reject");
}

for (const [name, parts] of Object.entries(libraries)) {
  describe(`a contract in ${name}:`, () => {
    test("params are transformed on the server, a result before it is sent", async () => {
      await using on = serve(parts);
      expect(await on.client.call("measure", { text: "  four " })).toBe("4");
    });

    test("params that it refuses are INVALID_PARAMS, with the path to what is wrong", async () => {
      await using on = serve(parts);
      for (const text of ["", 5 as unknown as string]) {
        const { reason, data } = await rejection(on.client.call("measure", { text }));
        expect([reason, data]).toEqual([
          "INVALID_PARAMS",
          { issues: [{ message: expect.any(String), path: ["text"] }] },
        ]);
      }
    });

    test("a result that it refuses is INTERNAL, and the log says what is wrong", async () => {
      await using on = serve(parts);
      expect((await rejection(on.client.call("measure", { text: "lie" }))).reason).toBe("INTERNAL");
      expect(String(on.log.lines.at(-1)?.fields.error)).toContain("the result of measure does not match");
    });

    test("an error arrives with its data, and is INTERNAL when that does not fit", async () => {
      await using on = serve(parts);
      const error: unknown = await rejection(on.client.call("measure", { text: "muted" }));
      if (!isContractError(error, on.contract, "measure", "MUTED")) throw new Error("not narrowed");
      expectTypeOf(error.data).toEqualTypeOf<{ until: number }>();
      expect(error.data.until).toBe(7);
      expect((await rejection(on.client.call("measure", { text: "wrong error" }))).reason).toBe("INTERNAL");
    });

    test("a stream's values are checked one by one: those before a wrong one arrive", async () => {
      await using on = serve(parts);
      const values: number[] = [];
      const read = async (text: string): Promise<void> => {
        for await (const value of on.client.stream("count", { text })) values.push(value);
      };
      await read(" abc ");
      expect(values.splice(0)).toEqual([0, 1, 2]);
      expect((await rejection(read("abcdef"))).reason).toBe("INTERNAL");
      expect(values).toEqual([0, 1, 2]);
      expect((await rejection(read(""))).reason).toBe("INVALID_PARAMS");
    });

    test("an event is transformed before it is sent, and refused where it is written; so is an answer", async () => {
      await using on = serve(parts);
      const told = new Promise((resolve) => on.client.on("told", resolve));
      let answer = 2;
      on.client.answer("asked", ({ at }) => (at === "9" ? answer : 0));
      await on.client.call("measure", { text: "a" });
      const [ws] = on.live.connections;
      await on.live.emit(ws!, "told", { at: 5 });
      expect(await told).toEqual({ at: "5" });
      expect(
        (await rejection(on.live.emit(ws!, "told", { at: "5" as unknown as number }))).message,
      ).toContain("the params of told does not match the contract");
      expect(await on.live.ask(ws!, "asked", { at: 9 })).toBe(2);
      answer = 3;
      expect((await rejection(on.live.ask(ws!, "asked", { at: 9 }))).message).toContain(
        "the client's answer to asked does not match the contract",
      );
    });
  });
}
