// Stands for a language model: knows four things, and says them word by word.

const WORD_MS = 60;

const BIRD =
  "A harpy eagle, Harpia harpyja, lives in the forests of Central and South America. It is one of the largest eagles that there are, and its rear talons are as long as a grizzly bear's claws.";
const PAGE =
  "This page is one contract, contract.ts, which the server implements and the page calls. These words come over it as a stream: press Stop, and the server stops making them.";

/** Answers a question about the room, the page or the bird; ends when `signal` fires. */
export async function* answer(
  question: string,
  people: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<string> {
  for (const word of choose(question, people).split(" ")) {
    if (signal.aborted) return;
    yield `${word} `;
    await Bun.sleep(WORD_MS);
  }
}

function choose(question: string, people: readonly string[]): string {
  if (/\b(who|people|here|members?)\b/i.test(question)) return `Here now: ${people.join(", ")}.`;
  if (/\b(page|work|made|how|stream|contract)\b/i.test(question)) return PAGE;
  if (/\b(harp\w*|eagles?|birds?|name)\b/i.test(question)) return BIRD;
  return "I know who is here, how this page works, and what a harpia is. Ask me one of these.";
}
