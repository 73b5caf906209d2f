// `npm run test:rolling`: three processes with 3,000 clients are restarted one after the other, under load; fails unless
// everybody was handed everything, once and in one order. Then one with 1,000 members is killed; fails unless those who
// come back were there all the time, and the others are gone in time. CLIENTS and MEMBERS change how many. In small with
// the tests: test/cluster/rolling.test.ts, test/cluster/members.test.ts.

import { membersOfTheDead } from "./cluster/members.js";
import { roll } from "./cluster/rolling.js";

const clients = Number(process.env.CLIENTS ?? 3_000);
const { wrong, seconds, restarts, counts, peak } = await roll({
  clients,
  rooms: Math.ceil(clients / 100),
  ofServers: 20,
  ofClients: 40,
});
for (const { clients, stopped, ready, back } of restarts) {
  console.log(
    `a process with ${clients} clients: stopped after ${stopped.toFixed(1)} s, ready again after ${ready.toFixed(1)} s, ` +
      `all its clients live again after ${back.toFixed(1)} s`,
  );
}
console.log(`${clients} clients: ${seconds.toFixed(1)} s for all three; ${JSON.stringify(counts)}`);
console.log(
  `handshakes at most: ${peak.secondOfAll} in one second (${peak.secondOfOne} of one process), ` +
    `${peak.tenthOfAll} in a tenth of a second`,
);
// A tenth of them a second, if they are spread over ten seconds.
const most = Math.max(...restarts.map(({ clients }) => clients));
if (peak.secondOfAll > most / 4) wrong.push(`${peak.secondOfAll} of ${most} clients came back in one second`);

const members = Number(process.env.MEMBERS ?? 1_000);
const dead = await membersOfTheDead({ members, pollMs: 10_000 });
console.log(
  `a process with ${members} members killed: half came back within ${dead.back.toFixed(1)} s, ` +
    `the others were gone for everybody after ${dead.gone.toFixed(1)} s`,
);
wrong.push(...dead.wrong);

for (const what of wrong) console.error(`WRONG: ${what}`);
process.exit(wrong.length === 0 ? 0 : 1);
