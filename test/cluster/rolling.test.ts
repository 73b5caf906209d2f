// A rolling restart in small; with 3,000 clients, who come back as they like: `npm run test:rolling`.

import { expect } from "bun:test";
import { pathOf, testWith } from "../support/programs.js";
import { roll } from "./rolling.js";

testWith("redis-server")(
  "three processes restarted in turn, under load: everybody is handed everything, once, in one order, and no reset",
  async () => {
    pathOf("haproxy");
    const { wrong, counts, restarts } = await roll({
      clients: 60,
      rooms: 3,
      ofServers: 30,
      ofClients: 60,
      hurry: true,
    });
    expect(wrong).toEqual([]);
    expect(restarts).toHaveLength(3);
    expect(counts.reconnects).toBeGreaterThanOrEqual(60);
    expect(counts.delivered).toBe(counts.published * 20);
  },
  120_000,
);
