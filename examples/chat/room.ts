// One room, from entering it to leaving it: what the page calls, hears and answers over its connection.

import { connect, isContractError, RpcError } from "harpia/client";
import { chat, type Member } from "./contract.js";
import { answering, append, bubble, get, note, offerToWave, showMembers, showState } from "./view.js";

const TYPING_MS = 3_000;
/** A person may take this long to wave back, and then the server answers for them. */
const WAVE_MS = 25_000;

const say = get("say", HTMLFormElement);
const text = get("text", HTMLInputElement);
const sendButton = get("send", HTMLButtonElement);
const askButton = get("ask", HTMLButtonElement);
const typingLine = get("typing", HTMLElement);

/** Enters a room and stays in it, through lost connections, until the returned function is called. */
export function enter(room: string, name: string): () => void {
  const client = connect(chat, { url: "/", params: { room }, token: name });
  const left = new AbortController();
  const members = new Map<string, Member>();
  const typing = new Map<string, ReturnType<typeof setTimeout>>();
  let me: Member | undefined;
  let quietUntil = 0;
  let sending = false;
  let lastTyping = 0;

  get("room-name", HTMLElement).textContent = room;
  get("log", HTMLElement).replaceChildren();
  showWhoTypes();
  showPeople();
  showState(client.state);
  showButtons();
  text.focus();

  client.onState((state) => {
    if (left.signal.aborted) return;
    showState(state);
    showButtons();
    if (state === "closed") append(note(`The server did not let you in (${client.closeCode}).`));
  });

  client.on("welcome", ({ you, members: present }) => {
    if (me) append(note("Back again. What was said meanwhile is missing here."));
    me = you;
    members.clear();
    for (const member of present) members.set(member.id, member);
    showPeople();
  });
  client.on("joined", (member) => {
    members.set(member.id, member);
    append(note(`${member.name} joined`));
    showPeople();
  });
  client.on("left", (member) => {
    members.delete(member.id);
    stopsTyping(member);
    append(note(`${member.name} left`));
    showPeople();
  });
  client.on("said", (message) => {
    stopsTyping(message.from);
    append(bubble(message, message.from.id === me?.id));
  });
  client.on("typing", (member) => {
    clearTimeout(typing.get(member.id));
    typing.set(
      member.id,
      setTimeout(() => stopsTyping(member), TYPING_MS),
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
    try {
      await client.call("say", { text: words }, { signal: left.signal });
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
      for await (const word of client.stream("ask", { question }, { signal })) answer.add(word);
      answer.end();
    } catch (error) {
      answer.end(stop.signal.aborted ? "stopped" : reasonOf(error));
    }
  }

  async function wave(member: Member): Promise<void> {
    append(note(`You wave at ${member.name}…`));
    try {
      const options = { timeout: WAVE_MS, signal: left.signal };
      append(note(`${member.name} ${await client.call("wave", { to: member.id }, options)}`));
    } catch (error) {
      if (!left.signal.aborted) append(note(`${member.name} may not have seen it: ${reasonOf(error)}.`));
    }
  }

  function tellTyping(): void {
    const now = Date.now();
    if (client.state !== "open" || text.value.trim() === "" || now < lastTyping + TYPING_MS / 2) return;
    lastTyping = now;
    client.notify("typing");
  }

  function stopsTyping({ id }: Member): void {
    clearTimeout(typing.get(id));
    typing.delete(id);
    showWhoTypes();
  }

  function showWhoTypes(): void {
    const names = [...typing.keys()].map((id) => members.get(id)?.name ?? "Somebody");
    const who = names.length > 2 ? `${names.length} people are` : names.join(" and ");
    if (names.length === 0) typingLine.textContent = "";
    else
      typingLine.textContent = `${who} ${names.length === 1 ? "is " : names.length === 2 ? "are " : ""}typing…`;
  }

  function showPeople(): void {
    showMembers([...members.values()], me, (member) => void wave(member));
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
