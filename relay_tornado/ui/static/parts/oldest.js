// The oldest event that a consumer is not done with, by the consumer's document as REST has it.
import { html } from "../lib.js";
import { seqOf } from "../event/sending.js";
import { link } from "../router.js";
import { Time, counted } from "./basic.js";

/** Whether a consumer's position is past its oldest event, which is then kept apart for another try. */
export const isPast = ({ oldest, floor }) => Boolean(oldest) && seqOf(oldest.id) <= seqOf(floor);

/** How often it was tried, in words; "" where no try has failed. */
export function triesOf({ oldest }) {
  const failed = oldest && oldest.attempts - (oldest.out ? 1 : 0);
  return failed ? `tried ${counted(oldest.attempts, "time")}` : "";
}

/** A link to the event, how often it was tried, and from when on it may be tried again. Nothing where there is none. */
export function Oldest({ consumer }) {
  const { oldest } = consumer;
  if (!oldest) return null;
  const tries = triesOf(consumer);
  return html`<a href=${link("/events", oldest.id)}>${isPast(consumer) ? "oldest event" : "next event"}</a>${tries && ` ${tries}`}${
    oldest.next_at && html`, due <${Time} at=${oldest.next_at} />`}`;
}

/** When an output whose circuit is open tries its destination again. */
export function Circuit({ circuit }) {
  return html`circuit open, next try ${circuit.next_at ? html`<${Time} at=${circuit.next_at} />` : "now"}`;
}
