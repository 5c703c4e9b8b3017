// JSON as a tree that folds. Large ones are shown in parts.
import { html, useMemo, useState } from "../lib.js";
import { children, nestedIn, opened, sizeOf } from "../event/json.js";
import { Short } from "./plain.js";

const PART = 100;

const name = (label) => (typeof label === "number" ? html`<span class="soft">${label}</span>` : html`<span class="json-name"><${Short}
  text=${label} /></span>`);

/** A value as text: of a string's escapes only those of what can't be read. */
const written = ({ kind, raw, value }) => (kind === "string" ? JSON.stringify(value) : raw);

/** A string whose text is JSON, too: as text, and when asked for as the tree of that. */
function Text({ node, inner }) {
  const [read, setRead] = useState(false);
  return html`${!read && html`<span class="json-string"><${Short} text=${written(node)} /></span> `}<button type="button" class="button tiny"
    onClick=${() => setRead(!read)}>Read as ${read ? "text" : "JSON"}</button>${read && html`<${Tree} node=${inner} />`}`;
}

/** One value with what it is called; `first` are the nodes that begin open. */
function Node({ label, node, first }) {
  const size = sizeOf(node);
  const inner = useMemo(() => nestedIn(node), [node]);
  const [open, setOpen] = useState(first.has(node));
  const [most, setMost] = useState(PART);
  const called = label === null ? null : html`${name(label)}<span class="soft">: </span>`;
  if (inner) return html`<li>${called}<${Text} node=${node} inner=${inner} /></li>`;
  if (!size) return html`<li>${called}${size === 0 ? html`<span class="soft">${node.kind === "object" ? "{}" : "[]"}
    </span>` : html`<span class=${`json-${node.kind}`}><${Short} text=${written(node)} /></span>`}</li>`;
  const count = node.kind === "object" ? `{${size}}` : `[${size}]`;
  return html`<li><details open=${open} onToggle=${(event) => setOpen(event.target.open)}><summary>${called}<span class="soft">${count}
    </span></summary>
    ${open && html`<ul>${children(node, most).map(([each, child], index) => html`<${Node} key=${index} label=${each} node=${child}
      first=${first} />`)}
      ${size > most && html`<li><button type="button" class="button tiny" onClick=${() => setMost(most + PART * 10)}>
        ${size - most} more</button></li>`}</ul>`}</details></li>`;
}

export function Tree({ node }) {
  const first = useMemo(() => opened(node), [node]);
  return html`<ul class="json-tree mono"><${Node} label=${null} node=${node} first=${first} /></ul>`;
}
