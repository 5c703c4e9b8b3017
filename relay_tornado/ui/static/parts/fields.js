// Fields beyond text: boxes, amounts with a unit, moments, header lists, secrets. Each shows what is wrong with it below it.
import { html, useEffect, useRef, useState } from "../lib.js";
import { Copy, Notes, about, useId } from "./basic.js";
import { local, zone } from "./zone.js";

/** A group of fields with a heading. */
export function Section({ title, hint, children }) {
  const id = useId();
  return html`<div class="section" role="group" aria-labelledby=${id}><span class="label" id=${id}>${title}</span>
    ${hint && html`<p class="soft small">${hint}</p>`}<div class="stack">${children}</div></div>`;
}

/** The same, closed until somebody wants it, or until there is something in it. */
export function More({ title, open = false, children }) {
  const [first] = useState(open);
  return html`<details class="more" open=${first}><summary>${title}</summary><div class="stack">${children}</div></details>`;
}

export function Check({ label, hint, wrong, ...rest }) {
  const id = useId();
  return html`<div class="field check"><label><input type="checkbox" ...${about(id, hint, wrong)} ...${rest} /><span>${label}</span></label>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} /></div>`;
}

/** One of a few: `options` are [value, text, hint?]. */
export function Choice({ label, options, value, onValue, wrong }) {
  const id = useId();
  return html`<div class="field" role="radiogroup" aria-labelledby=${id} ...${about(id, "", wrong)}><span class="label" id=${id}>${label}</span>
    <div class="options">${options.map(([each, text, more]) => html`<label key=${each}>
      <input type="radio" name=${id} checked=${each === value} onChange=${() => onValue(each)} />
        <span>${text}${more && html`<small class="soft"> ${more}</small>`}</span></label>`)}</div>
    <${Notes} id=${id} wrong=${wrong} /></div>`;
}

export const TIMES = [["seconds", 1], ["minutes", 60], ["hours", 3600], ["days", 86400]];
export const SIZES = [["bytes", 1], ["KiB", 1024], ["MiB", 1024 ** 2], ["GiB", 1024 ** 3], ["TiB", 1024 ** 4]];

/** The largest unit that the value is a short number of. */
function fitting(units, value) {
  const whole = units.findLastIndex(([, size]) => value >= size && Number.isInteger((10 * value) / size));
  return Math.max(whole, 0);
}

/** A number with a unit; `value` is in the first unit's, null where nothing is entered. Without `units` it is a plain number. */
export function Amount({ label, units = [["", 1]], value, onValue, hint, wrong, usual = 0, whole = true, ...rest }) {
  const id = useId();
  const [unit, setUnit] = useState(() => (value == null ? usual : fitting(units, value)));
  const [text, setText] = useState(() => (value == null ? "" : String(value / units[fitting(units, value)][1])));
  const amount = (written, of) => {
    if (written === "") return null;
    const exact = Number(written) * units[of][1];
    return whole ? Math.round(exact) : exact;
  };
  useEffect(() => {
    if (amount(text, unit) === (value ?? null)) return;
    const next = value == null ? unit : fitting(units, value);
    setUnit(next);
    setText(value == null ? "" : String(value / units[next][1]));
  }, [value]);
  const enter = (written, of) => {
    setText(written);
    setUnit(of);
    onValue(amount(written, of));
  };
  return html`<div class="field"><label for=${id}>${label}</label>
    <div class="amount"><input id=${id} type="number" step="any" min="0" inputmode="decimal" value=${text} ...${about(id, hint, wrong)}
        onInput=${(event) => enter(event.target.value, unit)} ...${rest} />
      ${units.length > 1 && html`<select aria-label=${`Unit of ${label.toLowerCase()}`} value=${unit}
          onChange=${(event) => enter(text, Number(event.target.value))}>
        ${units.map(([name], index) => html`<option key=${name} value=${index}>${name}</option>`)}</select>`}</div>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} /></div>`;
}

const LATER = [["in an hour", 3600], ["in a day", 86400], ["in a week", 604800], ["in 30 days", 2592000], ["in a year", 31536000]];

/** A moment in unix seconds, or null for never: one of a few, or to the minute. */
export function Moment({ label, value, onValue, hint, wrong }) {
  const id = useId();
  const pick = (event) => {
    const { value: chosen } = event.target;
    if (chosen !== "at") onValue(chosen === "never" ? null : Math.round(Date.now() / 1000) + Number(chosen));
    else if (!value) onValue(60 * Math.round(Date.now() / 60000) + 86400);
  };
  const enter = (event) => event.target.value && onValue(Math.round(new Date(event.target.value).getTime() / 1000));
  return html`<div class="field"><label for=${id}>${label}</label>
    <div class="amount"><select id=${id} value=${value ? "at" : "never"} ...${about(id, hint, wrong)} onChange=${pick}>
        <option value="never">never</option>${LATER.map(([name, size]) => html`<option key=${name} value=${size}>${name}</option>`)}<option
            value="at">at a time (${zone(value ? value * 1000 : undefined)}):</option></select>
      ${value && html`<input type="datetime-local" max="9999-12-31T23:59" aria-label=${`${label}: time`} value=${local(value).slice(0, 16)} onChange=${enter} />`}</div>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} /></div>`;
}

/** Where a button behind rows adds one: the ref of the box around them. The focus goes to the first field of a new row, and once one is removed to
 *  that button. `rows` is their selector, `length` how many there are. */
export function useRows(rows, length) {
  const box = useRef(null);
  const before = useRef(length);
  useEffect(() => {
    if (length > before.current) [...box.current.querySelectorAll(rows)].at(-1).querySelector("input, select").focus();
    else if (length < before.current) [...box.current.querySelectorAll("button")].at(-1).focus();
    before.current = length;
  }, [length]);
  return box;
}

/** Names with values, in order, repeats and all: [[name, value], …]. */
export function Pairs({ label, value, onValue, hint, wrong }) {
  const id = useId();
  const box = useRows(".pair", value.length);
  const put = (index, part, text) => onValue(value.map((pair, each) => (each === index ? pair.with(part, text) : pair)));
  return html`<div class="field" ref=${box} role="group" aria-labelledby=${id}><span class="label" id=${id}>${label}</span>
    ${value.map(([name, text], index) => html`<div class="pair" key=${index}>
      <input aria-label=${`Name ${index + 1}`} placeholder="Name" value=${name} ...${about(id, hint, wrong)}
          onInput=${(event) => put(index, 0, event.target.value)} />
      <input aria-label=${`Value ${index + 1}`} placeholder="Value" value=${text} onInput=${(event) => put(index, 1, event.target.value)} />
      <button type="button" class="button plain" aria-label=${`Remove ${name || `row ${index + 1}`}`}
          onClick=${() => onValue(value.toSpliced(index, 1))}>✕</button></div>`)}
    <div><button type="button" class="button tiny" onClick=${() => onValue([...value, ["", ""]])}>Add a header</button></div>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} /></div>`;
}

/** {Name: [v1, v2]} as pairs, and back; rows without a name and a value are left out. */
export const toPairs = (headers) => Object.entries(headers ?? {}).flatMap(([name, values]) => values.map((value) => [name, value]));
export function fromPairs(pairs) {
  const headers = Object.create(null);
  for (const [name, value] of pairs) if (name.trim() || value) (headers[name.trim()] ??= []).push(value);
  return headers;
}

/** A text that is hidden until somebody wants to see it. `make` returns a good new one. */
export function Secret({ label, value, onValue, hint, wrong, make, onRemove, ...rest }) {
  const id = useId();
  const [seen, setSeen] = useState(false);
  const fresh = () => {
    onValue(make());
    setSeen(true);
  };
  return html`<div class="field"><label for=${id}>${label}</label>
    <div class="amount secret"><input id=${id} type=${seen ? "text" : "password"} autocomplete="new-password" spellcheck=${false} class="mono"
        value=${value ?? ""} ...${about(id, hint, wrong)}
        onInput=${(event) => onValue(event.target.value)} ...${rest} />
      ${value && html`<button type="button" class="button tiny" aria-label=${`${seen ? "Hide" : "Show"} ${label.toLowerCase()}`}
          onClick=${() => setSeen(!seen)}>${seen ? "Hide" : "Show"}</button>
        <${Copy} text=${value} label=${label} />`}
      ${make && html`<button type="button" class="button tiny" onClick=${fresh}>Make one</button>`}
      ${onRemove && html`<button type="button" class="button plain" aria-label=${`Remove ${label.toLowerCase()}`}
          onClick=${onRemove}>✕</button>`}</div>
    <${Notes} id=${id} hint=${hint} wrong=${wrong} /></div>`;
}

/** So many random bytes in base64. */
export const random = (count) => btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(count))));
