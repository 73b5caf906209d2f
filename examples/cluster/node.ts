// One process of the cluster: the chat of examples/chat, with Redis for a broker. Nothing else is different.

import { redis } from "harpia/redis";
import { startChat } from "../chat/server.js";

const broker = redis({ url: process.env.REDIS_URL });
const chat = startChat({ port: Number(process.env.PORT ?? 0), broker });
console.log(`ready on ${chat.port}`);
process.once("SIGTERM", () => void chat.restart().then(() => process.exit(0)));
