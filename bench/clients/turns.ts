// What a measured client (or one that measures) does: when a line comes in, keep IN_FLIGHT calls going for SECONDS, and print how many were
// answered. Then again, until it is stopped.

const { IN_FLIGHT = "1", SECONDS = "1" } = process.env;
const TEXT = "x".repeat(64);

export type Say = (params: { room: string; text: string }) => Promise<{ offset: number }>;

/** Calls, each of whose answers is checked. */
export function takeTurns(say: Say): Promise<void> {
  return turns(async () => {
    const { offset } = await say({ room: "lobby", text: TEXT });
    if (offset !== TEXT.length) throw new Error(`a wrong answer: ${offset}`);
  });
}

/** @param operation what is counted; it is told which of those in flight it is. */
export async function turns(operation: (index: number) => Promise<unknown>): Promise<void> {
  console.log("READY");
  for await (const _line of console) {
    const began = performance.now();
    const until = began + Number(SECONDS) * 1_000;
    let count = 0;
    const caller = async (index: number): Promise<void> => {
      while (performance.now() < until) {
        await operation(index);
        count++;
      }
    };
    await Promise.all(Array.from({ length: Number(IN_FLIGHT) }, (_, index) => caller(index)));
    console.log(JSON.stringify({ count, seconds: (performance.now() - began) / 1_000 }));
  }
}
