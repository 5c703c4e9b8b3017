// Where the page is: a path below /ui/ and its query, kept in the browser's history.
import { signal } from "./lib.js";

const ROOT = "/ui";

/** A name for an entry of the browser's history that no other one has. */
const named = () => ({ entry: Math.random().toString(36).slice(2) });

function here() {
  if (!window.history.state?.entry) window.history.replaceState(named(), "");
  const { pathname, search } = window.location;
  const path = pathname.startsWith(ROOT) ? pathname.slice(ROOT.length) || "/" : "/";
  return { path, query: new URLSearchParams(search), entry: window.history.state.entry };
}

/** {path: "/buckets/orders", query: URLSearchParams, entry: what tells this entry of the browser's history from all others}. */
export const place = signal(here());

/** The address of a place: link("/buckets", name), parts are encoded; an object at the end is the query. */
export function link(first, ...rest) {
  const query = typeof rest.at(-1) === "object" ? rest.pop() : null;
  const path = [ROOT + first, ...rest.map(encodeURIComponent)].join("/");
  const search = query ? new URLSearchParams(Object.entries(query).filter(([, value]) => value != null && value !== "")).toString() : "";
  return search ? `${path}?${search}` : path;
}

/** Goes to an address that `link` made. */
export function go(address, { replace = false } = {}) {
  if (replace) window.history.replaceState(window.history.state, "", address);
  else window.history.pushState(named(), "", address);
  place.value = here();
}

/** Notes where one is, and returns what says whether one is still there: whoever has gone on while something took its time is not called back. */
export function staying() {
  const before = place.peek();
  return () => place.peek() === before;
}

/** How far down the window was, by entry. */
const depths = new Map();
const PATIENCE = 5000;

window.addEventListener("scroll", () => depths.set(place.peek().entry, window.scrollY), { passive: true });

/** Scrolls to where it was, once what is loaded is as long again; whoever scrolls meanwhile has it as they like. */
function down(depth) {
  const watch = new ResizeObserver(() => {
    window.scrollTo(0, depth);
    if (window.scrollY > depth - 1) end();
  });
  const timer = setTimeout(() => end(), PATIENCE);
  const own = ["wheel", "touchstart", "pointerdown", "keydown", "popstate"];
  const end = () => {
    watch.disconnect();
    clearTimeout(timer);
    for (const each of own) window.removeEventListener(each, end);
  };
  for (const each of own) window.addEventListener(each, end);
  watch.observe(document.body);
}

window.addEventListener("popstate", () => {
  place.value = here();
  const depth = depths.get(place.value.entry);
  if (depth) down(depth);
});

// Links within the page change the place and load nothing; a click that asks for a new tab stays the browser's.
document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[href]");
  if (!anchor || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (anchor.target || anchor.hasAttribute("download") || anchor.origin !== window.location.origin) return;
  if (!anchor.pathname.startsWith(`${ROOT}/`) || anchor.pathname.startsWith(`${ROOT}/static/`)) return;
  // A place in what is shown already: the browser goes there.
  if (anchor.hash && anchor.pathname + anchor.search === window.location.pathname + window.location.search) return;
  event.preventDefault();
  go(anchor.pathname + anchor.search);
});

/** The parts of the path that a pattern names, or null: match("/buckets/:name", path). They are decoded. */
export function match(pattern, path) {
  const wanted = pattern.split("/");
  const found = path.replace(/(.)\/$/, "$1").split("/");
  if (wanted.length !== found.length) return null;
  const parts = {};
  for (const [index, part] of wanted.entries()) {
    if (part.startsWith(":")) {
      try {
        parts[part.slice(1)] = decodeURIComponent(found[index]);
      } catch {
        return null;
      }
    } else if (part !== found[index]) return null;
  }
  return parts;
}
