// A process that the tests of the SQLite broker kill. `publish FILE`: eight publishers at once, and a line for each
// acknowledged position. `hold FILE`: opens it, says so,
// and waits.

import { writeSync } from "node:fs";
import { sqlite } from "harpia/sqlite";

const [task, file, synchronous] = process.argv.slice(2) as ["publish" | "hold", string, "full" | "normal"];
const broker = sqlite(file, { synchronous });
writeSync(1, "open\n");
// It ends with the test that started it, however that ends.
process.stdin.on("end", () => process.exit()).resume();
if (task === "publish") await Promise.all(Array.from({ length: 8 }, (_, index) => publish(index)));

async function publish(index: number): Promise<void> {
  const topic = `topic ${index % 3}`;
  for (;;) {
    const id = crypto.randomUUID();
    const payload = JSON.stringify({ id, text: "x".repeat(index * 100) });
    const history = { size: 1_000_000, ttl: 3600 };
    const position = await broker.publish(topic, payload, { history, idempotencyKey: id });
    writeSync(1, `${JSON.stringify({ topic, position, id })}\n`);
  }
}
