// The consumers that no client can subscribe with while a bucket is ephemeral.
import { html } from "../lib.js";
import { number } from "./basic.js";

const NAMED = 10;

/** Names the clients' consumers among those of a bucket that is ephemeral, or is about to be. */
export function StayBehind({ consumers }) {
  const names = consumers.filter(({ kind }) => kind === "client").map(({ name }) => name);
  if (!names.length) return null;
  const more = names.length > NAMED ? ` and ${number(names.length - NAMED)} more` : "";
  return html`<p class="note warn" role="status">No client can subscribe with these consumers while the bucket is ephemeral: <b>${
    names.slice(0, NAMED).join(", ")}${more}</b>. They keep their positions until they are deleted, and “Wait for consumers” still waits
    for them where it is set.</p>`;
}
