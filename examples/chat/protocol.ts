// What the chat's page and its server say to each other: one JSON object a message.

export interface Member {
  id: string;
  name: string;
}

/** From the server. */
export type ServerMessage =
  | { type: "welcome"; you: Member; members: Member[] }
  | { type: "joined"; member: Member }
  | { type: "left"; member: Member }
  | { type: "said"; from: Member; text: string; at: number }
  | { type: "refused"; reason: string };

/** From the page. */
export interface ClientMessage {
  type: "say";
  text: string;
}

export const NAME_LENGTH = 32;
export const TEXT_LENGTH = 2_000;

/** A room's name in the URL: what needs no escaping in a path and reads well. */
export const ROOM = /^[a-z0-9-]{1,40}$/;
