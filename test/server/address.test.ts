// Addresses come back as they were, whether they were worth packing or not.

import { expect, test } from "bun:test";
import { pack, unpack } from "../../src/server/address.js";

for (const address of ["0.0.0.0", "127.0.0.1", "192.0.2.255", "255.255.255.255", "128.0.0.1"]) {
  test(`${address} is a number`, () => {
    expect(pack(address)).toBeNumber();
    expect(unpack(pack(address))).toBe(address);
  });
}

const others = [
  "",
  "::1",
  "2001:db8::1",
  "::ffff:192.0.2.1",
  "1.2.3",
  "1.2.3.4.5",
  "1.2.3.256",
  "01.2.3.4",
  "1..2.3",
  "1.2.3.",
  "a.b.c.d",
  "1.2.3.4 ",
];
for (const address of others) {
  test(`${JSON.stringify(address)} stays a string`, () => {
    expect(pack(address)).toBe(address);
    expect(unpack(address)).toBe(address);
  });
}
