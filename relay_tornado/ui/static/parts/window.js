// What there is of the window: its width, the height below an element, and the keys that are pressed in it.
import { signal, useEffect, useLayoutEffect } from "../lib.js";

/** Whether a media query holds, as a signal. */
function holds(query) {
  const media = matchMedia(query);
  const now = signal(media.matches);
  media.addEventListener("change", () => {
    now.value = media.matches;
  });
  return now;
}

/** Whether there is room for an event beside the list. */
export const wideWindow = holds("(min-width: 1100px)");
/** Whether the rail stands above the page. */
export const narrowWindow = holds("(max-width: 799px)");

/** Calls `press` with each key that is pressed alone, in none of what the selector names. */
export function useKeys(press, within, on) {
  useEffect(() => {
    const key = (event) => event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(within) || press(event);
    document.addEventListener("keydown", key);
    return () => document.removeEventListener("keydown", key);
  }, on);
}

/** The height that is left of the window below an element's top. */
export function useRest(element, on) {
  useLayoutEffect(() => {
    const fit = () => {
      if (!element.current) return;
      const bar = window.innerWidth < 800 ? 72 : 64;
      const top = element.current.getBoundingClientRect().top + window.scrollY;
      element.current.style.height = `${Math.max(320, window.innerHeight - top - bar)}px`;
    };
    fit();
    const watch = new ResizeObserver(fit);
    watch.observe(document.body);
    window.addEventListener("resize", fit);
    return () => {
      watch.disconnect();
      window.removeEventListener("resize", fit);
    };
  }, on);
}
