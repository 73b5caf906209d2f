// What the compiler promises: inference from `upgrade` and paths, and that wrong use is an error where it is
// written. `bun check` does the checking; a @ts-expect-error that is none fails there.

import { expectTypeOf, test } from "bun:test";
import {
  type AnyData,
  harpia,
  type HarpiaError,
  type ListenOptions,
  type PathParams,
  ProtocolError,
  type ServerWebSocket,
  type WebSocketHandlers,
} from "harpia";
import defaultExport from "harpia";

const app = harpia({ logger: false });

test("the default export is harpia too", () => {
  expectTypeOf(defaultExport).toEqualTypeOf<typeof harpia>();
});

test("params follow from the path", () => {
  expectTypeOf<PathParams<"/room/:roomId">>().toEqualTypeOf<{ roomId: string }>();
  expectTypeOf<PathParams<"/a/:b/c/:d/*">>().toEqualTypeOf<{ b: string; d: string }>();
  expectTypeOf<PathParams<"/chat">>().toEqualTypeOf<Record<never, string>>();
  expectTypeOf<PathParams<string>>().toEqualTypeOf<Record<string, string>>();

  app.ws("/params/:roomId/:userId", {
    upgrade(_request, { params }) {
      expectTypeOf(params).toEqualTypeOf<{ roomId: string; userId: string }>();
      // @ts-expect-error no such param in the path
      void params.room;
    },
    open(ws) {
      expectTypeOf(ws.params.roomId).toEqualTypeOf<string>();
      // @ts-expect-error no such param in the path
      void ws.params.roomid;
    },
  });
});

test("data follows from what upgrade returns, and keeps url and token", () => {
  app.ws("/inferred", {
    async upgrade(_request, { token, ip, url, headers }) {
      expectTypeOf(token).toEqualTypeOf<string | undefined>();
      expectTypeOf(ip).toEqualTypeOf<string>();
      expectTypeOf(url).toEqualTypeOf<string>();
      expectTypeOf(headers).toEqualTypeOf<Headers>();
      if (token === undefined) return new Response("Who are you?", { status: 401 });
      if (token === "") return false;
      return { user: { name: token, age: 7 } };
    },
    open(ws) {
      expectTypeOf(ws.data.user.age).toEqualTypeOf<number>();
      expectTypeOf(ws.data.url).toEqualTypeOf<string>();
      expectTypeOf(ws.data.token).toEqualTypeOf<string | undefined>();
      // @ts-expect-error no such field
      void ws.data.usr;
      // @ts-expect-error age is a number
      ws.data.user.age = "seven";
    },
    message(ws, message) {
      expectTypeOf(ws.data.user.name).toEqualTypeOf<string>();
      expectTypeOf(message).toEqualTypeOf<string | Buffer<ArrayBuffer>>();
    },
    close(ws, code, reason) {
      expectTypeOf(ws.data.user.name).toEqualTypeOf<string>();
      expectTypeOf(code).toEqualTypeOf<number>();
      expectTypeOf(reason).toEqualTypeOf<string>();
    },
    error(ws, error) {
      expectTypeOf(ws.data.user.name).toEqualTypeOf<string>();
      expectTypeOf(error).toEqualTypeOf<Error>();
    },
    drain(ws) {
      expectTypeOf(ws.data.user.name).toEqualTypeOf<string>();
    },
  });
});

test("an upgrade that returns nothing leaves any field assignable", () => {
  app.ws("/nothing", {
    upgrade() {},
    open(ws) {
      expectTypeOf(ws.data).toEqualTypeOf<AnyData>();
      ws.data.anything = 1;
    },
  });
  app.ws("/refuses", {
    upgrade: (_request, { token }) => (token === undefined ? new Response("no") : undefined),
    open(ws) {
      expectTypeOf(ws.data).toEqualTypeOf<AnyData>();
    },
  });
});

test("with a type argument, data is of that type, and assignable", () => {
  app.ws<{ userId: string; score: number }>("/typed", {
    open(ws) {
      ws.data.userId = "7";
      expectTypeOf(ws.data.score).toEqualTypeOf<number>();
      expectTypeOf(ws.data.url).toEqualTypeOf<string>();
      expectTypeOf(ws.data.token).toEqualTypeOf<string | undefined>();
      // @ts-expect-error no such field
      ws.data.userid = "7";
      // @ts-expect-error score is a number
      ws.data.score = "7";
    },
  });
});

test("without either, any field may be assigned, and url and token are known", () => {
  app.ws("/any", {
    open(ws) {
      ws.data.whatever = { a: 1 };
      expectTypeOf(ws.data.url).toEqualTypeOf<string>();
      expectTypeOf(ws.data.token).toEqualTypeOf<string | undefined>();
      expectTypeOf(ws.data.whatever).toEqualTypeOf<unknown>();
    },
  });
});

test("wrong handlers and options are errors", () => {
  const loosely = (act: () => void) => expectTypeOf(act).toBeFunction();
  loosely(() => {
    // @ts-expect-error the handler is called message
    app.ws("/1", { mesage() {} });
    // @ts-expect-error message gets a string or a Buffer
    app.ws("/2", { message(_ws, _message: number) {} });
    // @ts-expect-error close gets a number
    app.ws("/3", { close(_ws, _code: string) {} });
    // @ts-expect-error an upgrade returns an object, a Response, false or nothing
    app.ws("/4", { upgrade: () => 5 });
    // @ts-expect-error rateLimit needs `per`
    app.ws("/5", { rateLimit: { messages: 5 } });
    // @ts-expect-error the option is called protocols
    app.ws("/6", { subprotocols: ["chat"] });
    // @ts-expect-error the option is called port
    app.listen({ prot: 3000 });
    // @ts-expect-error harpia has the websocket object
    app.listen({ port: 3000, websocket: { message() {} } });
    // @ts-expect-error the limit is called maxPayloadLength
    app.listen({ port: 3000, ws: { maxPayload: 5 } });
    // @ts-expect-error the option is called origins
    harpia({ origin: "*" });
    // @ts-expect-error timeout is in milliseconds
    void app.stop({ timeout: "10s" });
    // @ts-expect-error connections is read-only
    app.websocket.connections.add(1);
    // @ts-expect-error counters are read-only
    app.websocket.counters.opened = 1;
    // @ts-expect-error an object is no message
    app.publish("topic", { a: 1 });
  });
});

test("a socket of any route can be handed to a function for all", () => {
  const count = (ws: ServerWebSocket): number => ws.bufferedAmount;
  app.ws("/handed/:id", { open: (ws) => void count(ws) });
  for (const ws of app.websocket.connections) expectTypeOf(ws).toEqualTypeOf<ServerWebSocket>();
});

test("handlers can be written apart from their route", () => {
  const handlers: WebSocketHandlers<{ userId: string }, { room: string }> = {
    open: (ws) => void ws.send(ws.params.room + ws.data.userId),
  };
  expectTypeOf(handlers.open).not.toBeAny();
});

test("the parts of listen keep Bun's types", () => {
  const options: ListenOptions = { port: 0, fetch: () => new Response() };
  expectTypeOf(options.fetch).not.toBeAny();
  void (() =>
    app.listen({
      port: 0,
      routes: { "/user/:id": (request) => new Response(request.params.id) },
    }));
});

test("errors narrow by class and code", () => {
  const handle = (error: Error | HarpiaError): void => {
    if (error instanceof ProtocolError) expectTypeOf(error.code).toEqualTypeOf<1002 | 1007 | 1009>();
  };
  expectTypeOf(handle).toBeFunction();
});
