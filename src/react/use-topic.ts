// A topic that a component shows: subscribed while the component is on the page.

import { useState, useSyncExternalStore } from "react";
import type { Client } from "../client/client.js";
import type { Position } from "../client/reader.js";
import type { Message, Subscription } from "../client/subscription.js";
import type { SubscribeOptions } from "../client/topics.js";
import type { Contract, InfoOut, MessageOut, TopicName, Topics } from "../contract/contract.js";
import { topicName, type TopicParams } from "../contract/topic.js";
import { useLatest } from "./latest.js";
import { TopicStore, type TopicView } from "./topic-store.js";

/** What {@link useTopic} takes beside the topic: where to begin, as `client.subscribe`, and what to do with messages. */
export interface TopicOptions<T> extends SubscribeOptions {
  /** How many messages are kept: the newest. `loadOlder` goes beyond it. Default 1,000. */
  keep?: number;
  /** Gets each message instead of `messages`, and nothing renders: for a canvas, or many messages a second. */
  onMessage?: (message: Message<T>) => void;
  /** What was published is no longer to be had, and `messages` begin anew: load what you keep beside them. */
  onReset?: () => void;
}

type TopicArguments<Name extends string, T> = keyof TopicParams<Name> extends never
  ? [params?: Record<never, never>, options?: TopicOptions<T>]
  : [params: TopicParams<Name>, options?: TopicOptions<T>];

interface Held<T, Info> {
  client: unknown;
  /** What the store was made for; another key is another subscription. */
  key: string;
  store: TopicStore<T, Info>;
}

const KEEP = 1_000;

/**
 * Subscribes to a topic for as long as the component is on the page, and renders it: messages that came in one task, once.
 *
 * Everything may be written inline. Another client, topic, `last` or `after` is another subscription, and begins anew;
 * `onMessage` and `onReset` are those of the last render. Components that show the same topic share it on the wire.
 * On a server nothing is opened.
 * @throws TypeError, while rendering, for a param that is missing or too long, or a `keep` that is no number of messages.
 * What the server refuses is in `error`.
 * @example
 * const { messages, members, loadOlder } = useTopic(client, "room/:room", { room }, { last: 50 });
 */
export function useTopic<C extends Contract, Name extends TopicName<C>>(
  client: Client<C>,
  name: Name,
  ...[params, options = {}]: TopicArguments<Name, MessageOut<Topics<C>[Name]>>
): TopicView<MessageOut<Topics<C>[Name]>, InfoOut<Topics<C>[Name]>> {
  type T = MessageOut<Topics<C>[Name]>;
  type Info = InfoOut<Topics<C>[Name]>;
  const { last, after, keep = KEEP, onMessage, onReset } = options;
  if (!Number.isInteger(keep) || keep < 1)
    throw new TypeError(`useTopic: "keep" must be a whole number from 1, and is ${String(keep)}`);
  const key = JSON.stringify([topicName(name, params), last, after?.epoch, after?.offset]);
  const latest = useLatest({ keep, onMessage, onReset });
  const make = (): Held<T, Info> => {
    const begin = (position?: Position): Subscription<T, Info> => {
      // The same arguments, which TypeScript cannot know of a template that is still open.
      const subscribe = client.subscribe.bind(client) as unknown as (
        name: Name,
        params: object | undefined,
        options: object,
      ) => Subscription<T, Info>;
      return subscribe(name, params, { last, after: position ?? after });
    };
    return { client, key, store: new TopicStore(begin, latest) };
  };

  const [held, hold] = useState(make);
  let current = held;
  if (held.client !== client || held.key !== key) {
    // React renders this component once more before any other: nobody sees the messages of the old topic.
    current = make();
    hold(current);
  }
  const { store } = current;
  return useSyncExternalStore(store.subscribe, store.view, () => store.initial);
}
