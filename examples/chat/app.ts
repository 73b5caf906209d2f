// The chat's page: the form that lets people in, the room that they are in, and the socket that keeps it live.

import { type ClientMessage, type Member, ROOM, type ServerMessage } from "./protocol.js";

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 10_000;

const door = get("door", HTMLElement);
const join = get("join", HTMLFormElement);
const nameField = get("name", HTMLInputElement);
const roomField = get("room", HTMLInputElement);
const chat = get("chat", HTMLElement);
const state = get("state", HTMLElement);
const log = get("log", HTMLElement);
const say = get("say", HTMLFormElement);
const text = get("text", HTMLInputElement);

let leaveRoom: (() => void) | undefined;

nameField.value = sessionStorage.getItem("name") ?? "";
route();
addEventListener("popstate", route);

join.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = nameField.value.trim();
  if (name === "") return;
  sessionStorage.setItem("name", name);
  history.pushState(null, "", `/room/${roomField.value}`);
  route();
});

get("leave", HTMLButtonElement).addEventListener("click", () => {
  sessionStorage.removeItem("name");
  history.pushState(null, "", "/");
  route();
});

/** Shows what the address says: the door, or a room. */
function route(): void {
  leaveRoom?.();
  leaveRoom = undefined;
  const wanted = decodeURIComponent(location.pathname.split("/")[2] ?? "");
  const room = ROOM.test(wanted) ? wanted : undefined;
  const name = sessionStorage.getItem("name");
  door.hidden = room !== undefined && name !== null;
  chat.hidden = !door.hidden;
  if (room !== undefined && name !== null) {
    leaveRoom = enter(room, name);
    text.focus();
    return;
  }
  document.title = "harpia chat";
  roomField.value = room ?? "lobby";
  nameField.focus();
}

/** Joins a room and stays in it, through lost connections, until the returned function is called. */
function enter(room: string, name: string): () => void {
  const members = new Map<string, Member>();
  let me: Member | undefined;
  let socket: WebSocket;
  let attempts = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const ended = new AbortController();

  document.title = `#${room} · harpia chat`;
  get("room-name", HTMLElement).textContent = room;
  log.replaceChildren();
  show("connecting");
  dial();
  say.addEventListener("submit", send, { signal: ended.signal });
  addEventListener("online", dialNow, { signal: ended.signal });

  return () => {
    ended.abort();
    clearTimeout(timer);
    socket.close(1000);
  };

  function dial(): void {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/socket/${room}?name=${encodeURIComponent(name)}`);
    socket.onmessage = ({ data }) => receive(JSON.parse(String(data)) as ServerMessage);
    socket.onclose = () => {
      if (ended.signal.aborted) return;
      show("reconnecting");
      // Spread out, so that a server that comes back does not meet everybody at once.
      const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempts++);
      timer = setTimeout(dial, wait * (0.5 + Math.random() / 2));
    };
  }

  function dialNow(): void {
    if (socket.readyState !== WebSocket.CLOSED) return;
    clearTimeout(timer);
    dial();
  }

  function receive(message: ServerMessage): void {
    switch (message.type) {
      case "welcome":
        attempts = 0;
        me = message.you;
        members.clear();
        for (const member of message.members) members.set(member.id, member);
        show("connected");
        return showMembers();
      case "joined":
        members.set(message.member.id, message.member);
        append(note(`${message.member.name} joined`));
        return showMembers();
      case "left":
        members.delete(message.member.id);
        append(note(`${message.member.name} left`));
        return showMembers();
      case "said":
        return append(bubble(message, message.from.id === me?.id));
      case "refused":
        return append(note(message.reason));
    }
  }

  function send(event: Event): void {
    event.preventDefault();
    const said = text.value.trim();
    // What was typed stays in the field until it can be sent.
    if (said === "" || socket.readyState !== WebSocket.OPEN) return;
    socket.send(JSON.stringify({ type: "say", text: said } satisfies ClientMessage));
    text.value = "";
  }

  function showMembers(): void {
    const items = [...members.values()].map((member) => {
      const item = document.createElement("li");
      item.append(avatar(member), member.name);
      if (member.id === me?.id) item.append(span("you", "you"));
      return item;
    });
    get("members", HTMLElement).replaceChildren(...items);
    get("members-count", HTMLElement).textContent = String(members.size);
  }
}

function show(what: "connecting" | "connected" | "reconnecting"): void {
  state.textContent = what === "connected" ? "connected" : `${what}…`;
  state.dataset.state = what;
  say.querySelector("button")!.disabled = what !== "connected";
}

function append(item: HTMLElement): void {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(item);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note(words: string): HTMLElement {
  const item = document.createElement("li");
  item.className = "note";
  item.textContent = words;
  return item;
}

function bubble({ from, text: said, at }: ServerMessage & { type: "said" }, mine: boolean): HTMLElement {
  const item = document.createElement("li");
  item.className = mine ? "said mine" : "said";
  const time = document.createElement("time");
  time.dateTime = new Date(at).toISOString();
  time.textContent = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const head = document.createElement("p");
  head.className = "head";
  head.append(span("who", from.name), time);
  const body = document.createElement("p");
  body.className = "body";
  body.textContent = said;
  item.append(avatar(from), head, body);
  return item;
}

function avatar({ name }: Member): HTMLElement {
  const face = span("avatar", [...name][0]!.toUpperCase());
  face.ariaHidden = "true";
  let hue = 0;
  for (const char of name) hue = (hue * 31 + char.codePointAt(0)!) % 360;
  face.style.setProperty("--hue", String(hue));
  return face;
}

function span(className: string, words: string): HTMLElement {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = words;
  return element;
}

function get<E extends HTMLElement>(id: string, kind: new () => E): E {
  const element = document.getElementById(id);
  if (element instanceof kind) return element;
  throw new Error(`#${id} is not on the page`);
}
