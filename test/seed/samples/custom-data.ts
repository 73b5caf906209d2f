import { harpia } from "harpia";

const app = harpia();
const generateId = (): string => crypto.randomUUID();

// sample
type GameData = {
  playerId: string;
  gameId: string;
  score: number;
};
app.ws<GameData>("/game", {
  open(ws) {
    ws.data.playerId = generateId(); // Type-safe data assignment
  }
});
// end

export { app };
