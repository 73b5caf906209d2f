// The reader of a topic, without a socket: what it asks and hands over for each thing that may come, in a table; and
// against a model of a server with any interleaving of frames, losses, answers and disconnects.

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type PageFrame, type Position, Reader } from "../../src/client/reader.js";

const A = "a";
const B = "b";

interface Given {
  after?: Position;
  last?: number;
  coalesce?: boolean;
}

/** A reader, and all that it does, in order: `5` handed over, `? …` asked, `reset`, `live`. */
class Desk {
  readonly did: (string | number)[] = [];
  readonly reader: Reader;
  #answer: ((page: PageFrame) => void) | undefined;

  constructor({ after, last, coalesce = false }: Given = {}) {
    this.reader = new Reader({
      after,
      last,
      coalesce,
      ask: (method, params, answer) => {
        this.did.push(`? ${method.slice(2)} ${JSON.stringify(params)}`);
        this.#answer = answer;
      },
      hand: (data) => this.did.push(data as number),
      reset: () => this.did.push("reset"),
      live: () => this.did.push("live"),
    });
  }

  /** What it did since the last look. */
  get news(): (string | number)[] {
    return this.did.splice(0);
  }

  /** A publication: its data is its offset. */
  frame(epoch: string, ...offsets: number[]): this {
    for (const offset of offsets) this.reader.message({ epoch, offset, data: offset }, 100);
    return this;
  }

  answer(
    epoch: string | undefined,
    offset: number,
    { recovered = true, messages = [], complete = true }: Partial<Answered> = {},
  ): this {
    const page = {
      offset,
      recovered,
      messages: messages.map((at) => ({ offset: at, data: at })),
      complete,
    };
    this.#answer!(epoch === undefined ? page : { epoch, ...page });
    return this;
  }

  /** At this position, live, and nothing open. */
  static at(offset: number, given: Given = {}): Desk {
    const desk = new Desk(given);
    desk.reader.subscribe();
    desk.answer(A, offset, { recovered: false });
    desk.did.length = 0;
    return desk;
  }
}

interface Answered {
  recovered: boolean;
  messages: number[];
  complete: boolean;
}

const history = (offset: number, epoch = A): string =>
  `? history {"after":{"epoch":"${epoch}","offset":${offset}}}`;
const subscribe = (offset: number, epoch = A): string =>
  `? subscribe {"after":{"epoch":"${epoch}","offset":${offset}}}`;

test("the first answer says where to begin: at the newest, or before the last so many", () => {
  const desk = new Desk();
  desk.reader.subscribe();
  expect(desk.news).toEqual(["? subscribe {}"]);
  expect(desk.answer(A, 7, { recovered: false }).frame(A, 8).news).toEqual(["live", 8]);

  const last = new Desk({ last: 2 });
  last.reader.subscribe();
  expect(last.news).toEqual([`? subscribe {"last":2}`]);
  expect(last.answer(A, 7, { recovered: false, messages: [6, 7] }).news).toEqual(["live", 6, 7]);
});

test("a position that the app kept is asked for, and only what follows it is handed over", () => {
  const desk = new Desk({ after: { epoch: A, offset: 3 } });
  desk.reader.subscribe();
  expect(desk.news).toEqual([subscribe(3)]);
  expect(desk.answer(A, 5, { messages: [4, 5] }).news).toEqual(["live", 4, 5]);
});

test("a position that is gone is a reset, and then the newest", () => {
  const desk = new Desk({ after: { epoch: B, offset: 3 }, last: 1 });
  desk.reader.subscribe();
  expect(
    desk
      .answer(A, 5, { recovered: false, messages: [5] })
      .frame(A, 6)
      .news.slice(1),
  ).toEqual(["reset", "live", 5, 6]);
});

test("what comes before the answer waits for it, and is sorted in by offset", () => {
  const desk = new Desk();
  desk.reader.subscribe();
  desk.frame(A, 7, 8, 9);
  expect(desk.answer(A, 8, { recovered: false }).news.slice(1)).toEqual(["live", 9]);
});

describe("within an epoch", () => {
  test("the next is handed over, what came already is not", () => {
    expect(Desk.at(5).frame(A, 6, 6, 3, 7).news).toEqual([6, 7]);
  });

  test("a gap is asked for once, and handed over before what showed it", () => {
    const desk = Desk.at(5).frame(A, 8, 9);
    expect(desk.news).toEqual([history(5)]);
    expect(desk.answer(A, 9, { messages: [6, 7, 8] }).news).toEqual([6, 7, 8, 9]);
  });

  test("the missing ones that come late are not handed over twice", () => {
    const desk = Desk.at(5).frame(A, 8, 6, 7);
    expect(desk.answer(A, 8, { messages: [6, 7, 8] }).frame(A, 9).news).toEqual([history(5), 6, 7, 8, 9]);
  });

  test("a page that is not all is followed by the next", () => {
    const desk = Desk.at(0).frame(A, 9);
    desk.answer(A, 9, { messages: [1, 2], complete: false });
    expect(desk.news).toEqual([history(0), 1, 2, history(2)]);
    expect(desk.answer(A, 9, { messages: [3, 4, 5, 6, 7, 8, 9] }).news).toEqual([3, 4, 5, 6, 7, 8, 9]);
  });

  test("a log that was trimmed between two pages is a reset", () => {
    const desk = Desk.at(0).frame(A, 9);
    desk.answer(A, 9, { messages: [1, 2], complete: false });
    desk.answer(A, 20, { recovered: false });
    expect(desk.news).toEqual([history(0), 1, 2, history(2), subscribe(2)]);
    expect(desk.answer(A, 20, { recovered: false }).frame(A, 21).news).toEqual(["reset", "live", 21]);
  });

  test("more than 1,000 that wait are let go, and read", () => {
    const desk = Desk.at(0);
    for (let offset = 2; offset <= 1_100; offset++) desk.frame(A, offset);
    desk.answer(A, 1_000, { messages: [1, 2] });
    expect(desk.news).toEqual([history(0), 1, 2, history(2)]);
  });

  test("more than a megabyte that waits is let go, and read", () => {
    const desk = Desk.at(0);
    for (const offset of [2, 3, 4]) desk.reader.message({ epoch: A, offset, data: offset }, 400_000);
    desk.answer(A, 4, { messages: [1] });
    expect(desk.news).toEqual([history(0), 1, history(1)]);
  });

  test("a publication that is not for us has a number, and nothing else", () => {
    const desk = Desk.at(5);
    desk.reader.message({ epoch: A, offset: 6 });
    expect(desk.frame(A, 7).news).toEqual([7]);
  });
});

describe("another epoch", () => {
  test("is asked for once, and its frames wait", () => {
    const desk = Desk.at(5).frame(B, 1, 2);
    expect(desk.news).toEqual([subscribe(5)]);
    expect(desk.answer(B, 1, { recovered: false }).news).toEqual(["reset", "live", 2]);
  });

  test("that has been left is not heard any more", () => {
    const desk = Desk.at(5).frame(B, 1);
    desk.answer(B, 1, { recovered: false });
    expect(desk.frame(A, 6, 7).frame(B, 2).news.slice(1)).toEqual(["reset", "live", 2]);
  });

  test("that was already over when it was asked about is not heard again", () => {
    const desk = Desk.at(5).frame(B, 1);
    desk.answer(A, 6, { messages: [6] });
    expect(desk.frame(B, 2).frame(A, 7).news).toEqual([subscribe(5), "live", 6, 7]);
  });

  test("that was left and is back is believed when the server says where the topic stands", () => {
    const desk = Desk.at(5).frame(B, 1);
    desk.answer(B, 1, { recovered: false });
    desk.frame(A, 6);
    desk.did.length = 0;
    desk.reader.located({ epoch: A, offset: 6 });
    expect(desk.news).toEqual([subscribe(1, B)]);
    expect(desk.answer(A, 6, { recovered: false }).frame(A, 7).news).toEqual(["reset", "live", 7]);
  });
});

describe("where a topic stands", () => {
  test("is news if it is further, and none if it is not", () => {
    const desk = Desk.at(5);
    desk.reader.located({ epoch: A, offset: 5 });
    desk.reader.located({ epoch: A, offset: 4 });
    expect(desk.news).toEqual([]);
    desk.reader.located({ epoch: A, offset: 6 });
    expect(desk.news).toEqual([history(5)]);
  });

  test("while something is asked, is asked about afterwards: the answer may be older", () => {
    const desk = Desk.at(5).frame(A, 7);
    desk.reader.located({ epoch: A, offset: 9 });
    desk.answer(A, 7, { messages: [6, 7] });
    expect(desk.news).toEqual([history(5), 6, 7, history(7)]);
  });
});

describe("a consumer that is full", () => {
  test("is handed nothing, and what came is read when it has room", () => {
    const desk = Desk.at(5);
    desk.reader.pause();
    expect(desk.frame(A, 6, 7).news).toEqual([]);
    desk.reader.resume();
    expect(desk.news).toEqual([history(5)]);
    expect(desk.answer(A, 7, { messages: [6, 7] }).news).toEqual([6, 7]);
  });

  test("in the middle of a page gets that page, and the next when it has room", () => {
    const desk = Desk.at(5).frame(A, 9);
    desk.reader.pause();
    desk.answer(A, 9, { messages: [6, 7], complete: false });
    expect(desk.news).toEqual([history(5), 6, 7]);
    desk.reader.resume();
    expect(desk.news).toEqual([history(7)]);
  });

  test("that missed nothing asks nothing", () => {
    const desk = Desk.at(5);
    desk.reader.pause();
    desk.reader.resume();
    expect(desk.frame(A, 6).news).toEqual([6]);
  });
});

describe("a connection that broke", () => {
  test("takes its questions with it: an old answer is not heard", () => {
    const desk = Desk.at(5).frame(A, 8);
    desk.reader.disconnected();
    desk.answer(A, 8, { messages: [6, 7, 8] });
    expect(desk.news).toEqual([history(5)]);
    desk.reader.subscribe();
    expect(desk.answer(A, 8, { messages: [6, 7, 8] }).news).toEqual([subscribe(5), "live", 6, 7, 8]);
  });

  test("takes what waited with it", () => {
    const desk = Desk.at(5).frame(B, 1);
    desk.reader.disconnected();
    desk.reader.subscribe();
    expect(desk.answer(A, 6, { messages: [6] }).news).toEqual([subscribe(5), subscribe(5), "live", 6]);
  });
});

describe("a reader of the latest", () => {
  const latest = { coalesce: true };

  test("takes what is newer, and heals no gap", () => {
    expect(Desk.at(5, latest).frame(A, 9, 8, 12).news).toEqual([9, 12]);
  });

  test("reads the newest when it hears of it", () => {
    const desk = Desk.at(5, latest);
    desk.reader.located({ epoch: A, offset: 9 });
    expect(desk.answer(A, 9, { recovered: false, messages: [9] }).news).toEqual([
      `? subscribe {"last":1}`,
      "live",
      9,
    ]);
  });

  test("is told no reset for what it does not miss, and is told one for another epoch", () => {
    const desk = Desk.at(5, latest);
    desk.reader.disconnected();
    desk.reader.subscribe();
    desk.answer(A, 80, { recovered: false, messages: [80] });
    expect(desk.news.slice(1)).toEqual(["live", 80]);
    desk.frame(B, 1).answer(B, 2, { recovered: false, messages: [2] });
    expect(desk.news.slice(1)).toEqual(["reset", "live", 2]);
  });

  test("goes on to the newest when the messages that it began with are more than a page", () => {
    const desk = new Desk({ coalesce: true, last: 50 });
    desk.reader.subscribe();
    desk.answer(A, 90, { recovered: false, messages: [41, 42], complete: false });
    expect(desk.news).toEqual([`? subscribe {"last":50}`, "live", 41, 42, `? subscribe {"last":1}`]);
    expect(desk.answer(A, 90, { recovered: false, messages: [90] }).news).toEqual(["live", 90]);
  });

  test("that is ahead of the topic, as after a backup was put back, begins anew", () => {
    const desk = new Desk({ coalesce: true, after: { epoch: A, offset: 90 } });
    desk.reader.subscribe();
    desk.answer(A, 7, { recovered: false, messages: [7] });
    expect(desk.frame(A, 8).news.slice(1)).toEqual(["reset", "live", 7, 8]);
  });
});

test("without a history what comes is handed over, and nothing is asked", () => {
  const desk = new Desk();
  desk.reader.subscribe();
  desk.reader.message({ data: 1 });
  desk.answer(undefined, 0, { recovered: false });
  desk.reader.message({ data: 2 });
  desk.reader.located({});
  expect(desk.news).toEqual(["? subscribe {}", 1, "live", 2]);
});

/** What may happen between a server, a wire and a reader. */
type Happening =
  | { kind: "publish"; lost: boolean }
  | { kind: "epoch" }
  | { kind: "epoch of before" }
  | { kind: "trim" }
  | { kind: "serve" }
  | { kind: "arrive" }
  | { kind: "locate" }
  | { kind: "disconnect" }
  | { kind: "pause" }
  | { kind: "resume" };

/** A topic's log, and a wire in order: frames and answers on it arrive one by one. */
class Model {
  readonly handed: { epoch: string; offset: number }[] = [];
  readonly reader: Reader;
  readonly wrong: string[] = [];
  #logs = new Map([["e0", { newest: 0, first: 1 }]]);
  #epoch = "e0";
  #before = "e0";
  /** Questions that the server has not served. */
  #asked: { method: string; params: Asked; answer(page: PageFrame): void }[] = [];
  #wire: (() => void)[] = [];
  #pageSize: number;
  #mayJump = true;
  #resets: (Position | undefined)[] = [];

  constructor(pageSize: number, { coalesce, last }: Given) {
    this.#pageSize = pageSize;
    this.reader = new Reader({
      coalesce: coalesce === true,
      last,
      ask: (method, params, answer) => this.#asked.push({ method, params: params as Asked, answer }),
      hand: (data, position) => this.#hand(data as string, position!, coalesce === true),
      reset: () => {
        this.#mayJump = true;
        this.#resets.push(this.reader.position);
      },
      live: () => {},
    });
    this.reader.subscribe();
  }

  get #log(): { newest: number; first: number } {
    return this.#logs.get(this.#epoch)!;
  }

  happen(happening: Happening): void {
    switch (happening.kind) {
      case "publish": {
        const offset = ++this.#log.newest;
        const frame = { epoch: this.#epoch, offset, data: `${this.#epoch} ${offset}` };
        if (!happening.lost) this.#wire.push(() => this.reader.message(frame, 10));
        return;
      }
      case "epoch":
        this.#before = this.#epoch;
        this.#epoch = `e${this.#logs.size}`;
        this.#logs.set(this.#epoch, { newest: 0, first: 1 });
        return;
      case "epoch of before":
        [this.#before, this.#epoch] = [this.#epoch, this.#before];
        return;
      case "trim":
        this.#log.first = Math.max(this.#log.first, this.#log.newest - 1);
        return;
      case "serve": {
        const question = this.#asked.shift();
        if (question === undefined) return;
        const page = this.#page(question);
        this.#wire.push(() => question.answer(page));
        return;
      }
      case "arrive":
        return this.#wire.shift()?.();
      case "locate": {
        const position = { epoch: this.#epoch, offset: this.#log.newest };
        return void this.#wire.push(() => this.reader.located(position));
      }
      case "disconnect":
        this.#wire = [];
        this.#asked = [];
        this.reader.disconnected();
        return this.reader.subscribe();
      case "pause":
        return this.reader.pause();
      case "resume":
        return this.reader.resume();
    }
  }

  /** No more faults: what is under way arrives, and the server says once where the topic stands. */
  settle(): void {
    this.reader.resume();
    this.happen({ kind: "locate" });
    for (let turn = 0; turn < 10_000 && this.#wire.length + this.#asked.length > 0; turn++) {
      this.happen({ kind: "serve" });
      this.happen({ kind: "arrive" });
    }
    if (this.#wire.length + this.#asked.length > 0) this.wrong.push("it goes on asking");
    const mine = this.reader.position;
    if (mine?.epoch !== this.#epoch || mine.offset !== this.#log.newest)
      this.wrong.push(`ends at ${mine?.epoch} ${mine?.offset}, not ${this.#epoch} ${this.#log.newest}`);
  }

  #page({ method, params }: { method: string; params: Asked }): PageFrame {
    const { newest, first } = this.#log;
    const epoch = this.#epoch;
    const { after, last = 0 } = params;
    const recovered =
      after !== undefined &&
      after.epoch === epoch &&
      after.offset <= newest &&
      (after.offset === newest || after.offset + 1 >= first);
    const from = recovered ? after.offset + 1 : Math.max(first, newest - last + 1);
    const offsets: number[] = [];
    if (recovered || (last > 0 && method === "$/subscribe"))
      for (let offset = from; offset <= newest && offsets.length < this.#pageSize; offset++)
        offsets.push(offset);
    const messages = offsets.map((offset) => ({ offset, data: `${epoch} ${offset}` }));
    const reached = offsets.at(-1) ?? (recovered ? after.offset : newest);
    return { epoch, offset: newest, recovered, messages, complete: reached === newest };
  }

  #hand(data: string, { epoch, offset }: Position, coalesce: boolean): void {
    if (data !== `${epoch} ${offset}`) this.wrong.push(`${data} was handed over as ${epoch} ${offset}`);
    const last = this.handed.at(-1);
    this.handed.push({ epoch, offset });
    const mayJump = this.#mayJump;
    this.#mayJump = false;
    if (mayJump || last === undefined) return;
    const isRight = epoch === last.epoch && (coalesce ? offset > last.offset : offset === last.offset + 1);
    if (!isRight) this.wrong.push(`${epoch} ${offset} after ${last.epoch} ${last.offset}`);
  }
}

interface Asked {
  after?: Position;
  last?: number;
}

const happening: fc.Arbitrary<Happening> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ kind: fc.constant("publish" as const), lost: fc.boolean() }) },
  { weight: 10, arbitrary: fc.constant({ kind: "arrive" as const }) },
  { weight: 6, arbitrary: fc.constant({ kind: "serve" as const }) },
  ...(["epoch", "epoch of before", "trim", "locate", "disconnect", "pause", "resume"] as const).map(
    (kind) => ({ weight: 1, arbitrary: fc.constant({ kind }) }),
  ),
);

for (const coalesce of [false, true]) {
  test(`a reader${coalesce ? " of the latest" : ""} hands over in order, once, and ends where the topic does, whatever the interleaving`, () => {
    fc.assert(
      fc.property(
        fc.array(happening, { maxLength: 150, size: "max" }),
        fc.integer({ min: 1, max: 4 }),
        fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }),
        (happenings, pageSize, last) => {
          const model = new Model(pageSize, { coalesce, ...(last === undefined ? {} : { last }) });
          for (const one of happenings) model.happen(one);
          model.settle();
          expect(model.wrong).toEqual([]);
        },
      ),
      { numRuns: Number(process.env.RUNS ?? 3_000) },
    );
  });
}
