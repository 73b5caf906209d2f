// A client that belongs to a component: made while rendering, connected while the component is on the page.

import { useEffect, useRef, useState } from "react";
import { Client, type ConnectOptions, type ConnectOptionsBase } from "../client/client.js";
import type { Contract } from "../contract/contract.js";
import { fillPath } from "../contract/path.js";
import { useLatest } from "./latest.js";

interface Held<C extends Contract> {
  /** What the client was made for; another key is another connection. */
  key: string;
  client: Client<C>;
}

/**
 * Connects to a channel for as long as the component is on the page. Components below share the client that it returns.
 *
 * The options may be written inline. Another address (`url`, `params`), another `timeout` or another string as `token`
 * is another connection, with another client. A `token` that is a function is no such thing: the latest is asked for each connection.
 * On a server nothing is opened.
 * @throws TypeError for a missing param, while rendering; for a URL that is none, or a runtime without WebSocket,
 * once it is on the page. An error boundary catches both.
 * @example
 * const client = useChannel(chat, { url: "/", params: { room } });
 * useEvent(client, "said", (said) => setLines((lines) => [...lines, said]));
 */
export function useChannel<const C extends Contract>(contract: C, options: ConnectOptions<C>): Client<C> {
  const given: ConnectOptionsBase & { params?: Record<string, string> | undefined } = options;
  const { url, params, token, timeout } = given;
  const key = JSON.stringify([
    fillPath(contract.path, params),
    String(url),
    typeof token === "function" || token,
    timeout,
  ]);
  const latest = useLatest(token);
  const make = (): Held<C> => {
    const ask = () => (typeof latest.current === "function" ? latest.current() : latest.current);
    // Opens nothing before `start`, so a render that React throws away leaves nothing behind.
    const client = new Client(contract, { ...given, token: typeof token === "function" ? ask : token });
    return { key, client };
  };

  const [held, hold] = useState(make);
  let current = held;
  if (held.key !== key) {
    // React renders this component once more before any other: nobody sees the client of the old address.
    current = make();
    hold(current);
  }
  const { client } = current;

  const running = useRef<Client<C>>(undefined);
  useEffect(() => {
    client.start();
    running.current = client;
    return () => {
      running.current = undefined;
      // Later: StrictMode and Fast Refresh take effects away and set them up again at once, which is no reason to
      // reconnect. And what the cleanups of other components send still leaves.
      queueMicrotask(() => {
        if (running.current === client) return;
        client.close();
        // Hidden by <Activity>, and perhaps shown again: a closed client stays closed, so have another one ready.
        if (running.current === undefined) hold((held) => (held.client === client ? make() : held));
      });
    };
    // `make` is of the render that the client is of.
  }, [client]);
  return client;
}
