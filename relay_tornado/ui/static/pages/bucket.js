// One bucket: how it stands, and the tabs with what it holds and how it is set.
import { html, useEffect, useRef } from "../lib.js";
import { get, v1 } from "../api.js";
import { part } from "../code.js";
import { Badge, Empty, Loading, Problem, Time, number, useLoaded, useTitle } from "../parts/basic.js";
import { behind, useNames } from "../parts/called.js";
import { unsaved } from "../parts/form.js";
import { sizeOf } from "../parts/kept.js";
import { bucketLink } from "../parts/names.js";
import { Loaded } from "../parts/lazy.js";
import { Hour } from "../parts/spark.js";
import { go, link } from "../router.js";
import { Lag } from "./buckets.js";

/** Each tab is loaded when it is gone to: its name in the address, its text, its component, and the forms that are in it. */
const TABS = [
  ["events", "Events", part(import.meta.resolve("./events.js"))],
  ["connect", "Connect", part(import.meta.resolve("./connect.js"))],
  ["inputs", "Inputs", part(import.meta.resolve("./inputs.js"))],
  ["outputs", "Outputs", part(import.meta.resolve("./outputs.js"))],
  ["consumers", "Consumers", part(import.meta.resolve("../parts/consumers.js"), "Consumers")],
  ["settings", "Settings", part(import.meta.resolve("./settings.js"))],
];

const GONE = new Error("This bucket is not there any more: it was deleted, or your token does not have it any more.");

/** How the bucket stands, in one line. */
function Standing({ standing, bucket, error }) {
  const [, tokens] = useNames(behind(standing ? [standing] : []).filter(({ kind }) => kind === "token"));
  const old = error && html`<div><dt>Numbers</dt><dd title=${error.message}><span role="status"><${Badge} kind="warn">${standing ? "not up to date" : "not loaded yet"}<//>
    </span></dd></div>`;
  if (!standing) return html`<dl class="standing">${old}</dl>`;
  const { rate, events, first, head, newest_at: newest, subscribers, lag } = standing;
  return html`<dl class="standing">
    <div><dt>Last hour</dt><dd><${Hour} rate=${rate} /></dd></div>
    <div><dt>Kept</dt><dd title=${events ? `events ${number(first)} to ${number(head)}` : ""}>${number(events)} · ${sizeOf(standing)}</dd></div>
    <div><dt>Newest</dt><dd>${head ? `${number(head)}, ` : ""}<${Time} at=${newest} /></dd></div>
    <div><dt>Subscribers</dt><dd>${number(subscribers)}</dd></div>
    ${lag && html`<div><dt>Furthest behind</dt><dd><${Lag} lag=${lag} to=${bucketLink(bucket, "consumers")} bucket=${bucket} tokens=${tokens} /></dd></div>`}
    ${old}
  </dl>`;
}

export default function BucketPage({ bucket: reference, tab: wanted = "events", query }) {
  // Once it is known by its id it is asked for by that: its name may change while one looks at it.
  const known = useRef({});
  const [found, error, again] = useLoaded(async (abort) => {
    const answer = await get(v1("buckets", known.current.reference === reference ? known.current.id : reference), {}, abort);
    known.current = { reference, id: answer.id };
    return answer;
  }, { every: 20, on: [reference] });
  const [status, stale] = useLoaded((abort) => get("/v1/status", {}, abort), { every: 5 });
  const named = found && [found.id, found.name].includes(reference);
  const renamed = found && !named && known.current.reference === reference && known.current.id === found.id;
  const bucket = named || renamed ? found : null;
  useEffect(() => {
    if (renamed) go(bucketLink(found, wanted) + window.location.search, { replace: true });
  }, [renamed]);
  const tab = TABS.find(([name]) => name === wanted);
  const tabs = useRef(null);
  useEffect(() => {
    tabs.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [wanted, Boolean(bucket)]);
  useTitle(bucket?.name ?? "");
  if (!bucket && error?.status === 404) {
    return html`<${Empty} as="h1" title=${`There is no bucket ${reference}`}><p>It may have been deleted, or your token does not have it.</p><p>
      <a class="button" href=${link("/")}>All buckets</a></p><//>`;
  }
  const up = html`<p class="small"><a href=${link("/")}>Buckets</a></p>`;
  if (!bucket) {
    return html`<div class="head"><div class="grow">${up}<h1>${reference}</h1></div></div>
      ${error ? html`<${Problem} error=${error} retry=${again} />` : html`<${Loading} />`}`;
  }
  const count = { inputs: bucket.inputs.length, outputs: bucket.outputs.length };
  return html`<div class="head"><div class="grow">${up}<h1>${bucket.name}</h1>
        ${bucket.description && html`<p class="soft lines">${bucket.description}</p>`}</div>
      <span class="row">${bucket.ephemeral && html`<${Badge}>ephemeral<//>`}${!bucket.stream && html`<${Badge} kind="warn">stream off<//>`}
        ${bucket.expires_at && html`<a href=${bucketLink(bucket, "settings")}><${Badge} kind="warn">deleted <${Time} at=${bucket.expires_at} /><//>
          </a>`}</span></div>
    <${Problem} error=${error?.status === 404 ? GONE : error} retry=${again} />
    <${Standing} standing=${status?.buckets.find(({ id }) => id === bucket.id)} bucket=${bucket} error=${stale} />
    <nav class="tabs" ref=${tabs} aria-label=${`Parts of ${bucket.name}`}>${TABS.map(([name, text]) => html`<a key=${name}
        href=${bucketLink(bucket, name)} aria-current=${name === wanted ? "page" : undefined}>${text}
      ${count[name] > 1 && html` <span class="soft">${number(count[name])}</span>`}${unsaved(`${bucket.id}/${name}`) && html`<span class="unsaved"
          title="Not saved"> <span aria-hidden="true">•</span><span class="hidden"> (not saved)</span></span>`}</a>`)}</nav>
    ${tab ? html`<${Loaded} key=${`${bucket.id}/${wanted}`} load=${tab[2]} bucket=${bucket} query=${query} changed=${again} />` : html`<${Empty}
        title="There is nothing here"><p><a class="button" href=${bucketLink(bucket)}>The bucket's events</a></p><//>`}`;
}
