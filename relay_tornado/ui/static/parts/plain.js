// Text of strangers: what would be invisible, or turn the text around, is shown by its name.
import { html } from "../lib.js";
import { cut, hasHidden, nameOf } from "../event/plain.js";

/** A text in which hidden characters are seen; with `lines`, line ends and tabs stay what they are. */
export function Plain({ text, lines = false }) {
  if (!hasHidden(text)) return html`<bdi>${text}</bdi>`;
  return html`<bdi>${cut(text, lines).map(([before, hidden], index) => html`${before}${hidden && html`<span class="hidden-mark" key=${index}
    title=${`The character ${nameOf(hidden)}`}>${nameOf(hidden)}</span>`}`)}</bdi>`;
}
