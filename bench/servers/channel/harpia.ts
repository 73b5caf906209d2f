// harpia: a contract's channel with its defaults, params and results validated by the library that VALIDATOR names.

import { harpia } from "harpia";
import { contracts } from "../../contract.js";

// One of the three in each process: they have the same types, so zod's stands for all.
const contract = contracts[(process.env.VALIDATOR ?? "zod") as "zod"];

const app = harpia();
app.channel(contract).implement({
  methods: {
    say: ({ room, text }) => ({ room, text, offset: text.length }),
    async *count({ to }) {
      for (let value = 0; value < to; value++) yield "word ";
    },
  },
});
console.log(app.listen({ port: 0, hostname: "127.0.0.1" }).port);
