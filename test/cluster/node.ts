// One process of a cluster under test. Tells its parent the port, publishes by itself if it is told to, and stops
// gracefully on SIGTERM.

import { harpia } from "harpia";
import { redis } from "harpia/redis";
import { Topics } from "../../src/channel/topics.js";
import { rooms } from "./room.js";

/** What `Cluster` gives it, as JSON. */
export interface NodeSettings {
  redis: string;
  /** 0: any. */
  port: number;
  timeout: number;
  durable: boolean;
  pollMs: number;
}

/** To publish, until it is to say what came of it. */
export interface Publishing {
  rooms: readonly string[];
  firstId: number;
  everyMs: number;
}

/** What it is told. */
export type Order = { publish: Publishing } | { tell: true };

/** What came of one publication: where it is, or the code of the error. */
export interface Published {
  id: number;
  room: string;
  place?: { epoch: string; offset: number };
  error?: string;
}

export interface Tally {
  /** By tenths of a second of the clock. */
  handshakes: [tenth: number, count: number][];
  /** Handshakes that were refused. */
  refused: number;
  published: Published[];
  /** Publications that neither resolved nor rejected, within ten seconds. */
  unsettled: number;
}

/** What it says: the first when it listens, the other when it is told to, and when it has stopped. */
export type Word = { port: number } | { tally: Tally };

const { redis: url, port, timeout, durable, pollMs } = JSON.parse(process.env.NODE_SETTINGS!) as NodeSettings;
Topics.pollMs = pollMs;
let slowest = 0;
const handshakes = new Map<number, number>();

const app = harpia({ logger: false, broker: redis({ url, timeout, durable }) });
const upgrade = (_request: Request, { token }: { token?: string | undefined }): { name: string } => {
  const tenth = Math.floor(Date.now() / 100);
  handshakes.set(tenth, (handshakes.get(tenth) ?? 0) + 1);
  return { name: token ?? "" };
};
const live = app.channel(rooms, { upgrade }).implement({
  methods: {
    say: ({ room, id, key }) => publish(room, id, key),
    sayOnce: ({ room, id }) => publish(room, id, `once ${id}`),
    async look({ room }) {
      const topic = live.topic("room/:room", { room });
      const [{ epoch, offset, messages }, members] = await Promise.all([
        topic.history({ last: 1 }),
        topic.members(),
      ]);
      const told = slowest;
      slowest = 0;
      return {
        position: { epoch, offset },
        newest: messages[0]?.data.id,
        members: members.map(({ key }) => key),
        slowest: told,
        ok: app.health().ok,
      };
    },
  },
  topics: {
    "room/:room": {
      subscribe: "public",
      presence: {
        key: (_params, { ws }) => ws.data.name,
        info: (_params, { ws }) => ({ name: ws.data.name }),
        max: 5_000,
      },
    },
  },
});

const published: Published[] = [];
const running = new Set<Promise<void>>();
let publisher: ReturnType<typeof setInterval> | undefined;

async function publish(room: string, id: number, key?: string): Promise<{ epoch: string; offset: number }> {
  const since = performance.now();
  try {
    const options = key === undefined ? {} : { idempotencyKey: key };
    return await live.topic("room/:room", { room }).publish({ id }, options);
  } finally {
    slowest = Math.max(slowest, performance.now() - since);
  }
}

function publishOn({ rooms, firstId, everyMs }: Publishing): void {
  let id = firstId;
  publisher ??= setInterval(() => {
    const mine = { id: id++, room: rooms[id % rooms.length]! }; // never none
    const done = publish(mine.room, mine.id)
      .then(
        (place) => void published.push({ ...mine, place }),
        (error: { code?: string }) => void published.push({ ...mine, error: error.code ?? String(error) }),
      )
      .finally(() => running.delete(done));
    running.add(done);
  }, everyMs);
}

/** Publishes no more, and says what came of what was. */
async function tally(): Promise<Tally> {
  clearInterval(publisher);
  await Promise.race([Promise.all(running), Bun.sleep(10_000)]);
  const { refused } = app.websocket.counters;
  return { handshakes: [...handshakes], refused, published, unsettled: running.size };
}

/** Resolves when it has left. */
function say(word: Word): Promise<void> {
  return new Promise((resolve) => process.send!(word, undefined, undefined, () => resolve()));
}

process.on("message", (order: Order) => {
  if ("publish" in order) publishOn(order.publish);
  else void tally().then((tally) => say({ tally }));
});
process.once("SIGTERM", async () => {
  await app.stop({ restart: true, timeout: 10_000 });
  await say({ tally: await tally() });
  process.exit(0);
});
process.on("disconnect", () => process.exit(1));
await say({ port: app.listen({ hostname: "127.0.0.1", port, routes: { "/healthz": app.healthz } }).port! });
