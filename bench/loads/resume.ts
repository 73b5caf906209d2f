// Connections that come back after 100 messages, get them all, and go again, for as long as a turn lasts.

import { turns } from "../clients/turns.js";
import { MESSAGE } from "../topic.js";
import { openSocket } from "./socket.js";

const MISSED = 100;
const { PORT, PROTOCOL, IN_FLIGHT } = process.env;

await (PROTOCOL === "socketio" ? socketio() : harpia());

async function harpia(): Promise<void> {
  await fetch(`http://127.0.0.1:${PORT}/fill/${MISSED}`);
  const probe = await openSocket();
  probe.send('{"jsonrpc":"2.0","id":1,"method":"$/subscribe","params":{"topic":"room"}}');
  const { result } = JSON.parse(await probe.next("")) as { result: { epoch: string; offset: number } };
  const after = { epoch: result.epoch, offset: result.offset - MISSED };
  const params = { topic: "room", after };
  const request = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "$/subscribe", params });
  await turns(async () => {
    const socket = await openSocket();
    socket.send(request);
    const answer = await socket.next('{"jsonrpc":"2.0","id":1,"result":{');
    if (!answer.includes('"recovered":true') || !answer.includes(`{"offset":${result.offset},"data":`))
      throw new Error(`not all came: ${answer.slice(0, 200)}`);
    socket.close();
  });
}

/** Each one is known to the server from before, and is there once more whenever it comes back. */
async function socketio(): Promise<void> {
  const sockets = await Promise.all(Array.from({ length: Number(IN_FLIGHT) }, () => openSocket()));
  const pids = sockets.map(({ greeting }) => (JSON.parse(greeting.slice(2)) as { pid: string }).pid);
  sockets[0]!.send(`421["fill",${MISSED + 1},${JSON.stringify(MESSAGE)}]`);
  const [, , offset] = JSON.parse((await sockets[0]!.next('42["message",')).slice(2)) as string[];
  await Promise.all(sockets.map((socket) => socket.next('42["message",')));
  for (const socket of sockets) socket.close();
  await Bun.sleep(500);
  await turns(async (index) => {
    const socket = await openSocket(JSON.stringify({ pid: pids[index], offset }));
    if (!socket.greeting.includes(pids[index]!) || socket.missed !== MISSED)
      throw new Error(`${socket.missed} came, and ${socket.greeting}`);
    socket.close();
  });
}
