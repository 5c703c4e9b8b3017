// What became of an event: each delivery with its status, the time that it took, and the answer.
import { html, useMemo } from "../lib.js";
import { fromBase64 } from "../event/bytes.js";
import { headersOf } from "../event/headers.js";
import { Badge, Time, duration } from "./basic.js";
import { Body } from "./body.js";
import { Plain, Short, useFirst } from "./plain.js";
import { Table } from "./table.js";

/** By status, its colour and its word. */
export const DELIVERY = {
  received: ["", "received"], sent: ["good", "sent"], failed: ["bad", "failed"], stalled: ["warn", "stalled"], rejected: ["bad", "rejected"],
};

/** Headers in their order, as a table. `headers` as headersOf gives them. */
export function HeaderTable({ headers, label }) {
  const [rows, more] = useFirst(headers);
  return html`<${Table} label=${label} columns=${[["Name"], ["Value"]]}>${rows.map((header, index) => html`<tr key=${index}><th
    scope="row" class="value name"><${Short} text=${header.name} /></th><td class="value"><${Short} text=${header.value} /></td></tr>`)}<//>${more}`;
}

/** An answer: its headers and its body, which is base64. */
export function Answer({ headers, body }) {
  const pairs = useMemo(() => headersOf({ headers }), [headers]);
  const bytes = useMemo(() => fromBase64(body), [body]);
  return html`<div class="stack">${pairs.length > 0 && html`<${HeaderTable} headers=${pairs} label="Headers of the answer" />`}<${Body}
    bytes=${bytes} headers=${pairs} label="Body of the answer" /></div>`;
}

/** Whether a delivery went to this output. */
export const wentTo = (delivery, { id, number, name }) => [id, number, name].includes(delivery.output);

/** The name of what a delivery went to. */
function Target({ delivery, outputs }) {
  const found = outputs.find((each) => wentTo(delivery, each));
  const name = found?.name ?? (delivery.output ? String(delivery.output) : "a subscriber");
  return html`<${Plain} text=${name} />${found?.destination && html` <span class="soft small mono"><${Plain} text=${found.destination} /></span>`}`;
}

function Delivery({ delivery, outputs }) {
  const [kind, word] = DELIVERY[delivery.status] ?? ["", delivery.status];
  const retries = delivery.retries ? `, ${delivery.retries} ${delivery.retries === 1 ? "retry" : "retries"}` : "";
  const answered = delivery.status_code || Object.keys(delivery.response_headers ?? {}).length || delivery.response_body;
  const line = html`<span class="grow cut"><${Target} delivery=${delivery} outputs=${outputs} /></span>
    <${Badge} kind=${kind}>${word}${delivery.status_code ? ` ${delivery.status_code}` : ""}<//>
    <span class="soft small num">
      ${delivery.duration_ms ? duration(delivery.duration_ms / 1000) : "–"}${retries}</span>
    <span class="soft small num"><${Time} at=${delivery.at} /></span>`;
  if (!answered || delivery.response_truncated) {
    const why = delivery.response_truncated && html`<p class="soft small">What was answered is left out: newer answers take all the room.</p>`;
    return html`<li class="delivery"><div class="row">${line}</div>${why}</li>`;
  }
  return html`<li class="delivery"><details><summary class="row">${line}</summary><${Answer} headers=${delivery.response_headers}
    body=${delivery.response_body} /></details></li>`;
}

/** All deliveries of a log, the newest first. */
export function deliveriesOf(log) {
  const own = log.deliveries ?? (log.status === "received" ? [] : [{
    output: log.output_id, status: log.status, status_code: log.status_code, duration_ms: log.duration_ms, retries: log.retries, at: log.updated_at,
    response_headers: log.response_headers, response_body: log.response_body,
  }]);
  return [...own].sort((a, b) => b.at - a.at);
}

/** Deliveries as `deliveriesOf` has them; `bucket` is for the names of their outputs. */
export function Deliveries({ deliveries, bucket }) {
  return html`<ul class="deliveries">${deliveries.map((delivery, index) => html`<${Delivery} key=${`${delivery.at} ${index}`}
    delivery=${delivery} outputs=${bucket?.outputs ?? []} />`)}</ul>`;
}
