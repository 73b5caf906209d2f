// One reader of a topic: hands its publications over in order, each once, whatever happened to those that did not
// come. It keeps a position and nothing else; every loss shows as the same thing, the next one is not mine + 1, and is
// made good from the log. No socket here: `ask` puts a question, `message`, `position` and its answer come back.

export interface Position {
  readonly epoch: string;
  readonly offset: number;
}

/** A `$/message`: without `offset` from a topic without history, without `data` one that is not for us. */
export interface MessageFrame {
  epoch?: string;
  offset?: number;
  data?: unknown;
}

/** What `$/subscribe` and `$/history` answer; without `epoch` from a topic without history. */
export interface PageFrame {
  epoch?: string;
  offset: number;
  recovered: boolean;
  messages: { offset: number; data: unknown }[];
  complete: boolean;
}

export interface ReaderOptions {
  after?: Position | undefined;
  last?: number | undefined;
  coalesce: boolean;
  /** Puts a question; the reader is given the answer, unless it has asked another one or was disconnected since. */
  ask(method: string, params: object, answer: (page: PageFrame) => void): void;
  hand(data: unknown, position: Position | undefined): void;
  /** The past up to here is lost: the app has to load its state anew. */
  reset(): void;
  /** The first answer has come, or the first after a reconnect. */
  live(): void;
}

const MOST_HELD = 1_000;
/** UTF-16 units of JSON, about: what is held is bounded by the size of the frames that brought it. */
const MOST_HELD_SIZE = 1024 * 1024;
const EPOCHS_REMEMBERED = 4;

type Held = { frame: MessageFrame; size: number };

export class Reader {
  /** Of the last message handed over. */
  position: Position | undefined;
  readonly #options: ReaderOptions;
  /** What came while a question is open. */
  #held: Held[] = [];
  #heldSize = 0;
  /** Something came that was not kept: ask on from the position. */
  #missed = false;
  #asking = false;
  #question = 0;
  #paused = false;
  /** Epochs that are over: their frames were on the way when it became known. */
  #left: string[] = [];

  constructor(options: ReaderOptions) {
    this.#options = options;
    this.position = options.after;
  }

  /** Asks where to go on: at the start, after a reconnect, in another epoch. */
  subscribe(): void {
    const { last, coalesce } = this.#options;
    this.#ask("$/subscribe", coalesce ? { last: last || 1 } : { after: this.position, last });
  }

  /** Whatever was asked will not be answered. */
  disconnected(): void {
    this.#question++;
    this.#asking = false;
    this.#forget();
  }

  /** Its consumer is full: what comes is let go, and read later. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    if (!this.#asking) this.#settle();
  }

  /** A publication. `size`: of its frame. */
  message(frame: MessageFrame, size = 0): void {
    const { epoch, offset = 0 } = frame;
    if (epoch === undefined) return this.#options.hand(frame.data, undefined);
    if (this.#left.includes(epoch)) return;
    const mine = this.position;
    if (this.#asking || mine === undefined) return this.#hold(frame, size);
    if (this.#paused) return void (this.#missed = true);
    if (epoch !== mine.epoch) {
      this.#hold(frame, size);
      return this.subscribe();
    }
    if (offset <= mine.offset) return;
    if (offset === mine.offset + 1 || this.#options.coalesce) return this.#take(frame);
    this.#hold(frame, size);
    this.#catchUp();
  }

  /** Where the topic stands. It is said on purpose, so an epoch that we left counts as well. */
  located({ epoch, offset }: Partial<Position>): void {
    const mine = this.position; // none in a topic without history
    if (this.#asking || this.#paused || mine === undefined) return void (this.#missed = true);
    if (epoch !== mine.epoch) this.subscribe();
    else if (offset! > mine.offset) this.#catchUp();
  }

  /** Same epoch, but something is missing. */
  #catchUp(): void {
    if (this.#options.coalesce) this.#ask("$/subscribe", { last: 1 });
    else this.#ask("$/history", { after: this.position });
  }

  #ask(method: string, params: object): void {
    this.#asking = true;
    this.#missed = false;
    const question = ++this.#question;
    const suspects = new Set(this.#held.map(({ frame }) => frame.epoch!));
    this.#options.ask(method, params, (page) => {
      if (question !== this.#question) return;
      this.#asking = false;
      this.#answered(method, page, suspects);
    });
  }

  #answered(method: string, page: PageFrame, suspects: Set<string>): void {
    const { epoch } = page;
    if (epoch === undefined) return this.#options.live();
    // Trimmed between two pages, or another epoch: the answer to this says where to go on.
    if (method === "$/history" && !page.recovered) return this.subscribe();
    // What came before we asked, of another epoch than the answer's, was late.
    for (const suspect of suspects) if (suspect !== epoch) this.#leave(suspect);
    this.#left = this.#left.filter((left) => left !== epoch);
    if (!page.recovered) this.#moveTo(epoch, page);
    if (method === "$/subscribe") this.#options.live();
    for (const message of page.messages) {
      if (message.offset > this.position!.offset) this.#take({ epoch, ...message });
    }
    if (!page.complete) this.#missed = true;
    this.#settle();
  }

  /** Goes on from another place than the last: after the messages that could not be had. */
  #moveTo(epoch: string, { offset, messages }: PageFrame): void {
    const mine = this.position;
    if (mine?.epoch === epoch) {
      // The newest is all that a coalescing reader wants: in the same epoch it has lost nothing.
      if (this.#options.coalesce && offset >= mine.offset) return;
    } else if (mine) this.#leave(mine.epoch);
    this.position = { epoch, offset: messages[0] ? messages[0].offset - 1 : offset };
    if (mine) this.#options.reset();
  }

  /** A question has been answered, or its consumer has room: what was held is looked at anew. */
  #settle(): void {
    if (this.#paused) return void (this.#missed ||= this.#held.length > 0);
    if (this.#missed && this.position) return this.#catchUp();
    const held = this.#held;
    this.#forget();
    for (const { frame, size } of held) this.message(frame, size);
  }

  #take(frame: MessageFrame): void {
    this.position = { epoch: frame.epoch!, offset: frame.offset! };
    if ("data" in frame) this.#options.hand(frame.data, this.position);
  }

  #hold(frame: MessageFrame, size: number): void {
    if (this.#missed) return;
    this.#held.push({ frame, size });
    this.#heldSize += size;
    if (this.#held.length <= MOST_HELD && this.#heldSize <= MOST_HELD_SIZE) return;
    this.#forget();
    this.#missed = true;
  }

  #leave(epoch: string): void {
    this.#left = [epoch, ...this.#left].slice(0, EPOCHS_REMEMBERED);
  }

  #forget(): void {
    this.#held = [];
    this.#heldSize = 0;
    this.#missed = false;
  }
}
