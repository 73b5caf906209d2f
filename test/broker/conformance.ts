// What src/broker/broker.ts promises, tried on a broker. Every test uses topics of its own, so brokers may share one
// store; nothing waits for less than a second, so a broker may be slow or far away.

import { afterEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type Broker,
  type HistoryOptions,
  type Members,
  type Page,
  type PageLimits,
  type Position,
  type Publication,
  type Range,
  type StoredMessage,
} from "../../src/broker/broker.js";
import { changeIn } from "../../src/broker/presence.js";

export interface Conformance {
  /** Closes a broker in good order and opens its store again. For brokers that keep what they have. */
  reopen?: (broker: Broker) => Promise<Broker>;
  /** A second broker on the same store, as another process has it. For brokers that are shared. */
  peer?: () => Promise<Broker> | Broker;
  /** Runs of the property test. Default 40. */
  runs?: number;
  /** Milliseconds a test may take. Default 30,000. */
  timeout?: number;
}

const HOUR: HistoryOptions = { size: 100, ttl: 3600 };
const PAGE: PageLimits = { messages: 100, bytes: 65_536 };
/** The shortest ttl that a broker has to keep apart from none, in seconds. */
const SHORT = 1;

let count = 0;
/** A name that no other test, and no other run on the same store, has used. */
const fresh = (name = "topic"): string => `${name}-${Date.now().toString(36)}-${process.pid}-${count++}`;

export function conformance(
  name: string,
  make: () => Promise<Broker> | Broker,
  { reopen, peer, runs = 40, timeout = 30_000 }: Conformance = {},
): void {
  const made = new Set<Broker>();
  const keep = (broker: Broker): Broker => {
    made.add(broker);
    return broker;
  };
  const open = async (): Promise<Broker> => keep(await make());
  const it = (title: string, run: () => Promise<void>): void => test(title, run, timeout);

  afterEach(async () => {
    await Promise.all([...made].map((broker) => broker.close()));
    made.clear();
  });

  describe(`${name}: publish`, () => {
    it("numbers publications from 1, without a break, in one epoch", async () => {
      const broker = await open();
      const topic = fresh();
      const positions: (Position | undefined)[] = [];
      for (let i = 0; i < 5; i++) positions.push(await broker.publish(topic, `${i}`, { history: HOUR }));
      const epoch = positions[0]!.epoch;
      expect(epoch).toMatch(/^\S{1,32}$/);
      expect(positions).toEqual([1, 2, 3, 4, 5].map((offset) => ({ epoch, offset })));
    });

    it("numbers each topic on its own", async () => {
      const broker = await open();
      const [a, b] = [fresh(), fresh()];
      await broker.publish(a, "a1", { history: HOUR });
      await broker.publish(a, "a2", { history: HOUR });
      expect((await broker.publish(b, "b1", { history: HOUR }))!.offset).toBe(1);
      expect((await broker.publish(a, "a3", { history: HOUR }))!.offset).toBe(3);
    });

    it("gives the first publication the epoch that the topic had when it was only read", async () => {
      const broker = await open();
      const topic = fresh();
      const [before] = await broker.positions([topic]);
      expect(before!.offset).toBe(0);
      expect(await broker.publish(topic, "x", { history: HOUR })).toEqual({
        epoch: before!.epoch,
        offset: 1,
      });
    });

    it("gives publications made at once, in one topic and in many, numbers in the order of the calls", async () => {
      const broker = await open();
      const topics = [fresh(), fresh(), fresh()];
      const calls = Array.from({ length: 300 }, (_, i) =>
        broker.publish(topics[i % 3]!, `${i}`, { history: { size: 1000, ttl: 3600 } }),
      );
      const offsets = (await Promise.all(calls)).map((position) => position!.offset);
      expect(offsets).toEqual(Array.from({ length: 300 }, (_, i) => Math.floor(i / 3) + 1));
      const page = await broker.read(topics[1]!, { last: 100 }, PAGE);
      expect(page.messages.map(({ payload }) => Number(payload))).toEqual(
        Array.from({ length: 100 }, (_, i) => i * 3 + 1),
      );
    });

    it("keeps what it stored as it is: NUL, quotes, unicode, nothing, 1 MiB; under names of all kinds", async () => {
      const broker = await open();
      const payloads = [
        "",
        "\0",
        "a\0b",
        `'"\`;--\\`,
        "é漢😀",
        "\r\n\u2028",
        "{}",
        "0",
        "-1e5",
        "x".repeat(1 << 20),
      ];
      const names = [
        "",
        "\0",
        "a\0b",
        "a\0c",
        "a",
        `'; DROP TABLE topics; --`,
        `"`,
        "{tag}",
        "a:b",
        "漢/é",
        "😀",
        "e\u0301",
        "*?[a]",
        "n".repeat(256),
        "__proto__",
        "constructor",
      ];
      const prefix = fresh();
      for (const name of names) {
        const topic = prefix + name;
        const heard = await listen(broker, topic);
        for (const payload of payloads) await broker.publish(topic, payload, { history: HOUR });
        expect(await readAll(broker, topic)).toEqual(payloads);
        await heard.until(payloads.length);
        expect(heard.payloads).toEqual(payloads);
        await heard.stop();
      }
    });

    it("delivers one without history to whoever is there, without a position, and keeps nothing", async () => {
      const broker = await open();
      const topic = fresh();
      await broker.publish(topic, "nobody", {});
      const heard = await listen(broker, topic, false);
      expect(heard.position).toBeUndefined();
      expect(await broker.publish(topic, "a", {})).toBeUndefined();
      expect(await broker.publish(topic, "b", { except: "me" })).toBeUndefined();
      await heard.until(2);
      expect(heard.all).toEqual([
        { position: undefined, payload: "a", except: undefined },
        { position: undefined, payload: "b", except: "me" },
      ]);
      expect((await broker.read(topic, { last: 10 }, PAGE)).messages).toEqual([]);
      expect((await broker.positions([topic]))[0]!.offset).toBe(0);
    });
  });

  describe(`${name}: deliver`, () => {
    it("hands each publication to every subscriber, once, in order, with its position and `except`", async () => {
      const broker = await open();
      const topic = fresh();
      const [first, second] = [await listen(broker, topic), await listen(broker, topic)];
      const one = await broker.publish(topic, "one", { history: HOUR });
      const two = await broker.publish(topic, "two", { history: HOUR, except: "connection 7" });
      const expected = [
        { position: one, payload: "one", except: undefined },
        { position: two, payload: "two", except: "connection 7" },
      ];
      await Promise.all([first.until(2), second.until(2)]);
      expect(first.all).toEqual(expected);
      expect(second.all).toEqual(expected);
    });

    it("keeps the order under concurrent publishers, whether or not they wait for each other", async () => {
      const broker = await open();
      const topic = fresh();
      const heard = [await listen(broker, topic), await listen(broker, topic), await listen(broker, topic)];
      const publisher = async (who: string): Promise<void> => {
        for (let i = 0; i < 25; i++) {
          const positions = await Promise.all([
            broker.publish(topic, `${who}${i}a`, { history: HOUR }),
            broker.publish(topic, `${who}${i}b`, { history: HOUR }),
          ]);
          expect(positions[0]!.offset).toBeLessThan(positions[1]!.offset);
        }
      };
      await Promise.all(["a", "b", "c", "d"].map(publisher));
      for (const each of heard) {
        await each.until(200);
        expect(each.offsets).toEqual(range(1, 200));
        expect(each.payloads).toEqual(heard[0]!.payloads);
      }
      const stored = await readAll(broker, topic);
      expect(stored).toEqual(heard[0]!.payloads.slice(100));
    });

    it("keeps the order when a subscriber publishes as it is delivered to", async () => {
      const broker = await open();
      const topic = fresh();
      const answers: Promise<unknown>[] = [];
      const answering = await broker.subscribe(
        topic,
        ({ position, payload }) => {
          if (position!.offset < 5) answers.push(broker.publish(topic, `${payload}+`, { history: HOUR }));
        },
        { history: true },
      );
      const heard = await listen(broker, topic);
      await broker.publish(topic, "0", { history: HOUR });
      await heard.until(5);
      await Promise.all(answers);
      expect(heard.offsets).toEqual([1, 2, 3, 4, 5]);
      await answering.unsubscribe();
    });

    it("does not deliver to another topic's subscribers", async () => {
      const broker = await open();
      const [a, b] = [fresh("a"), fresh("a")];
      const heard = await listen(broker, a);
      await broker.publish(b, "other", { history: HOUR });
      await broker.publish(a, "own", { history: HOUR });
      await heard.until(1);
      expect(heard.payloads).toEqual(["own"]);
    });

    it("loses nothing and repeats nothing between a subscription's position and what it delivers", async () => {
      const broker = await open();
      const topic = fresh();
      const history = { size: 1000, ttl: 3600 };
      const publishing = (async () => {
        for (let i = 1; i <= 200; i++) await broker.publish(topic, `${i}`, { history });
      })();
      const all = [];
      for (let i = 0; i < 20; i++) all.push(await listen(broker, topic));
      await publishing;
      for (const heard of all) {
        const { offset } = heard.position!;
        await heard.until(200 - offset);
        expect(heard.offsets).toEqual(range(offset + 1, 200));
      }
    });

    it("gives one who subscribes while it is delivered to only what comes later", async () => {
      const broker = await open();
      const topic = fresh();
      const late: Promise<Heard>[] = [];
      const early = await broker.subscribe(topic, () => void late.push(listen(broker, topic)), {
        history: true,
      });
      await Promise.all(range(1, 10).map((i) => broker.publish(topic, `${i}`, { history: HOUR })));
      await poll(() => late.length >= 10);
      await early.unsubscribe();
      await broker.publish(topic, "11", { history: HOUR });
      for (const heard of await Promise.all(late)) {
        const { offset } = heard.position!;
        await heard.until(11 - offset);
        expect(heard.offsets).toEqual(range(offset + 1, 11));
      }
    });

    it("delivers nothing after `unsubscribe` was called, and that twice is fine", async () => {
      const broker = await open();
      const topic = fresh();
      const [gone, stays] = [await listen(broker, topic), await listen(broker, topic)];
      await broker.publish(topic, "1", { history: HOUR });
      await Promise.all([gone.until(1), stays.until(1)]);
      const pending = broker.publish(topic, "2", { history: HOUR });
      const had = gone.all.length;
      await Promise.all([gone.stop(), gone.stop()]);
      await gone.stop();
      await pending;
      await broker.publish(topic, "3", { history: HOUR });
      await stays.until(3);
      expect(gone.all.length).toBe(had);
      expect(stays.payloads).toEqual(["1", "2", "3"]);
    });

    it("takes a subscription again after the last one went", async () => {
      const broker = await open();
      for (const history of [true, false]) {
        const topic = fresh();
        for (const payload of ["1", "2", "3"]) {
          const heard = await listen(broker, topic, history);
          await broker.publish(topic, payload, history ? { history: HOUR } : {});
          await heard.until(1);
          expect(heard.payloads).toEqual([payload]);
          await heard.stop();
        }
      }
    });

    it("takes one function twice, as two subscriptions", async () => {
      const broker = await open();
      const topic = fresh();
      const payloads: string[] = [];
      const deliver = ({ payload }: Publication): void => void payloads.push(payload);
      const first = await broker.subscribe(topic, deliver, { history: true });
      const second = await broker.subscribe(topic, deliver, { history: true });
      await broker.publish(topic, "a", { history: HOUR });
      await poll(() => payloads.length === 2);
      await first.unsubscribe();
      await broker.publish(topic, "b", { history: HOUR });
      await poll(() => payloads.length === 3);
      expect(payloads).toEqual(["a", "a", "b"]);
      await second.unsubscribe();
    });
  });

  describe(`${name}: read`, () => {
    it("reads a topic that nobody knew as empty, at offset 0, and after that position all is there", async () => {
      const broker = await open();
      const topic = fresh();
      const page = await broker.read(topic, { last: 10 }, PAGE);
      expect(page).toEqual({
        position: { epoch: page.position.epoch, offset: 0 },
        recovered: false,
        messages: [],
        complete: true,
      });
      expect(await broker.read(topic, { after: page.position }, PAGE)).toEqual({ ...page, recovered: true });
      expect(await broker.positions([topic])).toEqual([page.position]);
    });

    it("reads what follows a position, oldest first", async () => {
      const { broker, topic, at, position } = await filled(await open(), 10);
      const all = range(1, 10).map((offset) => ({ offset, payload: `m${offset}` }));
      for (const offset of [0, 1, 7, 9, 10]) {
        expect(await broker.read(topic, { after: at(offset) }, PAGE)).toEqual({
          position,
          recovered: true,
          messages: all.slice(offset),
          complete: true,
        });
      }
    });

    it("does not recover from another epoch, or from a position above the newest", async () => {
      const { broker, topic, at, position } = await filled(await open(), 3);
      const lost = { position, recovered: false, messages: [], complete: true };
      for (const after of [
        { epoch: "other", offset: 3 },
        { epoch: "", offset: 0 },
        at(4),
        at(1e9),
        at(Number.MAX_SAFE_INTEGER),
        at(-1),
      ])
        expect([after, await broker.read(topic, { after }, PAGE)]).toEqual([after, lost]);
      for (const before of [{ epoch: "other", offset: 3 }, at(5), at(1e9)])
        expect([before, await broker.read(topic, { before }, PAGE)]).toEqual([before, lost]);
    });

    it("recovers from a trimmed log only where the next message is still there", async () => {
      const { broker, topic, at, position } = await filled(await open(), 20, { size: 5, ttl: 3600 });
      const recovered = async (offset: number): Promise<[boolean, number[]]> => {
        const page = await broker.read(topic, { after: at(offset) }, PAGE);
        return [page.recovered, page.messages.map((message) => message.offset)];
      };
      expect(position.offset).toBe(20);
      expect(await recovered(20)).toEqual([true, []]);
      expect(await recovered(15)).toEqual([true, [16, 17, 18, 19, 20]]);
      expect(await recovered(14)).toEqual([false, []]);
      expect(await recovered(0)).toEqual([false, []]);
    });

    it("reads what precedes a position: the nearest, oldest first, `complete` at the oldest that is kept", async () => {
      const { broker, topic, at, position } = await filled(await open(), 20, { size: 10, ttl: 3600 });
      const before = async (offset: number, messages: number): Promise<[number[], boolean]> => {
        const page = await broker.read(topic, { before: at(offset) }, { messages, bytes: 65_536 });
        expect(page.position).toEqual(position);
        expect(page.recovered).toBe(true);
        return [page.messages.map((message) => message.offset), page.complete];
      };
      expect(await before(21, 3)).toEqual([[18, 19, 20], false]);
      expect(await before(20, 100)).toEqual([range(11, 19), true]);
      expect(await before(14, 3)).toEqual([[11, 12, 13], true]);
      expect(await before(14, 2)).toEqual([[12, 13], false]);
      expect(await before(11, 5)).toEqual([[], true]);
      expect(await before(3, 5)).toEqual([[], true]);
    });

    it("reads the newest, never `recovered`", async () => {
      const { broker, topic, position } = await filled(await open(), 20, { size: 10, ttl: 3600 });
      const last = async (n: number): Promise<number[]> => {
        const page = await broker.read(topic, { last: n }, PAGE);
        expect(page).toMatchObject({ position, recovered: false, complete: true });
        return page.messages.map((message) => message.offset);
      };
      expect(await last(0)).toEqual([]);
      expect(await last(1)).toEqual([20]);
      expect(await last(4)).toEqual([17, 18, 19, 20]);
      expect(await last(10)).toEqual(range(11, 20));
      expect(await last(1e9)).toEqual(range(11, 20));
    });

    it("ends a page at so many messages, and pages lead to the end", async () => {
      const { broker, topic, at } = await filled(await open(), 23);
      const limits = { messages: 5, bytes: 65_536 };
      const forward = await pagesAfter(broker, topic, at(0), limits);
      expect(forward.map(({ messages }) => messages.map(({ offset }) => offset))).toEqual([
        range(1, 5),
        range(6, 10),
        range(11, 15),
        range(16, 20),
        range(21, 23),
      ]);
      const exactly = await broker.read(topic, { after: at(18) }, limits);
      expect([exactly.messages.length, exactly.complete]).toEqual([5, true]);
      const newest = await broker.read(topic, { last: 8 }, limits);
      expect([newest.messages.map(({ offset }) => offset), newest.complete]).toEqual([range(16, 20), false]);

      const back: number[] = [];
      let page = await broker.read(topic, { before: at(24) }, limits);
      for (let turns = 0; turns < 10; turns++) {
        back.unshift(...page.messages.map(({ offset }) => offset));
        if (page.complete) break;
        page = await broker.read(topic, { before: at(back[0]!) }, limits);
      }
      expect(back).toEqual(range(1, 23));
    });

    it("ends a page at so many bytes of UTF-8, and has at least one message however big it is", async () => {
      const broker = await open();
      const topic = fresh();
      // 8, 9, 12, 3000, 1 and 0 bytes.
      for (const payload of ["x".repeat(8), "漢漢漢", "😀😀😀", "漢".repeat(1000), "y", ""])
        await broker.publish(topic, payload, { history: HOUR });
      const [position] = await broker.positions([topic]);
      const offsets = async (range: Range, bytes: number): Promise<[number[], boolean]> => {
        const page = await broker.read(topic, range, { messages: 100, bytes });
        return [page.messages.map(({ offset }) => offset), page.complete];
      };
      const start = { ...position!, offset: 0 };
      expect(await offsets({ after: start }, 29)).toEqual([[1, 2, 3], false]);
      expect(await offsets({ after: start }, 28)).toEqual([[1, 2], false]);
      expect(await offsets({ after: start }, 17)).toEqual([[1, 2], false]);
      expect(await offsets({ after: start }, 16)).toEqual([[1], false]);
      expect(await offsets({ after: start }, 0)).toEqual([[1], false]);
      expect(await offsets({ after: { ...start, offset: 3 } }, 5)).toEqual([[4], false]);
      expect(await offsets({ after: { ...start, offset: 4 } }, 1)).toEqual([[5, 6], true]);
      expect(await offsets({ before: { ...start, offset: 5 } }, 5)).toEqual([[4], false]);
      expect(await offsets({ before: { ...start, offset: 4 } }, 21)).toEqual([[2, 3], false]);
      expect(await offsets({ last: 6 }, 17)).toEqual([[1, 2], false]);
      expect(await offsets({ last: 3 }, 10)).toEqual([[4], false]);
    });

    it("has a publication once `publish` has resolved", async () => {
      const broker = await open();
      const topic = fresh();
      for (let i = 1; i <= 50; i++) {
        const position = await broker.publish(topic, `${i}`, { history: HOUR });
        const page = await broker.read(topic, { last: 1 }, PAGE);
        expect(page).toMatchObject({ position, messages: [{ offset: i, payload: `${i}` }] });
      }
    });
  });

  describe(`${name}: trimming`, () => {
    it("keeps no more than `size`, and offsets go on", async () => {
      const broker = await open();
      for (const size of [1, 2, 7]) {
        const topic = fresh();
        for (let i = 1; i <= 100; i++) {
          await broker.publish(topic, `${i}`, { history: { size, ttl: 3600 } });
          if (i % 9 === 0)
            expect(await readAll(broker, topic)).toEqual(
              range(Math.max(1, i - size + 1), i).map((n) => `${n}`),
            );
        }
      }
    });

    it("forgets what is older than `ttl`, its idempotency key too, but not the topic's position", async () => {
      const broker = await open();
      const topic = fresh();
      const history = { size: 100, ttl: SHORT };
      for (let i = 1; i <= 3; i++)
        await broker.publish(topic, `${i}`, { history, idempotencyKey: `key ${i}` });
      await poll(async () => (await broker.read(topic, { last: 10 }, PAGE)).messages.length === 0);
      const [position] = await broker.positions([topic]);
      expect(position!.offset).toBe(3);
      const read = async (offset: number): Promise<Page> =>
        await broker.read(topic, { after: { ...position!, offset } }, PAGE);
      expect(await read(3)).toEqual({ position: position!, recovered: true, messages: [], complete: true });
      expect((await read(2)).recovered).toBe(false);
      await poll(
        async () => (await broker.publish(topic, "4", { history, idempotencyKey: "key 1" }))!.offset === 4,
      );
      expect(await readAll(broker, topic)).toEqual(["4"]);
    });
  });

  describe(`${name}: idempotency`, () => {
    it("stores and delivers a repeat not at all, and resolves with the first position", async () => {
      const broker = await open();
      const topic = fresh();
      const heard = await listen(broker, topic);
      const options = { history: HOUR, idempotencyKey: "k" };
      const first = await broker.publish(topic, "a", options);
      expect(await broker.publish(topic, "another payload", options)).toEqual(first);
      const second = await broker.publish(topic, "b", { ...options, idempotencyKey: "K" });
      expect(await broker.publish(topic, "a", options)).toEqual(first);
      expect(second!.offset).toBe(2);
      await heard.until(2);
      expect(heard.payloads).toEqual(["a", "b"]);
      expect(await readAll(broker, topic)).toEqual(["a", "b"]);
    });

    it("stores one of many that are made at once", async () => {
      const broker = await open();
      const topic = fresh();
      const heard = await listen(broker, topic);
      const options = { history: HOUR, idempotencyKey: "k" };
      const all = await Promise.all(range(1, 20).map((i) => broker.publish(topic, `${i}`, options)));
      expect(new Set(all.map((position) => position!.offset))).toEqual(new Set([1]));
      await broker.publish(topic, "end", { history: HOUR });
      await heard.until(2);
      expect(heard.payloads).toEqual(["1", "end"]);
    });

    it("knows keys per topic, of any kind, and longer than the message is kept by `size`", async () => {
      const broker = await open();
      const [a, b] = [fresh(), fresh()];
      const history = { size: 2, ttl: 3600 };
      const keys = ["k", "", "\0", `'"`, "漢😀", "__proto__", "k".repeat(1000)];
      const first: (Position | undefined)[] = [];
      for (const idempotencyKey of keys)
        first.push(await broker.publish(a, "x", { history, idempotencyKey }));
      expect(first.map((position) => position!.offset)).toEqual(range(1, keys.length));
      for (const [index, idempotencyKey] of keys.entries())
        expect(await broker.publish(a, "x", { history, idempotencyKey })).toEqual(first[index]);
      expect((await broker.publish(b, "x", { history, idempotencyKey: "k" }))!.offset).toBe(1);
    });
  });

  describe(`${name}: positions`, () => {
    it("come one for each topic, in order; none for none; the same again", async () => {
      const broker = await open();
      const topics = [fresh(), fresh(), fresh()];
      const published = await broker.publish(topics[1]!, "x", { history: HOUR });
      const asked = [topics[2]!, topics[1]!, topics[0]!, topics[1]!];
      const positions = await broker.positions(asked);
      expect(positions.map((position) => position!.offset)).toEqual([0, 1, 0, 1]);
      expect(positions[1]).toEqual(published!);
      expect(positions[3]).toEqual(published!);
      expect(await broker.positions(asked)).toEqual(positions);
      expect(await broker.positions([])).toEqual([]);
    });

    it("are there for 10,000 topics", async () => {
      const broker = await open();
      const prefix = fresh();
      const topics = range(0, 9_999).map((i) => `${prefix}/${i}`);
      const published = await Promise.all(
        topics.map((topic) => broker.publish(topic, topic, { history: { size: 5, ttl: 60 } })),
      );
      expect(await broker.positions(topics)).toEqual(published as Position[]);
      for (const topic of [topics[0]!, topics[5_000]!, topics[9_999]!])
        expect(await readAll(broker, topic)).toEqual([topic]);
    });
  });

  describe(`${name}: presence`, () => {
    it("says when a key appeared with its first owner and vanished with its last", async () => {
      const { presence } = await open();
      const topic = fresh();
      expect(await presence.put(topic, "ada", "tab 1", "{}", 60_000)).toEqual({ appeared: true });
      expect(await presence.put(topic, "ada", "tab 2", "{}", 60_000)).toEqual({ appeared: false });
      expect(await presence.put(topic, "ada", "tab 1", "{}", 60_000)).toEqual({ appeared: false });
      expect(await presence.remove(topic, "ada", "tab 1")).toEqual({ vanished: false });
      expect(await presence.remove(topic, "ada", "tab 1")).toEqual({ vanished: false });
      expect(await presence.remove(topic, "ada", "tab 2")).toEqual({ vanished: true });
      expect(await presence.remove(topic, "ada", "tab 2")).toEqual({ vanished: false });
      expect(await presence.remove(topic, "nobody", "tab 2")).toEqual({ vanished: false });
      expect(await presence.remove(fresh(), "ada", "tab 2")).toEqual({ vanished: false });
      expect(await presence.put(topic, "ada", "tab 3", "{}", 60_000)).toEqual({ appeared: true });
    });

    it("says it to exactly one of many at once", async () => {
      const { presence } = await open();
      const topic = fresh();
      const owners = range(1, 20).map((i) => `owner ${i}`);
      const puts = await Promise.all(owners.map((owner) => presence.put(topic, "k", owner, "{}", 60_000)));
      expect(puts.filter(({ appeared }) => appeared).length).toBe(1);
      const removes = await Promise.all(owners.map((owner) => presence.remove(topic, "k", owner)));
      expect(removes.filter(({ vanished }) => vanished).length).toBe(1);
      expect(await members(presence.list(topic))).toEqual([]);
    });

    it("lists each key once, with the info put last, topic by topic", async () => {
      const { presence } = await open();
      const [topic, other] = [fresh(), fresh()];
      expect(await members(presence.list(topic))).toEqual([]);
      await presence.put(topic, "ada", "1", `{"n":1}`, 60_000);
      await presence.put(topic, "ada", "2", `{"n":2}`, 60_000);
      await presence.put(topic, "bob\0 '漢😀", "1", `{"s":"\\"漢"}`, 60_000);
      await presence.put(other, "cyd", "1", `{}`, 60_000);
      expect(await members(presence.list(topic))).toEqual([
        ["ada", `{"n":2}`],
        ["bob\0 '漢😀", `{"s":"\\"漢"}`],
      ]);
      await presence.put(topic, "ada", "1", `{"n":3}`, 60_000);
      expect((await members(presence.list(topic)))[0]).toEqual(["ada", `{"n":3}`]);
      await presence.remove(topic, "ada", "1");
      expect((await members(presence.list(topic)))[0]).toEqual(["ada", `{"n":2}`]);
      expect(await members(presence.list(other))).toEqual([["cyd", "{}"]]);
    });

    it("publishes what changes of a key: that it came, its info, that it went; and nothing else", async () => {
      const broker = await open();
      const { presence } = broker;
      const topic = fresh();
      const heard = await changes(broker, topic);
      const key = "bob\n\0 '漢😀";
      await presence.put(topic, "ada", "1", `{"n":1}`, 60_000);
      await presence.put(topic, "ada", "1", `{"n":1}`, 60_000);
      await presence.put(topic, key, "1", `"\\n漢"`, 60_000);
      await presence.put(topic, "ada", "2", `{"n":1}`, 60_000);
      await presence.put(topic, "ada", "2", `{"n":2}`, 60_000);
      await presence.remove(topic, "ada", "1");
      await presence.put(topic, "ada", "3", `{"n":3}`, 60_000);
      await presence.remove(topic, "ada", "3");
      await presence.remove(topic, "ada", "3");
      await presence.remove(topic, "ada", "2");
      await presence.remove(topic, key, "1");
      await presence.remove(topic, key, "1");
      await heard.until(7);
      expect(heard.told).toEqual([
        ["ada", `{"n":1}`],
        [key, `"\\n漢"`],
        ["ada", `{"n":2}`],
        ["ada", `{"n":3}`],
        ["ada", `{"n":2}`],
        ["ada"],
        [key],
      ]);
    });

    it("shows the info that was given last, not that of the lease that was renewed last", async () => {
      const broker = await open();
      const { presence } = broker;
      const topic = fresh();
      await presence.put(topic, "ada", "1", `{"n":1}`, 60_000);
      await presence.put(topic, "ada", "2", `{"n":2}`, 60_000);
      const heard = await changes(broker, topic);
      await presence.put(topic, "ada", "1", `{"n":1}`, 60_000);
      expect(await members(presence.list(topic))).toEqual([["ada", `{"n":2}`]]);
      await presence.put(topic, "last", "1", "{}", 60_000);
      await heard.until(1);
      expect(heard.told).toEqual([["last", "{}"]]);
    });

    it("keeps its epoch for as long as no leases are lost", async () => {
      const { presence } = await open();
      const topic = fresh();
      const { epoch } = await presence.list(topic);
      await presence.put(topic, "ada", "1", "{}", 60_000);
      await presence.remove(topic, "ada", "1");
      expect(await presence.list(topic)).toEqual({ members: [], epoch });
    });

    it("ends with the lease, which a put renews", async () => {
      const { presence } = await open();
      const topic = fresh();
      await presence.put(topic, "short", "1", "{}", SHORT * 1000);
      await presence.put(topic, "renewed", "1", "{}", SHORT * 1000);
      await presence.put(topic, "renewed", "1", "{}", 60_000);
      await presence.put(topic, "merged", "1", "{}", SHORT * 1000);
      await presence.put(topic, "merged", "2", "{}", 60_000);
      await poll(async () => !(await presence.list(topic)).members.some(({ key }) => key === "short"));
      expect((await members(presence.list(topic))).map(([key]) => key)).toEqual(["merged", "renewed"]);
      expect(await presence.put(topic, "short", "2", "{}", 60_000)).toEqual({ appeared: true });
      expect(await presence.remove(topic, "merged", "2")).toEqual({ vanished: true });
    });
  });

  describe(`${name}: life`, () => {
    it("is healthy while open, and not when closed", async () => {
      const broker = await open();
      expect(broker.health()).toEqual({ ok: true });
      await broker.close();
      expect(broker.health().ok).toBe(false);
      expect(broker.health().reason).toBeString();
    });

    it("rejects everything with BROKER_CLOSED once closed; closing twice is fine", async () => {
      const broker = await open();
      const topic = fresh();
      const subscription = await broker.subscribe(topic, () => {}, { history: true });
      await Promise.all([broker.close(), broker.close()]);
      await broker.close();
      const calls: [string, () => Promise<unknown>][] = [
        ["publish", () => broker.publish(topic, "x", { history: HOUR })],
        ["publish without history", () => broker.publish(topic, "x", {})],
        ["subscribe", () => broker.subscribe(topic, () => {}, { history: true })],
        ["subscribe without history", () => broker.subscribe(topic, () => {}, { history: false })],
        ["read", () => broker.read(topic, { last: 1 }, PAGE)],
        ["positions", () => broker.positions([topic])],
        ["put", () => broker.presence.put(topic, "k", "o", "{}", 1000)],
        ["remove", () => broker.presence.remove(topic, "k", "o")],
        ["list", () => broker.presence.list(topic)],
      ];
      for (const [call, act] of calls) {
        const code = await act().then(
          () => "resolved",
          (error: { name?: string; code?: string }) => `${error.name} ${error.code}`,
        );
        expect([call, code]).toEqual([call, "BrokerError BROKER_CLOSED"]);
      }
      await subscription.unsubscribe();
    });

    it("settles what was published right before it closed", async () => {
      const broker = await open();
      const topic = fresh();
      const pending = range(1, 20).map((i) => broker.publish(topic, `${i}`, { history: HOUR }));
      const settled = Promise.allSettled(pending);
      await broker.close();
      for (const result of await settled)
        if (result.status === "rejected")
          expect((result.reason as { code: string }).code).toMatch(/^BROKER_(CLOSED|UNAVAILABLE)$/);
    });
  });

  describe(`${name}: as a model has it`, () => {
    it("any publications and reads, in any order", async () => {
      const broker = await open();
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
          const prefix = fresh();
          const heard = [await listen(broker, `${prefix}0`), await listen(broker, `${prefix}1`)];
          const models = [new Model(3), new Model(17)];
          for (const each of steps) {
            const topic = `${prefix}${each.topic}`;
            const model = models[each.topic]!;
            if (each.do === "read") {
              const { epoch } = (await broker.positions([topic]))[0]!;
              const page = await broker.read(topic, each.range(epoch, model.newest), each.limits);
              expect(page).toEqual(model.read(epoch, each.range(epoch, model.newest), each.limits));
            } else {
              const calls = each.payloads.map(({ payload, key }) => {
                const history = { size: model.size, ttl: 3600 };
                return broker.publish(topic, payload, { history, idempotencyKey: key });
              });
              const expected = each.payloads.map(({ payload, key }) => model.publish(payload, key));
              const positions = await Promise.all(calls);
              expect(positions.map((position) => position!.offset)).toEqual(expected);
            }
          }
          for (const [index, model] of models.entries()) {
            await heard[index]!.until(model.newest);
            expect(heard[index]!.payloads).toEqual(model.log);
            expect(heard[index]!.offsets).toEqual(range(1, model.newest));
            await heard[index]!.stop();
          }
        }),
        { numRuns: runs },
      );
    });
  });

  if (reopen) {
    describe(`${name}: opened again`, () => {
      it("has its positions, its log and its idempotency keys, and goes on", async () => {
        let broker = await open();
        const [topic, quiet, readOnly] = [fresh(), fresh(), fresh()];
        const history = { size: 10, ttl: 3600 };
        for (let i = 1; i <= 25; i++)
          await broker.publish(topic, `${i}`, { history, idempotencyKey: `key ${i}` });
        const [before] = await broker.positions([topic]);
        await broker.publish(quiet, "gone soon", { history: { size: 10, ttl: SHORT } });
        const others = await broker.positions([quiet, readOnly]);
        const log = await readAll(broker, topic);
        broker = keep(await reopen(broker));
        expect(await broker.positions([topic, quiet, readOnly])).toEqual([before!, ...others]);
        expect(await readAll(broker, topic)).toEqual(log);
        expect(await broker.read(topic, { after: { ...before!, offset: 20 } }, PAGE)).toMatchObject({
          recovered: true,
          messages: range(21, 25).map((n) => ({ offset: n, payload: `${n}` })),
        });
        const repeat = await broker.publish(topic, "x", { history, idempotencyKey: "key 3" });
        expect(repeat).toEqual({ ...before!, offset: 3 });
        expect(await broker.publish(topic, "26", { history })).toEqual({ ...before!, offset: 26 });
        await poll(async () => (await broker.read(quiet, { last: 1 }, PAGE)).messages.length === 0);
        expect(await broker.positions([quiet])).toEqual([others[0]!]);
      });
    });
  }

  if (peer) {
    describe(`${name}: in two processes`, () => {
      it("numbers and delivers alike in both", async () => {
        const [one, two] = [await open(), keep(await peer())];
        const topic = fresh();
        expect(await two.positions([topic])).toEqual(await one.positions([topic]));
        const heard = [await listen(one, topic), await listen(two, topic)];
        await Promise.all(
          range(1, 100).map((i) => [one, two][i % 2]!.publish(topic, `${i}`, { history: HOUR })),
        );
        for (const each of heard) {
          await each.until(100);
          expect(each.offsets).toEqual(range(1, 100));
          expect(each.payloads).toEqual(heard[0]!.payloads);
        }
        expect(await readAll(two, topic)).toEqual(heard[0]!.payloads);
        const options = { history: HOUR, idempotencyKey: "k" };
        const first = await one.publish(topic, "once", options);
        expect(await two.publish(topic, "once", options)).toEqual(first);
      });

      it("delivers what has no history to both, and merges presence", async () => {
        const [one, two] = [await open(), keep(await peer())];
        const topic = fresh();
        const heard = [await listen(one, topic, false), await listen(two, topic, false)];
        await one.publish(topic, "a", { except: "x" });
        await Promise.all(heard.map((each) => each.until(1)));
        for (const each of heard)
          expect(each.all).toEqual([{ position: undefined, payload: "a", except: "x" }]);
        expect(await one.presence.put(topic, "ada", "1", "{}", 60_000)).toEqual({ appeared: true });
        expect(await two.presence.put(topic, "ada", "2", "{}", 60_000)).toEqual({ appeared: false });
        expect(await one.presence.remove(topic, "ada", "1")).toEqual({ vanished: false });
        expect(await members(two.presence.list(topic))).toEqual([["ada", "{}"]]);
        expect(await two.presence.remove(topic, "ada", "2")).toEqual({ vanished: true });
      });

      it("publishes what changes of a key in the order in which it is stored", async () => {
        const brokers = [await open(), keep(await peer())];
        const topic = fresh();
        const heard = [await changes(brokers[0]!, topic), await changes(brokers[1]!, topic)];
        await Promise.all(
          range(1, 200).map(async (i) => {
            const { presence } = brokers[i % 2]!;
            await presence.put(topic, `key ${i % 5}`, `${i}`, `${i}`, 60_000);
            await Bun.sleep(i % 7);
            if (i % 3 > 0) await presence.remove(topic, `key ${i % 5}`, `${i}`);
          }),
        );
        await brokers[0]!.presence.put(topic, "last", "1", "{}", 60_000);
        const stored = await members(brokers[1]!.presence.list(topic));
        for (const each of heard) {
          await poll(() => each.told.at(-1)?.[0] === "last");
          const shown = new Map<string, string>();
          for (const [key, info] of each.told)
            if (info === undefined) shown.delete(key!);
            else shown.set(key!, info);
          expect([...shown].sort(([a], [b]) => (a < b ? -1 : 1))).toEqual(stored);
          expect(each.told).toEqual(heard[0]!.told);
        }
      });
    });
  }
}

/** A subscription that remembers. */
interface Heard {
  readonly position: Position | undefined;
  readonly all: readonly Publication[];
  readonly payloads: string[];
  readonly offsets: number[];
  /** Resolves when so many have come. */
  until(count: number): Promise<void>;
  stop(): Promise<void>;
}

export async function listen(broker: Broker, topic: string, history = true): Promise<Heard> {
  const all: Publication[] = [];
  let waiting: { count: number; resolve: () => void } | undefined;
  const deliver = (publication: Publication): void => {
    all.push(publication);
    if (waiting !== undefined && all.length >= waiting.count) waiting.resolve();
  };
  const subscription = await broker.subscribe(topic, deliver, { history });
  return {
    position: subscription.position,
    all,
    get payloads() {
      return all.map(({ payload }) => payload);
    },
    get offsets() {
      return all.map(({ position }) => position!.offset);
    },
    until: (count) =>
      new Promise((resolve) => {
        waiting = { count, resolve };
        if (all.length >= count) resolve();
      }),
    stop: () => subscription.unsubscribe(),
  };
}

/** Asks until it is so. The test's own timeout ends it otherwise. */
export async function poll(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await Bun.sleep(50);
}

/** Every payload that is kept. */
export async function readAll(broker: Broker, topic: string): Promise<string[]> {
  let page = await broker.read(topic, { last: 1_000_000 }, PAGE);
  const messages = [...page.messages];
  while (!page.complete) {
    page = await broker.read(topic, { after: { ...page.position, offset: messages.at(-1)!.offset } }, PAGE);
    expect(page.recovered).toBe(true);
    messages.push(...page.messages);
  }
  return messages.map(({ payload }) => payload);
}

async function pagesAfter(
  broker: Broker,
  topic: string,
  after: Position,
  limits: PageLimits,
): Promise<Page[]> {
  const pages: Page[] = [];
  for (let from = after; ; from = { ...after, offset: pages.at(-1)!.messages.at(-1)!.offset }) {
    pages.push(await broker.read(topic, { after: from }, limits));
    if (pages.at(-1)!.complete) return pages;
  }
}

interface Filled {
  broker: Broker;
  topic: string;
  position: Position;
  at: (offset: number) => Position;
}

/** A topic with the messages m1 to m`n`. */
async function filled(broker: Broker, n: number, history = HOUR): Promise<Filled> {
  const topic = fresh();
  const all = await Promise.all(range(1, n).map((i) => broker.publish(topic, `m${i}`, { history })));
  const position = all.at(-1)!;
  return { broker, topic, position, at: (offset) => ({ epoch: position.epoch, offset }) };
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);
}

/** What `presence.put` and `remove` have published, in order: key and info. */
async function changes(broker: Broker, topic: string): Promise<Heard & { readonly told: string[][] }> {
  const heard = await listen(broker, topic, false);
  const told = (): string[][] =>
    heard.payloads.map((payload) => {
      const { key, info } = changeIn(payload);
      return info === undefined ? [key] : [key, info];
    });
  return Object.defineProperty(heard, "told", { get: told }) as Heard & { told: string[][] };
}

async function members(list: Promise<Members>): Promise<[string, string][]> {
  const all = (await list).members.map(({ key, info }): [string, string] => [key, info]);
  return all.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** What a topic is, in the fewest words. */
class Model {
  readonly log: string[] = [];
  readonly #keys = new Map<string, number>();

  constructor(readonly size: number) {}

  get newest(): number {
    return this.log.length;
  }

  publish(payload: string, key: string | undefined): number {
    const known = key === undefined ? undefined : this.#keys.get(key);
    if (known !== undefined) return known;
    this.log.push(payload);
    if (key !== undefined) this.#keys.set(key, this.newest);
    return this.newest;
  }

  read(epoch: string, range: Range, limits: PageLimits): Page {
    const position = { epoch, offset: this.newest };
    const kept = this.log
      .map((payload, index): StoredMessage => ({ offset: index + 1, payload }))
      .slice(-this.size);
    const first = kept[0]?.offset ?? 1;
    const lost = { position, recovered: false, messages: [], complete: true };
    if ("before" in range) {
      if (range.before.offset > this.newest + 1) return lost;
      const wanted = kept.filter(({ offset }) => offset < range.before.offset).reverse();
      const messages = fit(wanted, limits).reverse();
      return { position, recovered: true, messages, complete: messages.length === wanted.length };
    }
    if ("after" in range) {
      const { offset } = range.after;
      if (offset > this.newest || (offset < this.newest && offset + 1 < first)) return lost;
      const wanted = kept.filter((message) => message.offset > offset);
      const messages = fit(wanted, limits);
      return { position, recovered: true, messages, complete: messages.length === wanted.length };
    }
    const wanted = range.last === 0 ? [] : kept.slice(-range.last);
    const messages = fit(wanted, limits);
    return { position, recovered: false, messages, complete: messages.length === wanted.length };
  }
}

function fit(wanted: StoredMessage[], limits: PageLimits): StoredMessage[] {
  let bytes = 0;
  return wanted.filter(({ payload }, index) => {
    bytes += Buffer.byteLength(payload);
    return index === 0 || (index < limits.messages && bytes <= limits.bytes);
  });
}

const topicIndex = fc.nat({ max: 1 });
const payload = fc.string({ unit: "grapheme", maxLength: 30 });
const key = fc.option(fc.constantFrom("a", "b", "c", "d"), { nil: undefined, freq: 2 });
const limits = fc.record({ messages: fc.integer({ min: 1, max: 8 }), bytes: fc.nat({ max: 120 }) });
/** Relative to the newest offset, so that most of them hit the log. */
const back = fc.integer({ min: -2, max: 22 });
const readRange = fc.oneof(
  back.map((n) => (epoch: string, newest: number): Range => ({
    after: { epoch, offset: Math.max(0, newest - n) },
  })),
  back.map((n) => (epoch: string, newest: number): Range => ({
    before: { epoch, offset: Math.max(1, newest - n) },
  })),
  fc.nat({ max: 25 }).map((last) => (): Range => ({ last })),
);
const step = fc.oneof(
  fc.record({
    do: fc.constant("publish" as const),
    topic: topicIndex,
    payloads: fc.array(fc.record({ payload, key }), { minLength: 1, maxLength: 6 }),
  }),
  fc.record({ do: fc.constant("read" as const), topic: topicIndex, range: readRange, limits }),
);
