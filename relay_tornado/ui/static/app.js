// The page's frame: who is signed in, the rail, and the part that the address names.
import { html, render, useEffect, useRef, useState } from "./lib.js";
import { session, signOut, signedOut, who } from "./api.js";
import { part } from "./code.js";
import { Loading, Toasts, dialogs, tell } from "./parts/basic.js";
import { Loaded } from "./parts/lazy.js";
import { ShownOnce } from "./parts/secret.js";
import { narrowWindow } from "./parts/window.js";
import { link, match, place } from "./router.js";
import { SignIn, withCode } from "./pages/signin.js";

const bucketPage = part(import.meta.resolve("./pages/bucket.js"));
const binPage = part(import.meta.resolve("./pages/bin.js"));

/** Each page is loaded when it is gone to: its pattern, its component, and the rail's entry that it belongs to. */
const PAGES = [
  ["/", part(import.meta.resolve("./pages/buckets.js")), "buckets"],
  ["/buckets/:bucket", bucketPage, "buckets"],
  ["/buckets/:bucket/:tab", bucketPage, "buckets"],
  ["/events/:id", part(import.meta.resolve("./pages/event.js")), "buckets"],
  ["/compare/:left/:right", part(import.meta.resolve("./pages/compare.js")), "buckets"],
  ["/overview", part(import.meta.resolve("./pages/overview.js")), "overview"],
  ["/clients", part(import.meta.resolve("./pages/clients.js")), "clients"],
  ["/tokens", part(import.meta.resolve("./pages/tokens.js")), "tokens"],
  ["/bin", binPage, "bin"],
  ["/bin/:bucket", binPage, "bin"],
];

const RAIL = [
  ["buckets", "/", "Buckets"],
  ["overview", "/overview", "Overview"],
  ["clients", "/clients", "Clients"],
  ["tokens", "/tokens", "Tokens"],
  ["bin", "/bin", "Try it"],
];

function found(path) {
  for (const [pattern, load, entry] of PAGES) {
    const parts = match(pattern, path);
    if (parts) return { pattern, load, entry, parts };
  }
  return null;
}

function Page() {
  const { path, query } = place.value;
  const page = found(path);
  useEffect(() => {
    const named = RAIL.find(([, at]) => at === page?.pattern);
    if (named) document.title = `${named[2]} · Relay`;
  }, [page?.pattern]);
  const begun = useRef(false);
  useEffect(() => {
    // Nothing has the focus, as behind the browser's Back: it goes to the part that came.
    if (begun.current && document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
    begun.current = true;
  }, [path]);
  if (!page) return html`<h1>There is nothing here</h1><p><a class="button" href=${link("/")}>Go to the buckets</a></p>`;
  return html`<${Loaded} load=${page.load} ...${page.parts} query=${query} />`;
}

/** What `use` does with what the browser keeps for the page; nothing where it was told to keep nothing: then asking for it throws. */
function kept(use) {
  try {
    return use(localStorage);
  } catch {
    return null;
  }
}

/** Who is signed in, and what can be done about it: below the rail, in a narrow window below the page. */
function Foot() {
  const theme = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    kept((storage) => storage.setItem("theme", root.dataset.theme));
  };
  return html`<div class="foot"><span class="cut" title=${session.value.key}>${session.value.description || session.value.key}</span>
    <span class="row"><button type="button" class="button tiny" onClick=${theme}>Light / dark</button>
    <button type="button" class="button tiny" onClick=${() => signOut().catch((error) => tell(error.message, "bad"))}>Sign out</button></span></div>`;
}

function Rail({ entry }) {
  return html`<header class="rail">
    <a class="brand" href=${link("/")}><img src="/ui/static/icon.svg" alt="" />Relay</a>
    <nav aria-label="Parts"><ul>${RAIL.filter(([name]) => name !== "tokens" || session.value.administrator).map(
      ([name, path, text]) => html`<li key=${name}><a href=${link(path)} aria-current=${name === entry ? "page" : undefined}>${text}</a></li>`,
    )}</ul></nav>
    ${!narrowWindow.value && html`<${Foot} />`}
  </header>`;
}

function App() {
  const [error, setError] = useState(null);
  useEffect(() => {
    const start = async () => {
      try {
        await withCode();
        await who();
        // A link that was refused, to somebody who is signed in all the same. What an earlier link asked for may come behind it.
        if (session.value && signedOut.value) {
          tell(signedOut.value, "bad");
          signedOut.value = "";
        }
      } catch (problem) {
        setError(problem);
        setTimeout(start, 2000);
      }
    };
    start();
    // A link that is opened where the page is open already changes the address, and loads nothing.
    const linked = () => window.location.hash.startsWith("#code=") && start();
    window.addEventListener("hashchange", linked);
    return () => window.removeEventListener("hashchange", linked);
  }, []);
  if (session.value === undefined) {
    return html`<main><h1 class="hidden">Relay</h1>${error ? html`<p class="starting" role="alert">${error.message}</p>` : html`<${Loading} />`}</main>`;
  }
  if (session.value === null) return html`<main><${SignIn} /></main><${ShownOnce} key="secret" /><${Toasts} key="toasts" />`;
  return html`<a class="skip" href="#main">Skip to the content</a>
    <div class="frame"><${Rail} entry=${found(place.value.path)?.entry} /><main id="main" tabindex="-1"><${Page}
        key=${session.value.key} /></main>
      ${narrowWindow.value && html`<footer class="below"><${Foot} /></footer>`}</div><${ShownOnce} key="secret" /><${Toasts} key="toasts" />`;
}

// What has the focus may go, as a row does with what it deleted: the focus stays near, and does not begin anew.
let focused = null;
document.addEventListener("focusin", ({ target }) => {
  focused = target;
});
new MutationObserver(() => {
  if (!focused || focused.isConnected || document.activeElement !== document.body) return;
  focused = null;
  const dialog = dialogs.peek().at(-1)?.current;
  (dialog?.querySelector("button") ?? document.getElementById("main"))?.focus({ preventScroll: true });
}).observe(document.body, { childList: true, subtree: true });

const theme = kept((storage) => storage.getItem("theme"));
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
