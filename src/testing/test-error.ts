// How waiting in a test fails: in words that say what was awaited and what came instead.

/** `TIMEOUT`: it did not come in time. `CLOSED`: the connection ended first. `REFUSED`: there was no connection. */
export type TestErrorCode = "TIMEOUT" | "CLOSED" | "REFUSED";

export class TestError extends Error {
  readonly code: TestErrorCode;

  constructor(code: TestErrorCode, message: string) {
    super(message);
    this.name = "TestError";
    this.code = code;
  }
}

/** Below the five seconds that `bun test` gives a test, so that the reader sees this error and not only that one. */
export const WAIT_MS = 4_000;

/** Settles as `promise` does; rejects with `late()` after `timeout` milliseconds. */
export async function within<T>(promise: Promise<T>, timeout: number, late: () => TestError): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), timeout);
  });
  try {
    return await Promise.race([promise, deadline]);
  } finally {
    clearTimeout(timer);
  }
}
