// Text of strangers: what would be invisible, or turn the text around, is shown by its name. They choose how much of it there is, so there are
// bounds to how many elements it becomes.
import { html, useState } from "../lib.js";
import { beginning, bracketed, cut, directionOf, hasHidden, markName, pieces } from "../event/plain.js";
import { number } from "./basic.js";

const MARKS = 500;
/** The most marks in one of many texts: a row, a cell, a line. */
export const FEW = 10;
const MOST = 2000;

/** A text in which hidden characters are seen; with `lines`, line ends and tabs stay what they are. Those behind the first `marks` stand in
 *  brackets, in one text. */
export function Plain({ text, lines = false, marks = MARKS, dir }) {
  if (!hasHidden(text)) return html`<bdi dir=${dir}>${text}</bdi>`;
  const parts = cut(text, lines);
  const rest = parts.length - 1 > marks ? parts.splice(marks) : [];
  return html`<bdi dir=${dir}>${parts.map(([before, hidden, count], index) => html`${before}${hidden && html`<span class="hidden-mark" key=${index}
    title=${`The character ${markName(hidden, count)}`}>${markName(hidden, count)}</span>`}`)}${rest.length > 0 && html`<span
      class="hidden-mark">hidden characters from here on in brackets</span>${bracketed(rest)}`}</bdi>`;
}

/** The same for a text that may be long: in pieces where it has to be, of which those in sight are laid out. */
export function Long({ text, lines, marks }) {
  const all = pieces(text);
  if (!all.length) return html`<${Plain} text=${text} lines=${lines} marks=${marks} />`;
  const dir = directionOf(text);
  return all.map((piece, index) => html`<span class="part piece" key=${index}><${Plain} text=${piece} lines=${lines} marks=${FEW} dir=${dir} /></span>`);
}

/** One of many texts, the first `most` characters of it, and a button for more. */
export function Short({ text, lines = false, most = MOST }) {
  const [more, setMore] = useState(0);
  const begun = beginning(text, most + more);
  return html`<${Long} text=${begun} lines=${lines} marks=${FEW} />${begun.length < text.length && html` <button type="button"
    class="button tiny" onClick=${() => setMore(more + 10 * MOST)}>${number(text.length - begun.length)} more characters</button>`}`;
}

/** Characters of a path that stand above all else at first. */
const LINE = 300;

/** The path of a log with its query, as it came; its beginning where it is long. */
export const Path = ({ log }) => html`<span class="mono"><${Short} text=${(log.extra_path || "/") + (log.raw_query && `?${log.raw_query}`)}
  most=${LINE} /></span>`;

const ROWS = 200;

/** The first of rows of which a sender may have sent any number, and a button for more where there are: [shown, button]. */
export function useFirst(rows, count = ROWS) {
  const [most, setMost] = useState(count);
  if (rows.length <= most) return [rows, null];
  return [rows.slice(0, most), html`<button type="button" class="button tiny" onClick=${() => setMost(most + 5 * count)}>
    Show more of them (${number(rows.length - most)} left)</button>`];
}
