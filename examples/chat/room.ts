// One room, from entering it to leaving it: what the page calls, hears and answers over its connection.

import { connect, isContractError, RpcError } from "harpia/client";
import { chat } from "./contract.js";
import {
  answering,
  append,
  bubble,
  get,
  note,
  offerEarlier,
  offerToWave,
  prepend,
  showMembers,
  showState,
} from "./view.js";

const TYPING_MS = 3_000;
/** A person may take this long to wave back, and then the server answers for them. */
const WAVE_MS = 25_000;
/** Messages shown at first, and so many more each time that somebody asks. */
const PAGE = 30;
/** After a reconnect others come back as well: it is no news that they do. */
const GATHERING_MS = 12_000;

const say = get("say", HTMLFormElement);
const text = get("text", HTMLInputElement);
const sendButton = get("send", HTMLButtonElement);
const askButton = get("ask", HTMLButtonElement);
const typingLine = get("typing", HTMLElement);

/** Enters a room and stays in it, through lost connections, until the returned function is called. */
export function enter(room: string, name: string): () => void {
  const client = connect(chat, { url: "/", token: name });
  const here = client.subscribe("room/:room", { room }, { last: PAGE });
  const typists = client.subscribe("typing/:room", { room });
  const left = new AbortController();
  const typing = new Map<string, ReturnType<typeof setTimeout>>();
  let members: string[] | undefined;
  let gatheredAt = 0;
  let begun = false;
  let quietUntil = 0;
  let sending = false;
  let lastTyping = 0;
  /** What is being said, and the id under which it is said once however often it is sent. */
  let saying = { words: "", id: "" };

  get("room-name", HTMLElement).textContent = room;
  get("log", HTMLElement).replaceChildren();
  showWhoTypes();
  showMembers([], name, () => {});
  showState(client.state);
  showButtons();
  text.focus();

  client.onState((state) => {
    if (left.signal.aborted) return;
    showState(state);
    showButtons();
    if (state === "reconnecting") gatheredAt = Number.POSITIVE_INFINITY;
    if (state === "open" && members) gatheredAt = Date.now() + GATHERING_MS;
    if (state === "closed") append(note(`The server did not let you in (${client.closeCode}).`));
  });
  client.on("notice", ({ text }) => append(note(text)));

  // In order, each once, whatever happened to the connection meanwhile.
  here.on("message", ({ data, offset }) => {
    if (!begun && offset! > 1) offerEarlier(earlier);
    begun = true;
    stopsTyping(data.from);
    append(bubble(data, data.from === name));
  });
  here.on("reset", () => append(note("Some of what was said meanwhile is not kept any more.")));
  here.on("state", () => {
    if (here.error) append(note(`You cannot be in this room: ${here.error.message}.`));
  });
  here.presence.on("change", (present) => {
    const names = present.map(({ info }) => info.name);
    if (members && Date.now() > gatheredAt) tellOfChanges(members, names);
    members = names;
    showMembers(names, name, (to) => void wave(to));
  });
  typists.on("message", ({ data: who }) => {
    clearTimeout(typing.get(who));
    typing.set(
      who,
      setTimeout(() => stopsTyping(who), TYPING_MS),
    );
    showWhoTypes();
  });
  // The server asks, and waits for what this person does.
  client.answer("waved", ({ from }) => offerToWave(from, left.signal));

  say.addEventListener("submit", (event) => void submit(event), { signal: left.signal });
  text.addEventListener("input", tellTyping, { signal: left.signal });

  return () => {
    left.abort();
    client.close();
    for (const timer of typing.values()) clearTimeout(timer);
  };

  async function submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const words = text.value.trim();
    if (words === "" || sendButton.disabled) return;
    if (event.submitter === askButton) {
      text.value = "";
      return ask(words);
    }
    sending = true;
    showButtons();
    if (saying.words !== words) saying = { words, id: crypto.randomUUID() };
    try {
      await client.call("say", { room, text: words, id: saying.id }, { signal: left.signal });
      saying = { words: "", id: "" };
      // What was typed stays in the field until it has been said.
      if (text.value.trim() === words) text.value = "";
      lastTyping = 0;
    } catch (error) {
      if (left.signal.aborted) return;
      if (isContractError(error, chat, "say", "SLOW_DOWN")) beQuiet(error.data.retryAfter);
      else append(note(`That was perhaps not said: ${reasonOf(error)}.`));
    } finally {
      sending = false;
      if (!left.signal.aborted) showButtons();
    }
  }

  async function ask(question: string): Promise<void> {
    const stop = new AbortController();
    const answer = answering(question, () => stop.abort());
    append(answer.item);
    try {
      const signal = AbortSignal.any([stop.signal, left.signal]);
      for await (const word of client.stream("ask", { room, question }, { signal })) answer.add(word);
      answer.end();
    } catch (error) {
      answer.end(stop.signal.aborted ? "stopped" : reasonOf(error));
    }
  }

  async function wave(to: string): Promise<void> {
    append(note(`You wave at ${to}…`));
    try {
      const options = { timeout: WAVE_MS, signal: left.signal };
      append(note(`${to} ${await client.call("wave", { to }, options)}`));
    } catch (error) {
      if (!left.signal.aborted) append(note(`${to} may not have seen it: ${reasonOf(error)}.`));
    }
  }

  /** Reads on in the past. @returns whether there is more. */
  async function earlier(): Promise<boolean> {
    const { messages, complete } = await here.history({ limit: PAGE });
    prepend(messages.map(({ data }) => bubble(data, data.from === name)));
    return !complete;
  }

  function tellOfChanges(before: string[], now: string[]): void {
    for (const who of now) if (!before.includes(who)) append(note(`${who} joined`));
    for (const who of before) {
      if (now.includes(who)) continue;
      stopsTyping(who);
      append(note(`${who} left`));
    }
  }

  function tellTyping(): void {
    const now = Date.now();
    if (client.state !== "open" || text.value.trim() === "" || now < lastTyping + TYPING_MS / 2) return;
    lastTyping = now;
    client.notify("typing", { room });
  }

  function stopsTyping(who: string): void {
    clearTimeout(typing.get(who));
    typing.delete(who);
    showWhoTypes();
  }

  function showWhoTypes(): void {
    const names = [...typing.keys()];
    const who = names.length > 2 ? `${names.length} people are` : names.join(" and ");
    if (names.length === 0) typingLine.textContent = "";
    else
      typingLine.textContent = `${who} ${names.length === 1 ? "is " : names.length === 2 ? "are " : ""}typing…`;
  }

  /** The server said how long; the button counts it down. */
  function beQuiet(milliseconds: number): void {
    quietUntil = Date.now() + milliseconds;
    append(note("Not so fast: that was not said yet."));
    showButtons();
  }

  function showButtons(): void {
    const quiet = Math.ceil((quietUntil - Date.now()) / 1_000);
    sendButton.disabled = client.state !== "open" || sending || quiet > 0;
    askButton.disabled = client.state !== "open";
    sendButton.textContent = quiet > 0 ? `Wait ${quiet} s` : "Send";
    if (quiet > 0) setTimeout(() => left.signal.aborted || showButtons(), 250);
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof RpcError)) return String(error);
  if (error.reason === "TIMEOUT") return "no answer in time";
  if (error.reason === "CONNECTION_LOST") return "the connection broke";
  return error.message;
}
