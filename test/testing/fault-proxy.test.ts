// The proxy, by bare TCP on both sides: each fault really happens, to the byte, and without faults nobody notices it.

import { describe, expect, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { type Direction, type FaultProxy, faultProxy, type Target } from "harpia/testing";
import { until } from "../support/app.js";

const DIRECTIONS: Direction[] = ["up", "down"];

/** One end of a connection, and what it has seen. */
class End {
  readonly socket: Socket;
  received: Buffer = Buffer.alloc(0);
  /** A FIN came. */
  ended = false;
  /** A reset came. */
  reset = false;
  /** Either came. */
  readonly over: Promise<void>;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
    socket.on("end", () => (this.ended = true));
    socket.on("error", (error: NodeJS.ErrnoException) => (this.reset ||= error.code === "ECONNRESET"));
    this.over = new Promise((resolve) => {
      for (const event of ["end", "error", "close"]) socket.once(event, () => resolve());
    });
  }

  get text(): string {
    return this.received.toString();
  }
}

/** A server that does nothing by itself, the proxy in front of it, and pairs of ends. */
class Wire implements AsyncDisposable {
  readonly proxy: FaultProxy;
  readonly target: Target;
  readonly #ends: End[] = [];
  #onAccepted: (end: End) => void = () => {};
  readonly #server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (socket) => {
    const end = new End(socket);
    this.#ends.push(end);
    this.#onAccepted(end);
  });

  constructor() {
    this.#server.listen(0, "127.0.0.1");
    this.target = { port: (this.#server.address() as { port: number }).port };
    this.proxy = faultProxy(this.target);
  }

  /** The client's end. */
  dial(): End {
    const socket = connect({
      port: this.proxy.port,
      host: "127.0.0.1",
      allowHalfOpen: true,
      noDelay: true,
    });
    const end = new End(socket);
    this.#ends.push(end);
    return end;
  }

  /** Both ends of a new connection, `from` the one that sends in this direction. */
  async pair(direction: Direction = "up", { reads = true } = {}): Promise<{ from: End; to: End }> {
    const accepted = new Promise<End>((resolve) => (this.#onAccepted = resolve));
    const client = this.dial();
    const server = await accepted;
    await until(() => !client.socket.connecting);
    const [from, to] = direction === "up" ? [client, server] : [server, client];
    from.socket.resume();
    if (reads) to.socket.resume();
    else to.socket.pause();
    return { from, to };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.proxy.close();
    for (const { socket } of this.#ends) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Bytes that tell where they stand. */
function pattern(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 + (i >> 8)) & 255;
  return bytes;
}

/** Writes until nobody takes any more, and gives how much went. */
async function fill(socket: Socket, bounds = 64 * 1024 * 1024): Promise<number> {
  const chunk = Buffer.alloc(64 * 1024);
  let sent = 0;
  while (sent < bounds) {
    sent += chunk.length;
    if (socket.write(chunk)) continue;
    const drained = new Promise<boolean>((resolve) => socket.once("drain", () => resolve(true)));
    if (!(await Promise.race([drained, Bun.sleep(150).then(() => false)]))) return sent;
  }
  return sent;
}

describe.each(DIRECTIONS)("without faults, %s,", (direction) => {
  test("bytes arrive as they were, and are counted", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    const bytes = pattern(3_000_000);
    from.socket.end(bytes);
    await until(() => to.ended);
    expect(to.received.equals(bytes)).toBe(true);
    expect(wire.proxy.passed[direction]).toBe(bytes.length);
  });

  test("an end is one of this direction only: the other goes on", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    from.socket.end("question");
    await until(() => to.ended);
    expect(to.text).toBe("question");
    expect(from.ended).toBe(false);
    to.socket.end("answer");
    await until(() => from.ended);
    expect(from.text).toBe("answer");
    await wire.proxy.idle();
    expect([from.reset, to.reset]).toEqual([false, false]);
  });

  test("a reset is a reset on the other side", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    from.socket.resetAndDestroy();
    await to.over;
    expect([to.reset, to.ended]).toEqual([true, false]);
    await wire.proxy.idle();
  });

  test("a reader that stops stops the sender; nothing is lost when it goes on", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction, { reads: false });
    const sent = await fill(from.socket);
    // Kernels hold some megabytes; the proxy itself no more than a read and a write.
    expect(sent).toBeLessThan(40 * 1024 * 1024);
    expect(from.socket.writableLength).toBeGreaterThan(0);
    to.socket.resume();
    await until(() => to.received.length === sent);
    expect(from.socket.writableLength).toBe(0);
  });
});

describe.each(DIRECTIONS)("cutAfter, %s,", (direction) => {
  test.each([{ reset: false }, { reset: true }])(
    "lets exactly so many bytes through: %p",
    async ({ reset }) => {
      const bytes = pattern(40);
      for (let size = 0; size <= bytes.length; size++) {
        await using wire = new Wire();
        const { from, to } = await wire.pair(direction);
        from.socket.write("before");
        await until(() => to.text === "before");
        wire.proxy.cutAfter(size, direction, { reset });
        from.socket.write(bytes);
        await Promise.all([to.over, from.over]);
        expect([size, to.received.subarray(6)]).toEqual([size, bytes.subarray(0, size)]);
        expect(wire.proxy.passed[direction]).toBe(6 + size);
        expect(to.reset).toBe(reset);
      }
    },
    20_000,
  );

  test("counts on over many writes, and megabytes", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    const bytes = pattern(3_000_000);
    wire.proxy.cutAfter(2_345_678, direction);
    for (let at = 0; at < bytes.length; at += 1_000) from.socket.write(bytes.subarray(at, at + 1_000));
    await to.over;
    expect(to.received.equals(bytes.subarray(0, 2_345_678))).toBe(true);
  });
});

describe("cutAfter", () => {
  test("counts for each open connection on its own, and only for them", async () => {
    await using wire = new Wire();
    const [one, two] = [await wire.pair(), await wire.pair()];
    wire.proxy.cutAfter(3, "up");
    const late = await wire.pair();
    one.from.socket.write("abcdef");
    await one.to.over;
    late.from.socket.write("whole");
    two.from.socket.write("ab");
    await until(() => two.to.text === "ab" && late.to.text === "whole");
    two.from.socket.write("cdef");
    await two.to.over;
    expect([one.to.text, two.to.text, late.to.text]).toEqual(["abc", "abc", "whole"]);
    expect(wire.proxy.connections).toBe(1);
  });

  test("with no connection open, is for the next one, and for no other", async () => {
    await using wire = new Wire();
    wire.proxy.cutAfter(3, "up");
    const next = await wire.pair();
    next.from.socket.write("abcdef");
    await next.to.over;
    const other = await wire.pair();
    other.from.socket.write("abcdef");
    await until(() => other.to.text === "abcdef");
    expect(next.to.text).toBe("abc");
  });

  test("counts what is passed, not what a freeze holds back", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair();
    wire.proxy.cutAfter(3, "up");
    wire.proxy.freeze();
    from.socket.write("abcdef");
    await Bun.sleep(20);
    expect(wire.proxy.connections).toBe(1);
    wire.proxy.thaw();
    await to.over;
    expect(to.text).toBe("abc");
  });
});

describe("cut", () => {
  test.each([{ reset: false }, { reset: true }])(
    "ends every connection on both sides: %p",
    async (options) => {
      await using wire = new Wire();
      const pairs = [await wire.pair("up"), await wire.pair("up")];
      wire.proxy.cut(options);
      for (const { from, to } of pairs) {
        await from.over;
        await to.over;
        expect([from.reset, to.reset]).toEqual([options.reset, options.reset]);
      }
      await wire.proxy.idle();
      expect(wire.proxy.connections).toBe(0);
      const later = await wire.pair("up");
      later.from.socket.write("whole");
      await until(() => later.to.text === "whole");
    },
  );

  test("takes what a freeze held back with it", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair();
    wire.proxy.freeze();
    from.socket.write("lost");
    await Bun.sleep(20);
    wire.proxy.cut();
    await to.over;
    wire.proxy.thaw();
    await to.over;
    expect(to.text).toBe("");
  });

  test("does not wait for a reader that has stopped", async () => {
    await using wire = new Wire();
    const { from } = await wire.pair("down", { reads: false });
    await fill(from.socket);
    wire.proxy.cut();
    await from.over;
    await wire.proxy.idle();
  });
});

describe.each(DIRECTIONS)("freeze, %s,", (direction) => {
  test("lets nothing through, the other direction lives; thaw lets all through, in order", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    wire.proxy.freeze(direction);
    from.socket.write("held ");
    to.socket.write("free");
    await until(() => from.text === "free");
    from.socket.write("back");
    to.socket.write(".");
    await until(() => from.text === "free.");
    expect(to.text).toBe("");
    wire.proxy.thaw(direction);
    await until(() => to.text === "held back");
  });

  test.each(["FIN", "reset"])("hides an end by %s until it is over", async (how) => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    from.socket.write("said");
    await until(() => to.text === "said");
    wire.proxy.freeze();
    if (how === "FIN") from.socket.end("last words");
    else from.socket.resetAndDestroy();
    // Another connection shows that time has passed.
    wire.proxy.thaw(direction === "up" ? "down" : "up");
    const other = await wire.pair(direction === "up" ? "down" : "up");
    other.from.socket.write("x");
    await until(() => other.to.text === "x");
    expect([to.text, to.ended, to.reset]).toEqual(["said", false, false]);
    wire.proxy.thaw();
    await to.over;
    expect([to.text, to.reset]).toEqual(how === "FIN" ? ["saidlast words", false] : ["said", true]);
  });

  test("makes the sender's buffers fill up, in bounds", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    wire.proxy.freeze();
    const sent = await fill(from.socket);
    expect(sent).toBeLessThan(20 * 1024 * 1024);
    expect(to.received.length).toBe(0);
    wire.proxy.thaw();
    await until(() => to.received.length === sent);
  });
});

test("freeze holds for connections to come", async () => {
  await using wire = new Wire();
  wire.proxy.freeze();
  const { from, to } = await wire.pair();
  from.socket.write("hello");
  await Bun.sleep(20);
  expect([to.text, wire.proxy.passed.up]).toEqual(["", 0]);
  wire.proxy.thaw();
  await until(() => to.text === "hello");
});

describe.each(DIRECTIONS)("slow, %s,", (direction) => {
  test("never lets more through than its rate, while others are as fast as ever", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    const bytes = pattern(2_000);
    const rate = 5_000;
    const start = performance.now();
    wire.proxy.slow(rate, direction);
    from.socket.write(bytes);
    to.socket.write(pattern(1_000_000));
    await until(() => from.received.length === 1_000_000);
    expect(to.received.length).toBeLessThan(bytes.length);
    while (to.received.length < bytes.length) {
      const { length } = to.received;
      // One piece may go at once; it is worth 20 ms.
      expect(length).toBeLessThanOrEqual(((performance.now() - start + 20) / 1000) * rate);
      await Bun.sleep(5);
    }
    expect(to.received.equals(bytes)).toBe(true);
  });

  test("backs up to the sender, and Infinity sets it free", async () => {
    await using wire = new Wire();
    const { from, to } = await wire.pair(direction);
    wire.proxy.slow(1_000);
    const sent = await fill(from.socket);
    expect(sent).toBeLessThan(20 * 1024 * 1024);
    expect(to.received.length).toBeLessThan(sent / 100);
    wire.proxy.slow(Infinity);
    await until(() => to.received.length === sent);
  });

  test("an end comes after the bytes before it", async () => {
    await using wire = new Wire();
    wire.proxy.slow(2_000);
    const { from, to } = await wire.pair(direction);
    from.socket.end(pattern(200));
    await until(() => to.ended);
    expect(to.received.equals(pattern(200))).toBe(true);
  });
});

describe("the target", () => {
  test("that does not listen: the client is reset", async () => {
    await using wire = new Wire();
    wire.proxy.target = { port: 1 };
    const client = wire.dial();
    await client.over;
    expect(client.reset).toBe(true);
    await wire.proxy.idle();
  });

  test("undefined: the client is reset; another one: later connections go there, older ones stay", async () => {
    await using wire = new Wire();
    await using other = new Wire();
    const old = await wire.pair();
    wire.proxy.target = undefined;
    const refused = wire.dial();
    await refused.over;
    expect(refused.reset).toBe(true);
    // Proxies may stand in a row.
    const { from, to } = await other.pair();
    wire.proxy.target = { port: other.proxy.port };
    wire.dial().socket.write("new");
    await until(() => other.proxy.passed.up === 3);
    old.from.socket.write("old");
    await until(() => old.to.text === "old");
    expect([from.reset, to.reset]).toEqual([false, false]);
  });

  test("that comes back at its address is found again", async () => {
    const server = Bun.listen({
      port: 0,
      hostname: "127.0.0.1",
      socket: { data: (s, d) => void s.write(d) },
    });
    await using proxy = faultProxy({ port: server.port });
    server.stop(true);
    const ask = (): Promise<string> =>
      new Promise((resolve) => {
        const socket = connect(proxy.port, "127.0.0.1");
        socket.on("error", () => resolve("reset"));
        socket.on("data", (data) => resolve(data.toString()));
        socket.write("hello");
      });
    expect(await ask()).toBe("reset");
    const again = Bun.listen({
      port: server.port,
      hostname: "127.0.0.1",
      socket: { data: (s, d) => void s.write(d) },
    });
    expect(await ask()).toBe("hello");
    again.stop(true);
  });
});

describe("a proxy", () => {
  test("that is closed resets its connections, frees its port, and says so when it is used", async () => {
    const wire = new Wire();
    const { from, to } = await wire.pair();
    wire.proxy.freeze();
    await Promise.all([wire.proxy.close(), wire.proxy.close()]);
    await Promise.all([from.over, to.over]);
    expect([from.reset, to.reset]).toEqual([true, true]);
    for (const use of [
      () => wire.proxy.cut(),
      () => wire.proxy.cutAfter(1),
      () => wire.proxy.freeze(),
      () => wire.proxy.thaw(),
      () => wire.proxy.slow(1),
    ]) {
      expect(use).toThrow("this proxy is closed");
    }
    const late = wire.dial();
    await late.over;
    await wire[Symbol.asyncDispose]();
  });

  test("refuses what makes no sense, and names it", async () => {
    await using wire = new Wire();
    const { proxy } = wire;
    for (const bytes of [-1, 1.5, NaN, Infinity, "3", undefined]) {
      expect(() => proxy.cutAfter(bytes as number)).toThrow('"bytes" must be a whole number');
    }
    for (const rate of [0, -1, NaN, "1"]) {
      expect(() => proxy.slow(rate as number)).toThrow('"bytesPerSecond" must be a number above 0');
    }
    for (const act of [
      () => proxy.freeze("left" as Direction),
      () => proxy.thaw("left" as Direction),
      () => proxy.slow(1, "left" as Direction),
      () => proxy.cutAfter(1, "left" as Direction),
    ]) {
      expect(act).toThrow('"direction" must be "up" (client to server) or "down" (server to client)');
    }
    for (const port of [0, 65_536, 1.5, "80"]) {
      expect(() => faultProxy({ port: port as number })).toThrow('"port" must be a number');
    }
    expect(() => faultProxy(5 as never)).toThrow('"port" must be a number');
  });

  test("keeps no connection that is over", async () => {
    await using wire = new Wire();
    for (let i = 0; i < 200; i++) {
      const { from, to } = await wire.pair();
      if (i % 2 === 0) from.socket.resetAndDestroy();
      else {
        from.socket.end();
        to.socket.end();
      }
    }
    await wire.proxy.idle();
    expect(wire.proxy.connections).toBe(0);
  });
});
