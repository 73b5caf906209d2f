// A process with many members dies. Half of them come back elsewhere by themselves, and nobody may be told that they had
// gone; the other half do not, and must be gone for everybody when their leases are over.

import { type Client, connect, type Subscription } from "harpia/client";
import { faultProxy } from "harpia/testing";
import { holdsWithin } from "../support/app.js";
import { Cluster } from "./machines.js";
import { rooms } from "./room.js";

export interface MembersOptions {
  members: number;
  /** Milliseconds; a lease is three of these (src/channel/topics.ts). harpia itself takes 10,000. */
  pollMs: number;
}

export interface Members {
  /** Empty if presence kept what it promises. */
  wrong: string[];
  /** Seconds from `kill -9` until all who had to were there again; until all who had to were gone for everybody. */
  back: number;
  gone: number;
}

const POLLS_IN_LEASE = 3;
/** A loaded machine is late. */
const LATE_MS = 5_000;
const PATIENCE_MS = 60_000;
const ROOM = { room: "a" };

export async function membersOfTheDead({ members, pollMs }: MembersOptions): Promise<Members> {
  const wrong: string[] = [];
  await using cluster = await Cluster.start({ timeout: 5_000, pollMs });
  const [victim, ...others] = cluster.nodes;
  await using way = faultProxy({ port: victim!.port! });
  const clients: Client<typeof rooms>[] = [];
  const enter = (token: string, port: number): Subscription<{ id: number }, { name: string }> => {
    const client = connect(rooms, { url: `ws://127.0.0.1:${port}`, token, timeout: PATIENCE_MS });
    clients.push(client);
    return client.subscribe("room/:room", ROOM);
  };
  try {
    const watching = others.map(({ port }, index) => enter(`watcher ${index}`, port!));
    const staying = Array.from({ length: members / 2 }, (_, index) => `staying ${index}`);
    const stay = staying.map((name) => enter(name, way.port));
    const going = Array.from({ length: members / 2 }, (_, index) => enter(`going ${index}`, victim!.port!));
    const leavers = clients.slice(-going.length);
    const areTold = (count: number): boolean => watching.every(({ presence }) => presence.count === count);
    const all = watching.length + members;
    if (!(await holdsWithin(() => areTold(all), PATIENCE_MS)))
      return { wrong: [`of ${all} members ${watching[0]!.presence.count} came`], back: 0, gone: 0 };

    const saidToHaveGone = new Set<string>();
    for (const { presence } of watching) {
      presence.on("change", (members) => {
        const there = new Set(members.map(({ key }) => key));
        for (const name of staying) if (!there.has(name)) saidToHaveGone.add(name);
      });
    }
    const returned = new Set<string>();
    for (const [index, subscription] of stay.entries())
      subscription.on("state", (state) => void (state === "live" && returned.add(staying[index]!)));
    const killed = performance.now();
    const since = (): number => (performance.now() - killed) / 1_000;
    await victim!.kill();
    for (const client of leavers) client.close();
    way.target = { port: others[0]!.port! };
    const isBack = await holdsWithin(() => returned.size === staying.length, PATIENCE_MS);
    const back = since();
    const late = back * 1_000 > pollMs * POLLS_IN_LEASE;
    if (!isBack || late) wrong.push(`it took ${back.toFixed(1)} s to come back: longer than the lease`);

    const left = watching.length + staying.length;
    // A lease that was just renewed, and the next look at who is there.
    const longest = pollMs * (POLLS_IN_LEASE + 1) + LATE_MS;
    const isGone = await holdsWithin(() => areTold(left), killed + longest - performance.now());
    const gone = since();
    if (!isGone)
      wrong.push(`${watching[0]!.presence.count} are told of after ${gone.toFixed(1)} s, ${left} are there`);
    if (saidToHaveGone.size > 0)
      wrong.push(`${saidToHaveGone.size} were said to have gone, and had come back in time`);
    const isSeen = await holdsWithin(
      () => stay.every(({ presence }) => presence.count === left),
      PATIENCE_MS,
    );
    if (!isSeen) wrong.push("those who came back do not know who is there");
    return { wrong, back, gone };
  } finally {
    for (const client of clients) client.close();
  }
}
