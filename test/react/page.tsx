// The page of react.test.ts: components as users write them, and handles for the test to render them with.

import { Activity, Component, type ReactNode, StrictMode, useEffect, useState } from "react";
import { flushSync } from "react-dom";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { type Client, useAnswer, useChannel, useConnectionState, useEvent } from "harpia/react";
import { chat } from "./contract.js";

interface RoomProps {
  room?: string;
  url?: string;
  /** A function that gives it; with `fixed`, the string itself. */
  token?: string;
  fixed?: boolean;
  /** Only to see that it is the latest which listeners and answers see. */
  label?: string;
}

export interface Seen {
  clients: Set<Client<typeof chat>>;
  heard: string[];
  /** Pairs of states that two components rendered at the same time, if they ever differ. */
  torn: string[];
  errors: string[];
  failed: string[];
}

const seen: Seen = { clients: new Set(), heard: [], torn: [], errors: [], failed: [] };

export function Room({ room = "a", url = "/", token = "ada", fixed = false, label = "" }: RoomProps) {
  const client = useChannel(chat, { url, params: { room }, token: fixed ? token : () => token });
  seen.clients.add(client);
  const state = useConnectionState(client);
  const [name, setName] = useState("");
  useEvent(client, "said", ({ text }) => seen.heard.push(`${text} ${label}`));
  useAnswer(client, "confirm", async ({ what }) => `${what} ${label}`);
  const whoami = () => client.call("whoami").then(setName, (error: Error) => seen.failed.push(error.message));
  return (
    <main>
      <p id="room">{room}</p>
      <p id="state">{state}</p>
      <p id="why">{client.closeCode}</p>
      <p id="name">{name}</p>
      <button onClick={whoami}>whoami</button>
      <button onClick={() => client.call("never").catch((error) => seen.failed.push(error.reason))}>
        never
      </button>
      <Members client={client} state={state} />
    </main>
  );
}

function Members({ client, state }: { client: Client<typeof chat>; state: string }) {
  const own = useConnectionState(client);
  if (own !== state) seen.torn.push(`${state}/${own}`);
  useEvent(client, "said", ({ text }) => seen.heard.push(`${text} below`));
  // Runs before the effect of the component that connects.
  useEffect(() => {
    client.call("join", { as: "a member" }).catch((error) => seen.failed.push(error.reason));
    return () => {
      if (client.state === "open") client.notify("join", { as: "nobody" });
    };
  }, [client]);
  return null;
}

class Boundary extends Component<{ children: ReactNode }, { message?: string }> {
  override state: { message?: string } = {};
  static getDerivedStateFromError(error: Error) {
    return { message: error.message };
  }
  override render() {
    return this.state.message ? <p id="caught">{this.state.message}</p> : this.props.children;
  }
}

function tree({ strict = true, hidden, ...props }: RoomProps & { strict?: boolean; hidden?: boolean }) {
  const room = <Room {...props} key={props.fixed ? "fixed" : "asked"} />;
  const within =
    hidden === undefined ? room : <Activity mode={hidden ? "hidden" : "visible"}>{room}</Activity>;
  const caught = <Boundary>{within}</Boundary>;
  return strict ? <StrictMode>{caught}</StrictMode> : caught;
}

const handles = {
  seen,
  root: undefined as Root | undefined,
  render(props: Parameters<typeof tree>[0]) {
    this.root ??= createRoot(document.querySelector("#app")!, { onCaughtError: () => {} });
    this.root.render(tree(props));
  },
  hydrate(props: RoomProps) {
    const onRecoverableError = (error: unknown) => seen.errors.push(String(error));
    this.root = hydrateRoot(document.querySelector("#app")!, <Room {...props} />, { onRecoverableError });
  },
  /** Hides the component, and shows it at once when what that led to has run. */
  async blink() {
    flushSync(() => this.render({ hidden: true }));
    await Promise.resolve();
    flushSync(() => this.render({ hidden: false }));
  },
  unmount() {
    this.root?.unmount();
    this.root = undefined;
  },
};

export type Handles = typeof handles;
if (typeof document === "object") Object.assign(globalThis, { handles });
