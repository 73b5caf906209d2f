// One subscriber, that only reads. It ends with its connection.

import { contract } from "../topic.js";

const socket = new WebSocket(`ws://127.0.0.1:${process.env.PORT}${contract.path}`);
socket.onopen = () =>
  socket.send('{"jsonrpc":"2.0","id":1,"method":"$/subscribe","params":{"topic":"room"}}');
socket.onmessage = () => {
  socket.onmessage = () => {};
  console.log("READY");
};
socket.onclose = () => process.exit();
