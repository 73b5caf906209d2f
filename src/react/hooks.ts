// Hooks for a client that somebody else owns: events, answers, the connection's state.

import { useCallback, useEffect, useSyncExternalStore } from "react";
import type { Client } from "../client/client.js";
import type { ConnectionState } from "../client/connection.js";
import type { AskName, Contract, Events, ParamsOut, ResultIn, TellName } from "../contract/contract.js";
import { useLatest } from "./latest.js";

/**
 * Hears an event while the component is on the page. `listener` may be written inline: it is always the one of the last
 * render that is called, and another one does not listen anew. What it throws is reported as an uncaught error.
 * @example
 * useEvent(client, "said", (said) => setLines((lines) => [...lines, said]));
 */
export function useEvent<C extends Contract, Name extends TellName<C>>(
  client: Client<C>,
  event: Name,
  listener: (params: ParamsOut<Events<C>[Name]>) => void,
): void {
  const latest = useLatest(listener);
  useEffect(() => client.on(event, (params) => latest.current(params)), [client, event, latest]);
}

/**
 * Answers what the server asks while the component is on the page; one component an event. `handler` may be written
 * inline, as in {@link useEvent}. What it throws the server sees as a failure to answer.
 * @example
 * useAnswer(client, "confirm", ({ what }) => dialog(`Really ${what}?`));
 */
export function useAnswer<C extends Contract, Name extends AskName<C>>(
  client: Client<C>,
  event: Name,
  handler: (
    params: ParamsOut<Events<C>[Name]>,
  ) => ResultIn<Events<C>[Name]> | Promise<ResultIn<Events<C>[Name]>>,
): void {
  const latest = useLatest(handler);
  useEffect(() => client.answer(event, (params) => latest.current(params)), [client, event, latest]);
}

/**
 * The connection's state; renders again when it changes. On a server, and while React hydrates, it is `connecting`.
 * When it is `closed`, `client.closeCode` says why.
 */
export function useConnectionState<C extends Contract>(client: Client<C>): ConnectionState {
  const subscribe = useCallback((changed: () => void) => client.onState(changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.state,
    () => "connecting",
  );
}
