// The chat's page: the form that lets people in, and which of the two is shown, the form or a room.

import { ROOM } from "./contract.js";
import { enter } from "./room.js";
import { get } from "./view.js";

const door = get("door", HTMLElement);
const nameField = get("name", HTMLInputElement);
const roomField = get("room", HTMLInputElement);

let leave: (() => void) | undefined;

nameField.value = sessionStorage.getItem("name") ?? "";
route();
addEventListener("popstate", route);

get("join", HTMLFormElement).addEventListener("submit", (event) => {
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
  leave?.();
  leave = undefined;
  const wanted = location.pathname.split("/")[2] ?? "";
  const room = ROOM.test(wanted) ? wanted : undefined;
  const name = sessionStorage.getItem("name");
  const inside = room !== undefined && name !== null;
  door.hidden = inside;
  get("chat", HTMLElement).hidden = !inside;
  if (inside) {
    document.title = `#${room} · harpia chat`;
    leave = enter(room, name);
    return;
  }
  document.title = "harpia chat";
  roomField.value = room ?? "lobby";
  nameField.focus();
}
