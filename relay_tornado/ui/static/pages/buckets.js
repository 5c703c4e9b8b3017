// All buckets that the token has: what comes in, what is kept, who reads and how far behind, at a glance.
import { html, useState } from "../lib.js";
import { get, session } from "../api.js";
import { Badge, Button, Empty, Loading, Problem, Time, duration, number, total, useLoaded } from "../parts/basic.js";
import { behind, called, referred, useNames } from "../parts/called.js";
import { unsaved } from "../parts/form.js";
import { sizeOf, storedBytes } from "../parts/kept.js";
import { bucketLink } from "../parts/names.js";
import { Hour } from "../parts/spark.js";
import { go, link } from "../router.js";
import { NewBucket } from "./newbucket.js";

const MANY = 8;

/** From a column's name to its heading, what it is sorted by, and whether the most comes first. */
const COLUMNS = [
  ["name", "Bucket", (bucket) => bucket.name.toLowerCase(), false],
  ["rate", "Last hour", (bucket) => total(bucket.rate), true],
  ["events", "Kept", (bucket) => bucket.events, true, "num wide size"],
  ["bytes", "Size", storedBytes, true, "num wide size"],
  ["head", "Newest", (bucket) => bucket.newest_at ?? 0, true, "wide"],
  ["subscribers", "Subscribers", (bucket) => bucket.subscribers, true, "num wide"],
  ["lag", "Furthest behind", (bucket) => bucket.lag?.events ?? -1, true, "wide"],
  ["expires_at", "Expires", (bucket) => bucket.expires_at ?? Infinity, false, "wide"],
];

function compare(left, right) {
  if (typeof left === "string") return left.localeCompare(right, undefined, { numeric: true });
  return left === right ? 0 : left < right ? -1 : 1;
}

/** The slowest consumer: its name, and how far it is behind, as a link to its bucket's consumers. `bucket` and `tokens` are for its name. */
export function Lag({ lag, to, bucket, tokens }) {
  if (!lag) return html`<span class="soft">–</span>`;
  if (!lag.events) return html`<span class="soft">up to date</span>`;
  const name = called(referred(lag.consumer), bucket, tokens);
  return html`<a class="lag" href=${to}><span class="cut" title=${name}>${name}</span>
    <${Badge} kind=${lag.seconds > 60 ? "warn" : ""}>${number(lag.events)} · ${duration(lag.seconds)}<//></a>`;
}

function Row({ bucket, document, tokens }) {
  const left = bucket.lag?.events;
  const kept = bucket.events ? `${number(bucket.first)} to ${number(bucket.head)}` : "";
  return html`<tr>
    <td class="name"><a href=${bucketLink(bucket)}>${bucket.name}</a>${bucket.ephemeral && html` <${Badge}>ephemeral<//>`}
      ${bucket.description && html`<span class="soft small about">${bucket.description}</span>`}
      <span class="soft small narrow">${number(bucket.events)} ${bucket.ephemeral ? "events" : "kept"}, ${sizeOf(bucket)}${left ? html`<span class="narrower">, ${number(left)} behind</span>` : ""}</span></td>
    <td><${Hour} rate=${bucket.rate} /></td>
    <td class=${bucket.events ? "num wide size" : "num wide size soft"} title=${kept}>${number(bucket.events)}<span class="soft small about">${kept}</span></td>
    <td class=${storedBytes(bucket) ? "num wide size" : "num wide size soft"}>${sizeOf(bucket)}</td>
    <td class="wide"><${Time} at=${bucket.newest_at} /></td>
    <td class=${bucket.subscribers ? "num wide" : "num wide soft"}>${number(bucket.subscribers)}</td>
    <td class="wide"><${Lag} lag=${bucket.lag} to=${bucketLink(bucket, "consumers")} bucket=${document} tokens=${tokens} /></td>
    <td class="wide">${bucket.expires_at ? html`<${Time} at=${bucket.expires_at} />` : html`<span class="soft">–</span>`}</td>
  </tr>`;
}

function Table({ buckets, documents, tokens }) {
  const [[column, down], setOrder] = useState(["name", false]);
  const [, , by] = COLUMNS.find(([name]) => name === column);
  const sorted = [...buckets].sort((left, right) => (down ? -1 : 1) * compare(by(left), by(right)) || compare(left.name, right.name));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Buckets"><table class="buckets">
    <thead><tr>${COLUMNS.map(([name, text, , most, kind = ""]) => html`<th key=${name} scope="col" class=${kind}
        aria-sort=${name === column ? (down ? "descending" : "ascending") : undefined}>
      <button type="button" class="sort" onClick=${() => setOrder([name, name === column ? !down : most])}>${text}<span
          aria-hidden="true">${name === column ? (down ? " ↓" : " ↑") : ""}</span></button></th>`)}</tr></thead>
    <tbody>${sorted.map((bucket) => html`<${Row} key=${bucket.id} bucket=${bucket} tokens=${tokens}
        document=${documents.find(({ id }) => id === bucket.id)} />`)}</tbody>
  </table></div>`;
}

function None({ make }) {
  if (!session.value.administrator) {
    return html`<${Empty} title="Your token has no bucket"><p>Ask an administrator of this relay for a token that has one.</p><//>`;
  }
  return html`<${Empty} title="No bucket yet">
    <p>A bucket is a stream of events. It has a URL that webhooks are sent to, and keeps what arrives there.</p>
    <p class="row center"><${Button} kind="first" onPress=${make}>Make a bucket<//>
      <a class="button" href=${link("/bin")}>Try it for a day</a></p><//>`;
}

export default function Buckets() {
  const [status, error, again] = useLoaded((abort) => get("/v1/status", {}, abort), { every: 5 });
  const [making, setMaking] = useState(false);
  const [wanted, setWanted] = useState("");
  const buckets = status?.buckets ?? [];
  const text = wanted.trim().toLowerCase();
  const [documents, tokens] = useNames(behind(buckets));
  const shown = text ? buckets.filter(({ name, description, id }) => `${name}\n${description}\n${id}`.toLowerCase().includes(text)) : buckets;
  const make = () => setMaking(true);
  return html`<div class="head"><h1>Buckets ${buckets.length > 1 && html`<span class="soft count">${number(buckets.length)}</span>`}</h1>
      ${buckets.length > MANY && html`<input type="search" aria-label="Find a bucket" placeholder="Find a bucket" value=${wanted}
          onInput=${(event) => setWanted(event.target.value)} />`}
      ${session.value.administrator && (buckets.length > 0 || unsaved("bucket/new")) && html`<${Button} kind="first"
          onPress=${make}>New bucket<//>`}</div>
    <${Problem} error=${error} retry=${again} />
    ${!status && !error && html`<${Loading} />`}
    ${status && (buckets.length ? shown.length ? html`<${Table} buckets=${shown} documents=${documents} tokens=${tokens} />` : html`<${Empty} title="No bucket like that">
      <p>None of ${number(buckets.length)} has “${wanted.trim()}” in its name, description or id.</p><//>` : html`<${None} make=${make} />`)}
    ${making && html`<${NewBucket} onClose=${() => setMaking(false)} onMade=${(bucket) => go(bucketLink(bucket, "connect"))} />`}`;
}
