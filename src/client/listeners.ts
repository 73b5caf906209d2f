// Listeners by event. What one throws is its owner's: it goes where uncaught errors go, and disturbs nobody else.

export class Listeners<Events> {
  readonly #byEvent = new Map<keyof Events, Set<(what: never) => unknown>>();

  on<Event extends keyof Events>(event: Event, listener: (what: Events[Event]) => unknown): () => void {
    const listeners = this.#byEvent.get(event) ?? new Set();
    this.#byEvent.set(event, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  has(event: keyof Events): boolean {
    return !!this.#byEvent.get(event)?.size;
  }

  /** @param isTrue Asked before each listener: what is not true any more is not told. */
  tell<Event extends keyof Events>(event: Event, what: Events[Event], isTrue = () => true): void {
    for (const listener of Array.from(this.#byEvent.get(event) ?? [])) {
      if (!isTrue()) return;
      try {
        listener(what as never);
      } catch (error) {
        report(error);
      }
    }
  }
}

export function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
