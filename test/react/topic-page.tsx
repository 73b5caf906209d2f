// The page of topic.test.ts: a room as users write it, and handles for the test to render it with.

import { Activity, Component, type ReactNode, StrictMode, useEffect, useLayoutEffect, useRef } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { type Client, type TopicView, useChannel, useConnectionState, useTopic } from "harpia/react";
import { rooms } from "./topic-contract.js";

export interface RoomsProps {
  room?: string;
  last?: number;
  keep?: number;
  /** How many components show the room. */
  count?: number;
  /** Takes messages with `onMessage` instead. */
  apart?: boolean;
  topic?: "room/:room" | "feed/:room" | "secret/:room";
  hidden?: boolean;
  /** Loads older messages in an effect of a component below. */
  eager?: boolean;
}

type View = TopicView<{ room: string; text: string }, { name: string }>;

export interface Seen {
  /** What the first component rendered, each time it committed. */
  commits: { state: string; texts: string[] }[];
  apart: string[];
  resets: number;
  /** Commits in which components differed, and messages of a room under another's name. */
  torn: string[];
  errors: string[];
}

const seen: Seen = { commits: [], apart: [], resets: 0, torn: [], errors: [] };
let view: View;
/** What each component has on the page. */
const shown: (string | undefined)[] = [];

const textsOf = ({ messages }: View): string[] => messages.map(({ data }) => data.text);

export function Rooms({ count = 1, ...props }: RoomsProps) {
  const client = useChannel(rooms, { url: "/" });
  const all = Array.from({ length: count }, (_, index) => (
    <Room key={index} index={index} client={client} {...props} />
  ));
  const within =
    props.hidden === undefined ? all : <Activity mode={props.hidden ? "hidden" : "visible"}>{all}</Activity>;
  return (
    <main>
      <p className="connection">{useConnectionState(client)}</p>
      {within}
    </main>
  );
}

function Room({
  client,
  index,
  room = "a",
  last = 0,
  keep = 1_000,
  apart = false,
  topic: name = "room/:room",
  eager = false,
}: RoomsProps & { client: Client<typeof rooms>; index: number }) {
  const topic = useTopic(
    client,
    name as "room/:room", // the others have less
    { room },
    {
      last,
      keep,
      onReset: () => void seen.resets++,
      ...(apart && { onMessage: ({ data }: { data: { text: string } }) => void seen.apart.push(data.text) }),
    },
  );
  const committed = useRef<View>(undefined);
  useLayoutEffect(() => {
    shown[index] = textsOf(topic).join();
    // When the others of this commit have been here.
    queueMicrotask(() => {
      const texts = new Set(shown.filter((text) => text !== undefined));
      if (texts.size > 1) seen.torn.push([...texts].join(" / "));
    });
    if (index > 0) return;
    view = topic;
    if (committed.current === topic) return;
    committed.current = topic;
    seen.commits.push({ state: topic.state, texts: textsOf(topic) });
    for (const { data } of topic.messages) if (data.room !== room) seen.torn.push(`${data.room} in ${room}`);
  });
  useLayoutEffect(() => () => void (shown[index] = undefined), [index]);
  return (
    <section>
      <p className="state">{topic.state}</p>
      <p className="why">{topic.error?.reason}</p>
      <p className="texts">{textsOf(topic).join()}</p>
      <p className="members">{topic.members.map(({ info }) => info.name).join()}</p>
      <p className="count">{topic.count}</p>
      <p className="complete">{String(topic.complete)}</p>
      {eager && <Eager topic={topic} />}
    </section>
  );
}

function Eager({ topic: { loadOlder } }: { topic: View }) {
  useEffect(() => void loadOlder(), [loadOlder]);
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

const handles = {
  seen,
  root: undefined as Root | undefined,
  render(props: RoomsProps) {
    this.root ??= createRoot(document.querySelector("#app")!, { onCaughtError: () => {} });
    this.root.render(
      <StrictMode>
        <Boundary>
          <Rooms {...props} />
        </Boundary>
      </StrictMode>,
    );
  },
  hydrate(props: RoomsProps) {
    const onRecoverableError = (error: unknown) => seen.errors.push(String(error));
    this.root = hydrateRoot(document.querySelector("#app")!, <Rooms {...props} />, { onRecoverableError });
  },
  /** Calls `loadOlder` so many times at once. */
  async load(times = 1) {
    await Promise.all(Array.from({ length: times }, () => view.loadOlder()));
  },
};

export type TopicHandles = typeof handles;
if (typeof document === "object") Object.assign(globalThis, { handles });
