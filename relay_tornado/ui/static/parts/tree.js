// JSON as a tree that folds. Large ones are shown in parts.
import { html, useState } from "../lib.js";
import { children } from "../event/json.js";
import { Plain } from "./plain.js";

const PART = 100;
const OPEN_DEPTH = 3;
const MAX_TEXT = 2000;

function Leaf({ node }) {
  const [all, setAll] = useState(false);
  const long = node.raw.length > MAX_TEXT && !all;
  return html`<span class=${`json-${node.kind}`}><${Plain} text=${long ? node.raw.slice(0, MAX_TEXT) : node.raw} /></span>${
    long && html` <button type="button" class="button tiny" onClick=${() => setAll(true)}>${node.raw.length - MAX_TEXT} more characters</button>`}`;
}

const name = (label) => (typeof label === "number" ? html`<span class="soft">${label}</span>` : html`<span class="json-name"><${Plain}
  text=${label} /></span>`);

/** One value with what it is called; `depth` tells whether it begins open. */
function Node({ label, node, depth }) {
  const inner = children(node);
  const [open, setOpen] = useState(depth < OPEN_DEPTH && (inner?.length ?? 0) <= PART);
  const [most, setMost] = useState(PART);
  const called = label === null ? null : html`${name(label)}<span class="soft">: </span>`;
  if (!inner?.length) return html`<li>${called}${inner ? html`<span class="soft">${node.kind === "object" ? "{}" : "[]"}
    </span>` : html`<${Leaf} node=${node} />`}</li>`;
  const count = node.kind === "object" ? `{${inner.length}}` : `[${inner.length}]`;
  return html`<li><details open=${open} onToggle=${(event) => setOpen(event.target.open)}><summary>${called}<span class="soft">${count}
    </span></summary>
    ${open && html`<ul>${inner.slice(0, most).map(([each, child], index) => html`<${Node} key=${index} label=${each} node=${child}
      depth=${depth + 1} />`)}
      ${inner.length > most && html`<li><button type="button" class="button tiny" onClick=${() => setMost(most + PART * 10)}>
        ${inner.length - most} more</button></li>`}</ul>`}</details></li>`;
}

export const Tree = ({ node }) => html`<ul class="json-tree mono"><${Node} label=${null} node=${node} depth=${0} /></ul>`;
