// Connections that each subscribe to a topic, and unsubscribe again, for as long as a turn lasts.

import { turns } from "../clients/turns.js";
import { openSocket } from "./socket.js";

const { PROTOCOL, IN_FLIGHT } = process.env;
const isSocketIo = PROTOCOL === "socketio";
const [subscribe, unsubscribe] = isSocketIo
  ? ['421["subscribe","room"]', '422["unsubscribe","room"]']
  : [
      '{"jsonrpc":"2.0","id":1,"method":"$/subscribe","params":{"topic":"room"}}',
      '{"jsonrpc":"2.0","id":2,"method":"$/unsubscribe","params":{"topic":"room"}}',
    ];
const [subscribed, unsubscribed] = isSocketIo
  ? ["431[true]", "432[true]"]
  : ['{"jsonrpc":"2.0","id":1,"result":{"epoch":', '{"jsonrpc":"2.0","id":2,"result":true}'];

const sockets = await Promise.all(Array.from({ length: Number(IN_FLIGHT) }, () => openSocket()));
await turns(async (index) => {
  const socket = sockets[index]!;
  socket.send(subscribe);
  await socket.next(subscribed);
  socket.send(unsubscribe);
  await socket.next(unsubscribed);
});
