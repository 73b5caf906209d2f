// What the chat's page shows, as elements. Text goes in as text, never as HTML.

import type { ConnectionState } from "harpia/client";
import type { Message } from "./contract.js";

/** Milliseconds after which nobody is asked to wave any more. */
const OFFER_MS = 20_000;

const STATES: Record<ConnectionState, string> = {
  connecting: "connecting…",
  open: "connected",
  reconnecting: "reconnecting…",
  closed: "closed",
};

const log = get("log", HTMLElement);

export function showState(state: ConnectionState): void {
  const line = get("state", HTMLElement);
  line.textContent = STATES[state];
  get("chat", HTMLElement).dataset.state = state;
}

export function showMembers(names: string[], me: string, wave: (to: string) => void): void {
  const items = names.map((name) => {
    const item = document.createElement("li");
    item.append(avatar(name), span("name", name));
    if (name === me) item.append(span("you", "you"));
    else item.append(button(`Wave at ${name}`, "Wave", () => wave(name)));
    return item;
  });
  get("members", HTMLElement).replaceChildren(...items);
  get("members-count", HTMLElement).textContent = String(names.length);
}

export function append(item: HTMLElement): void {
  keepingEnd(() => log.append(item));
}

/** Puts what is older before what is shown; what is in view stays in view. */
export function prepend(items: HTMLElement[]): void {
  const fromEnd = log.scrollHeight - log.scrollTop;
  log.prepend(...items);
  log.scrollTop = log.scrollHeight - fromEnd;
}

/** Offers what was said before, until there is no more. */
export function offerEarlier(earlier: () => Promise<boolean>): void {
  const item = document.createElement("li");
  item.className = "earlier";
  const more = button("Show earlier messages", "Earlier", async () => {
    more.disabled = true;
    item.remove();
    if (await earlier().catch(() => true)) offerEarlier(earlier);
  });
  item.append(more);
  log.prepend(item);
}

export function note(words: string): HTMLElement {
  const item = document.createElement("li");
  item.className = "note";
  item.textContent = words;
  return item;
}

export function bubble({ from, text, at }: Message, mine: boolean): HTMLElement {
  const item = document.createElement("li");
  item.className = mine ? "said mine" : "said";
  const time = document.createElement("time");
  time.dateTime = new Date(at).toISOString();
  time.textContent = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.append(avatar(from), head(from, time), paragraph("body", text));
  return item;
}

/** An answer that grows word by word, for this person alone. */
export function answering(question: string, stop: () => void) {
  const item = document.createElement("li");
  item.className = "said answer";
  item.ariaBusy = "true"; // read out when it is whole
  const body = paragraph("body", "");
  const stopButton = button("Stop the answer", "Stop", stop);
  item.append(
    avatar("harpia"),
    head("harpia", span("aside", "only you see this")),
    paragraph("question", question),
    body,
    stopButton,
  );
  return {
    item,
    add(words: string): void {
      keepingEnd(() => (body.textContent += words));
    },
    end(why?: string): void {
      if (why !== undefined) body.textContent += `… (${why})`;
      stopButton.remove();
      item.ariaBusy = "false";
    },
  };
}

/** Asks this person whether to wave back. Resolves with what they say; `false` when they say nothing in time. */
export function offerToWave(name: string, signal: AbortSignal): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const card = document.createElement("div");
  card.className = "wave";
  card.append(
    avatar(name),
    paragraph("", `${name} waves at you.`),
    button(`Wave back at ${name}`, "Wave back", () => resolve(true)),
    button(`Not now: do not wave back at ${name}`, "Not now", () => resolve(false)),
  );
  keepingEnd(() => get("waves", HTMLElement).append(card));
  const timer = setTimeout(() => resolve(false), OFFER_MS);
  signal.addEventListener("abort", () => resolve(false), { once: true });
  return promise.finally(() => {
    clearTimeout(timer);
    card.remove();
  });
}

export function get<E extends HTMLElement>(id: string, kind: new () => E): E {
  const element = document.getElementById(id);
  if (element instanceof kind) return element;
  throw new Error(`#${id} is not on the page`);
}

/** Changes the page; who saw the end of the log still sees it. */
function keepingEnd(change: () => unknown): void {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function head(who: string, beside: HTMLElement): HTMLElement {
  const line = paragraph("head", "");
  line.append(span("who", who), beside);
  return line;
}

function avatar(name: string): HTMLElement {
  const face = span("avatar", [...name][0]!.toUpperCase());
  face.ariaHidden = "true";
  let hue = 0;
  for (const char of name) hue = (hue * 31 + char.codePointAt(0)!) % 360;
  face.style.setProperty("--hue", String(hue));
  return face;
}

function button(label: string, words: string, act: () => void): HTMLButtonElement {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "small";
  element.ariaLabel = label;
  element.textContent = words;
  element.addEventListener("click", act);
  return element;
}

function paragraph(className: string, words: string): HTMLElement {
  const element = document.createElement("p");
  if (className !== "") element.className = className;
  element.textContent = words;
  return element;
}

function span(className: string, words: string): HTMLElement {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = words;
  return element;
}
