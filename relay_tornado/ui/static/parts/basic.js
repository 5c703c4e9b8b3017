// Small parts that every page uses. Text from outside is always a child or an attribute, never markup.
import { computed, html, signal, useEffect, useLayoutEffect, useRef, useState } from "../lib.js";
import { ahead, away, changed } from "../api.js";
import { exactly, moment } from "./zone.js";

// numbers and times

const NUMBER = new Intl.NumberFormat("en");

export const number = (value) => (value == null ? "–" : NUMBER.format(value));

/** 1 event, 2 events. */
export const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** The sum of numbers; null counts as 0. */
export const total = (values) => values.reduce((sum, value) => sum + (value ?? 0), 0);

/** 1.2 MiB for 1258291. */
export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** 350 ms, 12 s, 5 min, 3 h, 2 d for seconds. */
export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  for (const [name, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= size) return `${Math.round(seconds / size)} ${name}`;
  return `${Math.round(seconds)} s`;
}

const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 5000);

/** The day that it is, as Date.toDateString has it. */
export const today = computed(() => new Date(now.value).toDateString());

/** A moment in unix seconds, as how long ago it is, or (exact) as date and time. */
export function Time({ at, exact = false }) {
  if (!at) return html`<span class="soft">never</span>`;
  const date = new Date(at * 1000);
  const past = (now.value + ahead.value) / 1000 - at;
  const text = exact ? moment(date) : past < 5 && past > -5 ? "now" : past >= 0 ? `${duration(past)} ago` : `in ${duration(-past)}`;
  return html`<time dateTime=${date.toISOString()} title=${exactly(date)}>${text}</time>`;
}

// what is said to the person

export const toasts = signal([]);
let told = 0;

/** The dialogs that are open, the topmost last. */
export const dialogs = signal([]);

/** Says something for a few seconds; kind "bad" stays longer. */
export function tell(text, kind = "") {
  const id = (told += 1);
  toasts.value = [...toasts.value.slice(-3), { id, text, kind }];
  setTimeout(() => {
    toasts.value = toasts.value.filter((toast) => toast.id !== id);
  }, kind === "bad" ? 10000 : 4000);
}

/** What is told stands in the topmost dialog, the page itself where none is open: outside a dialog screen readers read nothing. `within` is the
 *  dialog that this is a part of. */
export function Toasts({ within }) {
  const box = useRef(null);
  const here = dialogs.value.at(-1) === within;
  // Shown anew once the dialog is open, so that it stands above it.
  useLayoutEffect(() => {
    box.current.hidePopover?.();
    box.current.showPopover?.();
  }, [here]);
  return html`<div class="toasts" ref=${box} popover="manual" role="status" aria-live="polite">
    ${here && toasts.value.map((toast) => html`<p class=${`toast ${toast.kind}`} key=${toast.id}>${toast.text}</p>`)}
  </div>`;
}

export function Problem({ error, retry }) {
  if (!error) return null;
  return html`<div class="note bad row" role="alert"><span class="grow">${error.message}</span>
    ${retry && html`<button type="button" class="button tiny" onClick=${retry}>Try again</button>`}</div>`;
}

/** What stands where something is not there yet, on every page and in every dialog. */
export const Loading = () => html`<p class="starting">Loading…</p>`;

/** What stands where there is nothing to show; `as` is "h1" where that is the whole page. */
export function Empty({ title, as = "h2", children }) {
  return html`<div class="empty card"><${as}>${title}<//>${children}</div>`;
}

export const Badge = ({ kind = "", children }) => html`<span class=${`badge ${kind}`}>${children}</span>`;

// what can be pressed

/** A button whose press may take a while: it can't be pressed twice, but keeps the focus; what goes wrong is told. */
export function Button({ onPress, children, kind = "", type = "button", disabled = false, ...rest }) {
  const [busy, setBusy] = useState(false);
  const press = async (event) => {
    if (busy) event.preventDefault();
    if (!onPress || busy) return;
    setBusy(true);
    try {
      await onPress(event);
    } catch (error) {
      tell(error.message, "bad");
    } finally {
      setBusy(false);
    }
  };
  return html`<button type=${type} class=${`button ${kind}`} disabled=${disabled} aria-disabled=${busy ? "true" : undefined} aria-busy=${busy} onClick=${press} ...${rest}>${children}</button>`;
}

/** Copies a text where the browser has no clipboard for pages, as on plain HTTP: by a selection beside the button, since outside a dialog nothing can
 *  be selected while it is open. Whether it did. */
function copyBy(button, text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  button.after(area);
  area.select();
  const copied = document.activeElement === area && document.execCommand("copy");
  area.remove();
  button.focus();
  return copied;
}

/** Copies a text, or what a function makes then; `label` says what it is, for those who can't see. */
export function Copy({ text, label, children }) {
  const copy = async ({ currentTarget: button }) => {
    const copied = typeof text === "function" ? text() : text;
    try {
      await navigator.clipboard.writeText(copied);
    } catch {
      if (!copyBy(button, copied)) {
        tell(`This browser copied nothing: select the ${label} and copy it by hand.`, "bad");
        return;
      }
    }
    tell(`${label} copied`);
  };
  return html`<button type="button" class="button tiny" aria-label=${`Copy ${label}`} onClick=${copy}>${children ?? "Copy"}</button>`;
}

let fields = 0;

/** An id of its own for a field. */
export const useId = () => useRef(`field-${(fields += 1)}`).current;

/** The attributes that tie a field to its `Notes`. */
export const about = (id, hint, wrong) => ({
  "aria-describedby": [hint && `${id}-hint`, wrong && `${id}-wrong`].filter(Boolean).join(" ") || undefined,
  "aria-invalid": wrong ? "true" : undefined,
});

/** What stands below a field: a hint, and what is wrong with it. */
export function Notes({ id, hint, wrong }) {
  return html`${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}
    ${wrong && html`<span class="wrong" id=${`${id}-wrong`}>${wrong}</span>`}`;
}

/** A labelled input. `wrong` is what is wrong with it; other attributes go to the input (or `as`: select, textarea). */
export function Field({ label, hint, wrong, as = "input", children, ...rest }) {
  const id = useId();
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <${as} id=${id} ...${about(id, hint, wrong)} ...${rest}>${children}<//>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} />
  </div>`;
}

/** Gives the focus to the first field of a dialog or a form: who opens one goes on by typing. */
export const focusField = (within) => within.querySelector(".field > :is(input, select, textarea):enabled")?.focus();

/** A modal dialog, open while it is mounted; Escape and the backdrop ask for `onClose`, which may leave it open. */
export function Dialog({ title, onClose, wide = false, children }) {
  const dialog = useRef(null);
  // Before anything else takes the focus; and while it is open, nothing outside can have it.
  useLayoutEffect(() => {
    const [before, element] = [document.activeElement, dialog.current];
    element.showModal();
    focusField(element);
    dialogs.value = [...dialogs.peek(), dialog];
    return () => {
      dialogs.value = dialogs.peek().filter((each) => each !== dialog);
      element.close();
      before?.focus?.();
    };
  }, []);
  const outside = (event) => {
    const { left, right, top, bottom } = dialog.current.getBoundingClientRect();
    const { target, clientX: x, clientY: y } = event;
    if (target === dialog.current && (x < left || x > right || y < top || y > bottom)) onClose();
  };
  const escape = (event) => {
    event.preventDefault();
    onClose();
  };
  // A browser may close it all the same, at a second Escape: then it opens again where it is still mounted.
  const closed = () => {
    if (!dialog.current) return;
    onClose();
    setTimeout(() => dialog.current?.isConnected && !dialog.current.open && dialog.current.showModal());
  };
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-label=${title} onCancel=${escape} onClose=${closed} onMouseDown=${outside}>
    <div class="stack"><div class="head"><h2>${title}</h2>
      <button type="button" class="button plain" aria-label="Close" onClick=${onClose}>✕</button></div>${children}</div>
    <${Toasts} within=${dialog} />
  </dialog>`;
}

/** Whether this dialog is open still, as a ref: a late answer closes none that was opened since, and what went wrong can't be shown in it any more. */
export function useOpen() {
  const open = useRef(true);
  useLayoutEffect(() => () => {
    open.current = false;
  }, []);
  return open;
}

/** What a dialog's button does: [error, attempt]. Once `action` is done, the dialog closes; why it could not be done is the error, or thrown if the dialog is
 *  closed by then. */
export function useAttempt(action, onClose) {
  const [error, setError] = useState(null);
  const open = useOpen();
  const attempt = async () => {
    try {
      await action();
      if (open.current) onClose();
    } catch (problem) {
      if (!open.current) throw problem;
      setError(problem);
    }
  };
  return [error, attempt];
}

/** Asks before something that can't be taken back; with `typed` that text has to be typed first. */
export function Confirm({ title, children, action, typed, onConfirm, onClose }) {
  const [text, setText] = useState("");
  const [error, submit] = useAttempt(onConfirm, onClose);
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <div class="asked">${children}</div>
    ${typed && html`<${Field} label=${`Type ${typed} to go on`} value=${text} autocomplete="off" onInput=${(event) => setText(event.target.value)} />`}
    <${Problem} error=${error} />
    <div class="row"><span class="grow"></span>
      <${Button} onPress=${onClose}>Cancel<//>
      <${Button} kind="danger" disabled=${Boolean(typed) && text !== typed} onPress=${submit}>${action}<//></div>
  <//>`;
}

const AGAIN = 3000;

/** Has the window's title say what this is; "" names nothing, undefined leaves it as it is. */
export function useTitle(name) {
  useEffect(() => {
    if (name !== undefined) document.title = name ? `${name} · Relay` : "Relay";
    return () => {
      document.title = "Relay";
    };
  }, [name]);
}

/** Loads something, again every `every` seconds while one looks, where another tab changed something or the relay is away: [value, error, again]. */
export function useLoaded(load, { every = 0, on = [] } = {}) {
  const [state, setState] = useState({ value: undefined, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let timer = 0;
    const abort = new AbortController();
    const run = async () => {
      let wait = every * 1000;
      try {
        const value = await load(abort.signal);
        if (!abort.signal.aborted) setState({ value, error: null });
      } catch (error) {
        if (!abort.signal.aborted) setState((before) => ({ ...before, error }));
        if (away(error)) wait = AGAIN;
      }
      if (wait && !abort.signal.aborted) timer = setTimeout(next, wait);
    };
    const next = () => (document.hidden ? (timer = setTimeout(next, 1000)) : run());
    run();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [turn, changed.value, ...on]);
  return [state.value, state.error, () => setTurn((before) => before + 1)];
}
