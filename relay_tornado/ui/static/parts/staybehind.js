// Who can't come back to a bucket while it is ephemeral.
import { html } from "../lib.js";
import { number } from "./basic.js";

const NAMED = 10;

/** Names the clients' consumers among those of a bucket that is ephemeral, or is about to be. */
export function StayBehind({ consumers }) {
  const names = consumers.filter(({ kind }) => kind === "client").map(({ name }) => name);
  if (!names.length) return null;
  const more = names.length > NAMED ? ` and ${number(names.length - NAMED)} more` : "";
  return html`<p class="note warn" role="status">Nobody can come back to a client's consumer while the bucket is ephemeral. These stay behind: <b>${
    names.slice(0, NAMED).join(", ")}${more}</b>. They keep their places until they are deleted, and retention waits for them where it is to.</p>`;
}
