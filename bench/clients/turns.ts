// What a measured client does: when a line comes in, keep IN_FLIGHT calls going for SECONDS, and print how many were
// answered. Then again, until it is stopped.

const { IN_FLIGHT = "1", SECONDS = "1" } = process.env;
const TEXT = "x".repeat(64);

export type Say = (params: { room: string; text: string }) => Promise<{ offset: number }>;

export async function takeTurns(say: Say): Promise<void> {
  console.log("READY");
  for await (const _line of console) {
    const began = performance.now();
    const until = began + Number(SECONDS) * 1_000;
    let count = 0;
    const caller = async (): Promise<void> => {
      while (performance.now() < until) {
        const { offset } = await say({ room: "lobby", text: TEXT });
        if (offset !== TEXT.length) throw new Error(`a wrong answer: ${offset}`);
        count++;
      }
    };
    await Promise.all(Array.from({ length: Number(IN_FLIGHT) }, caller));
    console.log(JSON.stringify({ count, seconds: (performance.now() - began) / 1_000 }));
  }
}
