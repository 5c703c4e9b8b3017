// Tables, as most pages have one.
import { html } from "../lib.js";

/** A table that scrolls by itself where it is too wide. `columns` are [heading, class?], `kind` is the table's class. */
export function Table({ label, kind, columns, children }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table class=${kind}>
    <thead><tr>${columns.filter(Boolean).map(([text, of], index) => html`<th key=${index} scope="col" class=${of}>${text}</th>`)}</tr></thead>
    <tbody>${children}</tbody></table></div>`;
}
