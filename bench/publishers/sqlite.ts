// harpia on SQLite: publishes to a topic with history, through its channel.

import { harpia } from "harpia";
import { sqlite } from "harpia/sqlite";
import { turns } from "../clients/turns.js";
import { contract, MESSAGE } from "../topic.js";

const { FOLDER, SYNCHRONOUS } = process.env;
const broker = sqlite(`${FOLDER}/harpia.db`, { synchronous: SYNCHRONOUS as "full" | "normal" });
const live = harpia({ broker })
  .channel(contract)
  .implement({
    methods: { post() {} },
    topics: { room: { subscribe: "public" } },
  });
const room = live.topic("room");
await turns(() => room.publish(MESSAGE));
