// A WebSocket client made of a TCP socket and nothing else: it sends the bytes that it is told to send, so that
// tests can be as wrong, as fast or as silent as a client can be.

import { connect, type Socket } from "node:net";

/** A response to a handshake, as it came over the wire. */
export interface RawResponse {
  status: number;
  headers: Headers;
  body: string;
}

/** One frame from the server. */
export interface RawFrame {
  opcode: number;
  fin: boolean;
  /** Whether the first reserved bit is set: compressed (RFC 7692 section 6). */
  compressed: boolean;
  payload: Buffer;
}

export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;

export class RawClient implements AsyncDisposable {
  readonly socket: Socket;
  /** Resolves when the TCP connection is over, however it ended. */
  readonly ended: Promise<void>;
  #received = Buffer.alloc(0);
  #over = false;
  #wake = Promise.withResolvers<void>();

  constructor(socket: Socket) {
    this.socket = socket;
    this.ended = new Promise((resolve) => socket.once("close", () => resolve()));
    socket.on("error", () => {}); // a reset is a way to end
    socket.on("data", (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#stir();
    });
    for (const event of ["end", "close"]) {
      socket.on(event, () => {
        this.#over = true;
        this.#stir();
      });
    }
  }

  /** Whether the server has ended its side. */
  get over(): boolean {
    return this.#over;
  }

  write(bytes: string | Buffer): void {
    this.socket.write(bytes);
  }

  send(text: string): void {
    this.write(frame(TEXT, text));
  }

  /** Reads one HTTP response; a 101 has no body. */
  async response(): Promise<RawResponse> {
    const end = await this.#until((bytes) => {
      const at = bytes.indexOf("\r\n\r\n");
      return at === -1 ? undefined : at + 4;
    });
    const head = this.#take(end).toString("latin1").trimEnd().split("\r\n");
    const status = Number(head[0]!.split(" ")[1]);
    const headers = new Headers();
    for (const line of head.slice(1)) {
      const colon = line.indexOf(":");
      headers.append(line.slice(0, colon), line.slice(colon + 1).trim());
    }
    const length = Number(headers.get("content-length") ?? 0);
    if (status === 101) return { status, headers, body: "" };
    await this.#until((bytes) => (bytes.length >= length ? length : undefined));
    return { status, headers, body: this.#take(length).toString() };
  }

  /** Reads the next frame, control frames included. */
  async frame(): Promise<RawFrame> {
    let header = 0;
    let size = 0;
    await this.#until((bytes) => {
      if (bytes.length < 2) return undefined;
      const short = bytes[1]! & 127;
      header = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (bytes.length < header) return undefined;
      size = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
      return bytes.length >= header + size ? size : undefined;
    });
    const bytes = this.#take(header + size);
    const first = bytes[0]!;
    return {
      opcode: first & 15,
      fin: (first & 128) !== 0,
      compressed: (first & 64) !== 0,
      payload: bytes.subarray(header),
    };
  }

  /** Reads frames until a text one, and gives its text. */
  async text(): Promise<string> {
    for (;;) {
      const { opcode, payload } = await this.frame();
      if (opcode === TEXT) return payload.toString();
    }
  }

  /** Reads frames until a close frame, and gives its code and reason. */
  async closeFrame(): Promise<{ code: number; reason: string }> {
    for (;;) {
      const { opcode, payload } = await this.frame();
      if (opcode !== CLOSE) continue;
      return {
        code: payload.length < 2 ? 1005 : payload.readUInt16BE(0),
        reason: payload.subarray(2).toString(),
      };
    }
  }

  /** Ends with a TCP reset, as a crashed machine's kernel or a firewall would. */
  reset(): void {
    this.socket.resetAndDestroy();
  }

  /** Ends with a FIN and no close frame. */
  fin(): void {
    this.socket.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy();
    await this.ended;
  }

  #take(size: number): Buffer {
    const bytes = this.#received.subarray(0, size);
    this.#received = this.#received.subarray(size);
    return bytes;
  }

  async #until(ready: (bytes: Buffer) => number | undefined): Promise<number> {
    for (;;) {
      const found = ready(this.#received);
      if (found !== undefined) return found;
      if (this.#over) throw new Error(`the connection ended after ${this.#received.length} unread bytes`);
      await this.#wake.promise;
    }
  }

  #stir(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}

/** Opens a TCP connection. */
export async function dial(port: number): Promise<RawClient> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
  await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  return new RawClient(socket);
}

/** A handshake request. A header set to `undefined` is left out; `method` and `version` are the request line's. */
export function request(
  path: string,
  headers: Record<string, string | undefined> = {},
  { method = "GET", version = "HTTP/1.1" } = {},
): string {
  const all: Record<string, string | undefined> = {
    Host: "localhost",
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    ...headers,
  };
  const lines = Object.entries(all).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}: ${value}`],
  );
  return `${method} ${path} ${version}\r\n${lines.join("\r\n")}\r\n\r\n`;
}

/** Opens a WebSocket connection: TCP, handshake, 101. */
export async function open(
  port: number,
  path = "/",
  headers: Record<string, string | undefined> = {},
): Promise<RawClient> {
  const client = await dial(port);
  client.write(request(path, headers));
  const { status, body } = await client.response();
  if (status === 101) return client;
  await client[Symbol.asyncDispose]();
  throw new Error(`the handshake on ${path} was refused with ${status}: ${body}`);
}

/** A client's frame, masked as RFC 6455 section 5.3 wants it; `masked: false` and `rsv` break the rules. */
export function frame(
  opcode: number,
  payload: string | Buffer = "",
  { fin = true, masked = true, rsv = 0 } = {},
): Buffer {
  const body = Buffer.from(payload);
  const first = (fin ? 128 : 0) | (rsv << 4) | opcode;
  const bit = masked ? 128 : 0;
  let head: Buffer;
  if (body.length < 126) head = Buffer.from([first, bit | body.length]);
  else if (body.length < 65_536) head = Buffer.from([first, bit | 126, body.length >> 8, body.length & 255]);
  else {
    head = Buffer.alloc(10);
    head[0] = first;
    head[1] = bit | 127;
    head.writeBigUInt64BE(BigInt(body.length), 2);
  }
  if (!masked) return Buffer.concat([head, body]);
  const mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);
  const hidden = Buffer.from(body.map((byte, index) => byte ^ mask[index & 3]!));
  return Buffer.concat([head, mask, hidden]);
}

/** A close frame. */
export function closeFrame(code?: number, reason = ""): Buffer {
  if (code === undefined) return frame(CLOSE);
  return frame(CLOSE, Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]));
}
