// A long list of which only the rows in sight are in the document: a listbox for mouse, touch and keyboard. Rows have one height.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";

const SPARE = 8;
/** Pixels by which a pointer that was pressed may have moved for it to be a click. */
const SLIP = 8;
/** Browsers draw no element that is much higher. */
const MAX_HEIGHT = 16_000_000;

/** How high a row is: the value of --row-height where the list stands. */
function useRowHeight(box) {
  const [height, setHeight] = useState(36);
  useLayoutEffect(() => {
    const measure = () => setHeight(parseFloat(getComputedStyle(box.current).getPropertyValue("--row-height")) || 36);
    measure();
    window.addEventListener("resize", measure);
    return () => window.removeEventListener("resize", measure);
  }, []);
  return height;
}

/** What stands in a row. It is drawn again where the row has changed, and not whenever the list has. (Elements that are kept to be shown again would
 *  hold on to every list that they were in.) */
function Drawn({ item, isChosen, drawnFor, draw }) {
  this.shouldComponentUpdate = (next) => next.item !== item || next.isChosen !== isChosen || next.drawnFor !== drawnFor;
  return draw(item, isChosen);
}

/**
 * The list. `length` rows, `row(index)` an object with an `id`, which is another one once it has changed; `version` changes whenever rows do.
 * `draw(row, chosen)` is what stands in one, and is asked again when `drawnFor` changes. `active` is the id of the row that the keyboard is at,
 * `chosen` a Set of ids. Callbacks: onActive(id), onChosen(Set), onOpen(id, event), onAway(boolean: not at the top), onEnd() near the last row,
 * onSight(from, to) after the rows in sight have changed. `at` is where it begins, {top: pixels}, and is kept up to date.
 */
export function List({ label, length, row, version, draw, drawnFor, active, chosen, onActive, onChosen, onOpen, onAway, onEnd, onSight, at: place, children }) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const rowHeight = useRowHeight(box);
  const anchor = useRef(null);
  const begin = useRef(place.top);
  const from = useRef(null);
  const prefix = useMemo(() => `list-${Math.random().toString(36).slice(2, 8)}`, []);
  const most = Math.min(length, Math.floor(MAX_HEIGHT / rowHeight));

  // While other than the newest rows are looked at, these stay where they are, whatever comes in above them.
  useLayoutEffect(() => {
    const held = anchor.current;
    if (held && box.current.scrollTop > 1) {
      const at = find(row, most, held.id, held.index);
      if (at >= 0 && at !== held.index) box.current.scrollTop += (at - held.index) * rowHeight;
    }
    remember();
  }, [version, rowHeight]);

  const remember = () => {
    if (!box.current) return;
    const { scrollTop, clientHeight } = box.current;
    place.top = scrollTop;
    const index = Math.floor(scrollTop / rowHeight);
    anchor.current = index < most ? { id: row(index)?.id, index } : null;
    setView((before) => (before.top === scrollTop && before.height === clientHeight ? before : { top: scrollTop, height: clientHeight }));
    onAway?.(scrollTop > rowHeight);
    if (scrollTop + clientHeight > (most - 20) * rowHeight) onEnd?.();
  };

  const latest = useRef(remember);
  latest.current = remember;
  useEffect(() => {
    if (begin.current) box.current.scrollTop = begin.current;
    const watch = new ResizeObserver(() => latest.current());
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(view.top / rowHeight) - SPARE);
  const last = Math.min(most, Math.ceil((view.top + view.height) / rowHeight) + SPARE);
  useEffect(() => {
    onSight?.(first, last);
  }, [first, last]);

  const hint = useRef(0);
  const at = useMemo(() => (active == null ? -1 : find(row, most, active, hint.current)), [active, version, most]);
  hint.current = Math.max(0, at);
  const reveal = (index) => {
    const { scrollTop, clientHeight } = box.current;
    if (index * rowHeight < scrollTop) box.current.scrollTop = index * rowHeight;
    else if ((index + 1) * rowHeight > scrollTop + clientHeight) box.current.scrollTop = (index + 1) * rowHeight - clientHeight;
  };
  const shownFor = useRef(active);
  useEffect(() => {
    // Another one was made active from outside, by the event beside the list.
    if (shownFor.current !== active && at >= 0) reveal(at);
    shownFor.current = active;
  }, [active]);
  const moveTo = (index, { extend = false } = {}) => {
    if (!most) return;
    const to = Math.max(0, Math.min(most - 1, index));
    reveal(to);
    if (extend) stretch(to);
    else from.current = null;
    onActive(row(to).id);
  };
  /** Chooses everything between where it began and a row. */
  const stretch = (to) => {
    from.current ??= active ?? row(to).id;
    const begin = Math.max(0, find(row, most, from.current, hint.current));
    const next = new Set(chosen);
    for (let index = Math.min(begin, to); index <= Math.max(begin, to); index += 1) if (!row(index).gap) next.add(row(index).id);
    onChosen(next);
  };
  const everything = () => {
    const ids = new Set();
    for (let index = 0; index < most; index += 1) if (!row(index).gap) ids.add(row(index).id);
    return ids;
  };
  const toggle = (id) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    onChosen(next);
  };

  const key = (event) => {
    if (event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "a")) return;
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 1);
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, J: 1, K: -1, PageDown: page, PageUp: -page };
    if (event.ctrlKey || event.metaKey) onChosen(everything());
    else if (Object.hasOwn(moves, event.key)) moveTo(at < 0 ? Math.floor(view.top / rowHeight) : at + moves[event.key], { extend: event.shiftKey });
    else if (event.key === "Home") moveTo(0, { extend: event.shiftKey });
    else if (event.key === "End") moveTo(most - 1, { extend: event.shiftKey });
    else if (event.key === " " && at >= 0 && !row(at).gap) toggle(active);
    else if (event.key === "Enter" && at >= 0 && !row(at).gap) onOpen(active, event);
    else if (event.key === "Escape" && chosen.size) onChosen(new Set());
    else return;
    event.preventDefault();
  };

  /** Which row an event is at, and whether it is at its box. */
  const aim = ({ target, clientX, clientY }) => {
    const option = target.closest("[role=option]");
    return { id: option?.id.slice(prefix.length + 1), box: Boolean(target.closest(".tick")), clientX, clientY };
  };
  const pressed = useRef(null);
  const press = (event) => {
    pressed.current = event.type === "pointerdown" ? aim(event) : null;
  };

  const click = (event) => {
    // New rows may have moved the one that was pressed away from the pointer, or another one below it.
    const { id, box: onBox, clientX, clientY } = (event.detail && pressed.current) || aim(event);
    if (Math.hypot(event.clientX - clientX, event.clientY - clientY) > SLIP) return;
    const index = id === undefined ? -1 : find(row, most, id, hint.current);
    const item = row(index);
    if (!item || item.gap) return;
    if (onBox) {
      if (event.shiftKey) stretch(index);
      else toggle(item.id);
      from.current = item.id;
      return;
    }
    if (event.shiftKey) {
      stretch(index);
      return;
    }
    onActive(item.id);
    onOpen(item.id, event);
  };

  const shown = [];
  for (let index = first; index < last; index += 1) {
    const item = row(index);
    if (!item) break;
    shown.push(html`<div role="option" key=${item.id} id=${`${prefix}-${item.id}`} class=${`list-row${item.id === active ? " active" : ""}`}
      aria-selected=${chosen.has(item.id) ? "true" : "false"} aria-disabled=${item.gap ? "true" : undefined} aria-posinset=${index + 1}
        aria-setsize=${length}
      style=${{ transform: `translateY(${index * rowHeight}px)` }}><${Drawn} ...${{ item, draw, drawnFor }} isChosen=${chosen.has(item.id)} /></div>`);
  }
  return html`<div class="list" ref=${box} onScroll=${remember}>
    <div class="list-box" role="listbox" aria-label=${label} aria-multiselectable="true" tabindex="0" onKeyDown=${key} onPointerDown=${press} onPointerCancel=${press} onClick=${click}
      onAuxClick=${click}
      aria-activedescendant=${at >= first && at < last ? `${prefix}-${active}` : undefined}
      onFocus=${() => active == null && most && onActive(row(Math.min(most - 1, Math.ceil(view.top / rowHeight))).id, { quiet: true })}
      style=${{ height: `${most * rowHeight}px` }}>${shown}</div>${children}
  </div>`;
}

/** The index of a row by its id, looked for near where it was first. */
function find(row, length, id, near) {
  for (let index = Math.max(0, near); index < Math.min(length, near + 500); index += 1) if (row(index).id === id) return index;
  for (let index = 0; index < length; index += 1) if (row(index).id === id) return index;
  return -1;
}
