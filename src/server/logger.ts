// Where harpia's own log lines go. Nothing here knows of connections; no token ever reaches a line.

type Write = (message: string, fields?: Record<string, unknown>) => void;

/**
 * Takes harpia's log lines. `fields` are the line's facts (`route`, `connection`, `error`, …), so that a
 * structured logger such as pino or LogTape can keep them apart. `debug` and `info` may be left out.
 */
export interface Logger {
  debug?: Write;
  info?: Write;
  warn: Write;
  error: Write;
}

/** The default: warnings and errors to the console, one line each (an error's stack follows its line). */
export const consoleLogger: Logger = {
  warn: (message, fields) => console.warn(line(message, fields), ...errorOf(fields)),
  error: (message, fields) => console.error(line(message, fields), ...errorOf(fields)),
};

/** For `logger: false`. */
export const silentLogger: Logger = { warn() {}, error() {} };

function line(message: string, fields: Record<string, unknown> = {}): string {
  const facts = Object.entries(fields)
    .filter(([key, value]) => key !== "error" && value !== undefined)
    .map(([key, value]) => ` ${key}=${typeof value === "string" ? JSON.stringify(value) : String(value)}`);
  return `harpia: ${message}${facts.join("")}`;
}

function errorOf(fields: Record<string, unknown> = {}): unknown[] {
  return "error" in fields ? [fields.error] : [];
}
