// What a component rendered last, for callbacks that outlive the render that made them.

import { useInsertionEffect, useRef } from "react";

/** Holds the value of the last render that reached the page; on a server, the first. */
export function useLatest<T>(value: T): { readonly current: T } {
  const latest = useRef(value);
  // Not while rendering: React may throw that render away. Before every other effect: they may look.
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}
