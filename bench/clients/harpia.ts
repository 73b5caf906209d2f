// harpia/client, with its defaults: timeouts, reconnecting and the heartbeat are on.

import { connect } from "harpia/client";
import { contracts } from "../contract.js";
import { takeTurns } from "./turns.js";

const client = connect(contracts.zod, { url: process.env.URL! });
await takeTurns((params) => client.call("say", params));
