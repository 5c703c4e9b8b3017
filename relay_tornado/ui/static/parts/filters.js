// Which events of a bucket are listed: a search in bodies, and what the events have to be. It all stands in the page's address.
import { html, useEffect, useRef, useState } from "../lib.js";
import { FILTERS, METHODS } from "../event/record.js";
import { Field } from "./basic.js";
import { DELIVERY } from "./deliveries.js";
import { useKeys } from "./window.js";
import { local, zone } from "./zone.js";

const VERDICTS = [["true", "verified"], ["false", "failed the check"], ["none", "not checked"]];

/** Unix seconds of the address as the value of a datetime-local input, "" for what is no time; and back. */
const written = (seconds) => (new Date(seconds * 1000) > 0 ? local(seconds) : "");
const seconds = (value) => (value ? String(Math.floor(new Date(value).getTime() / 1000)) : "");

/** An input that says what was typed once typing has paused, or at Enter; `write` makes a text of a value, `read` a value of a text. What is typed
 *  stays as it is typed, whatever it says. */
function Typed({ value, onValue, read = (text) => text.trim(), write = (given) => given, ...rest }) {
  const [text, setText] = useState(write(value));
  const timer = useRef(0);
  const said = useRef(value);
  useEffect(() => {
    if (value !== said.current) setText(write(value));
    said.current = value;
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const now = ({ value: typed, validity }) => {
    clearTimeout(timer.current);
    const next = read(typed);
    if (next === value || !validity.valid) return;
    said.current = next;
    onValue(next);
  };
  const input = ({ target }) => {
    setText(target.value);
    clearTimeout(timer.current);
    timer.current = setTimeout(now, 400, target);
  };
  return html`<${Field} ...${rest} value=${text} onInput=${input} onKeyDown=${(event) => event.key === "Enter" && now(event.target)}
    onBlur=${(event) => now(event.target)} autocomplete="off" spellcheck=${false} />`;
}

/** A moment in unix seconds. A year that is half typed is none. */
const When = ({ value, ...rest }) => html`<${Typed} value=${value} hint=${zone(value ? value * 1000 : undefined)} type="datetime-local" step="1" min="1970-01-02T00:00" max="9999-12-31T23:59" read=${seconds} write=${written} ...${rest} />`;

/** The form. `filter` is what filterOf gives; onFilter gets the next one. */
export function Filters({ filter, onFilter }) {
  const others = FILTERS.filter((name) => name !== "q" && filter[name]);
  const [open, setOpen] = useState(others.length > 0);
  const search = useRef(null);
  const set = (name, value) => {
    const { [name]: _, ...rest } = filter;
    onFilter(value ? { ...rest, [name]: value } : rest);
  };
  const choice = (name, label, options) => html`<${Field} as="select" label=${label} value=${filter[name] ?? ""}
    onChange=${(event) => set(name, event.target.value)}>
    <option value="">any</option>${options.map((each) => {
      const [value, text] = [each].flat().length > 1 ? each : [each, each];
      return html`<option value=${value} key=${value}>${text}</option>`;
    })}${filter[name] && !options.some((each) => [each].flat()[0] === filter[name]) && html`<option value=${filter[name]}>${filter[name]}
      </option>`}<//>`;
  useKeys((event) => {
    if (event.key !== "/") return;
    event.preventDefault();
    search.current.querySelector("input").focus();
  }, "input, textarea, select, dialog", []);
  return html`<search class="filters">
    <div class="row" ref=${search}>
      <div class="grow sr-label"><${Typed} label="Search paths, headers and bodies" type="search" placeholder="Search paths, headers and bodies" value=${filter.q ?? ""}
        onValue=${(value) => set("q", value)} /></div>
      <button type="button" class="button" aria-expanded=${open ? "true" : "false"}
        onClick=${() => setOpen(!open)}>Filter${others.length ? ` (${others.length})` : ""}</button>
      ${(others.length > 0 || filter.q) && html`<button type="button" class="button plain" onClick=${() => onFilter({})}>Show all</button>`}
    </div>
    ${open && html`<div class="filter-fields">
      ${choice("method", "Method", METHODS)}
      <${Typed} label="Path has" placeholder="/push" value=${filter.path ?? ""} onValue=${(value) => set("path", value)} />
      <${Typed} label="Header" placeholder="X-Kind: order" value=${filter.header ?? ""} onValue=${(value) => set("header", value)} />
      ${choice("verified", "Signature", VERDICTS)}
      ${choice("delivery", "Delivery", Object.keys(DELIVERY))}
      <${When} label="From" value=${filter.from ?? ""} onValue=${(value) => set("from", value)} />
      <${When} label="Before" value=${filter.to ?? ""} onValue=${(value) => set("to", value)} />
    </div>`}
  </search>`;
}
