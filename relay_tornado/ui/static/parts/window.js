// What there is of the window: its width, and the height below an element.
import { useEffect, useLayoutEffect, useState } from "../lib.js";

const WIDE = matchMedia("(min-width: 1100px)");

/** Whether there is room for an event beside the list. */
export function useWide() {
  const [wide, setWide] = useState(WIDE.matches);
  useEffect(() => {
    const change = () => setWide(WIDE.matches);
    WIDE.addEventListener("change", change);
    return () => WIDE.removeEventListener("change", change);
  }, []);
  return wide;
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
