// Where the page is: a path below /ui/ and its query, kept in the browser's history.
import { signal } from "./lib.js";

const ROOT = "/ui";

function here() {
  const { pathname, search } = window.location;
  return { path: pathname.startsWith(ROOT) ? pathname.slice(ROOT.length) || "/" : "/", query: new URLSearchParams(search) };
}

/** {path: "/buckets/orders", query: URLSearchParams}. */
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
  window.history[replace ? "replaceState" : "pushState"](null, "", address);
  place.value = here();
}

window.addEventListener("popstate", () => {
  place.value = here();
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
