// Who reads: the clients that are connected, and the consumers whose positions the relay keeps, of all buckets.
import { html, useState } from "../lib.js";
import { get, session, v1 } from "../api.js";
import { Badge, Empty, Loading, Problem, Time, number, useLoaded } from "../parts/basic.js";
import { ConsumerTable, EVERY } from "../parts/consumers.js";
import { bucketLink } from "../parts/names.js";
import { Table } from "../parts/table.js";

/** Of more buckets than these, those are shown that are furthest behind: each is a request. */
const MOST = 40;
const AT_ONCE = 6;

/** What `load` returns for each, in order, a few at once; null where a bucket has gone meanwhile. */
async function each(items, load) {
  const results = new Array(items.length).fill(null);
  let next = 0;
  const work = async () => {
    while (next < items.length) {
      const at = next;
      next += 1;
      try {
        results[at] = await load(items[at]);
      } catch (error) {
        if (error.status !== 404) throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, work));
  return results;
}

/** The buckets whose slowest consumers are furthest behind, as many as are shown. */
const furthestBehind = (buckets) => buckets.filter(({ lag }) => lag?.events).sort((a, b) => b.lag.events - a.lag.events).slice(0, MOST);

async function everything(chosen, abort) {
  const [status, clients, buckets, tokens] = await Promise.all([
    get(v1("status"), {}, abort), get(v1("connected-clients"), {}, abort), get(v1("buckets"), {}, abort),
    session.value.administrator ? get(v1("tokens"), {}, abort) : [session.value],
  ]);
  const tooMany = !chosen && buckets.length > MOST;
  const asked = chosen ? buckets.filter(({ name }) => name === chosen) : tooMany ? furthestBehind(status.buckets) : buckets;
  const consumers = (await each(asked, ({ id }) => get(v1("buckets", id, "consumers"), {}, abort))).flat().filter(Boolean);
  return { chosen, status, buckets, tokens, clients: clients.webhook_clients, consumers, tooMany };
}

function Standing({ client, heads }) {
  const names = Object.keys(client.positions).sort();
  if (!names.length) return html`<span class="soft">–</span>`;
  const shown = names.slice(0, 5);
  return html`<div class="positions">${shown.map((name) => {
    const behind = Math.max(0, (heads.get(name) ?? 0) - client.positions[name]);
    return html`<div key=${name} class="row"><a href=${bucketLink({ id: name, name })}>${name}</a> <span class="mono">${
      number(client.positions[name])}</span>
      ${behind ? html`<${Badge} kind="warn">${number(behind)} behind<//>` : html`<${Badge} kind="good">up to date<//>`}</div>`;
  })}${names.length > shown.length && html`<span class="soft small">and ${number(names.length - shown.length)} more</span>`}</div>`;
}

/** Who keeps the position of a client: the consumer that it names, or its durable token's, which REST does not name; else the client. */
function Keeper({ client, consumers }) {
  if (client.consumer) return html`<b>${client.consumer}</b>`;
  const token = consumers.some(({ kind, name, connections }) => kind === "token" && name === client.access_token_key && connections);
  return html`<span class="soft">${token ? "its durable token's" : "keeps its own position"}</span>`;
}

function Clients({ clients, heads, tokens, consumers }) {
  if (!clients.length) {
    return html`<${Empty} title="Nobody is connected">
      <p>Clients show up here while they are subscribed, over the WebSocket or as a stream of server-sent events.</p><//>`;
  }
  const described = new Map(tokens.map(({ key, description }) => [key, description]));
  return html`<${Table} label="Connected clients" kind="consumers stacks" columns=${[["Client"], ["Address"], ["Token"], ["Consumer"], ["Since"],
    ["Given up to, by bucket"]]}>${clients.map((client, index) => html`<tr key=${index}>
      <td class="name">${client.client_type || html`<span class="soft">unnamed</span>`} <span class="soft">${client.client_version}</span></td>
      <td class="mono" data-label="Address">${client.client_ip}</td>
      <td class="name" data-label="Token">${described.get(client.access_token_key) || html`<span class="mono">${client.access_token_key.slice(0, 8) || "–"}</span>`}</td>
      <td class="name" data-label="Consumer"><${Keeper} client=${client} consumers=${consumers} /></td>
      <td data-label="Since"><${Time} at=${client.subscribed_at} /></td>
      <td class="whole" data-label="Given up to, by bucket"><${Standing} client=${client} heads=${heads} /></td></tr>`)}<//>`;
}

function Consumers({ data: { consumers, buckets, tokens, tooMany }, again }) {
  const note = tooMany && html`<p class="note">There are ${number(buckets.length)} buckets. ${
    consumers.length ? `These are the consumers of the buckets that are furthest behind, ${MOST} at most.` : "No consumer of any is behind."} Choose one to see its consumers.</p>`;
  if (tooMany && !consumers.length) return note;
  if (consumers.length) return html`${note}<${ConsumerTable} consumers=${consumers} buckets=${buckets} tokens=${tokens} bucketToo again=${again} />`;
  return html`<${Empty} title="No consumers">
    <p>The relay keeps a position for clients that subscribe with <code>"consumer": "NAME"</code>, for durable tokens,
      and for public outputs.</p><//>`;
}

export default function ClientsPage() {
  const [chosen, setChosen] = useState("");
  const [data, error, again] = useLoaded((abort) => everything(chosen, abort), { every: EVERY, on: [chosen] });
  if (!data) return html`<h1>Clients</h1><${Problem} error=${error} retry=${again} />${!error && html`<${Loading} />`}`;
  const here = data.chosen === chosen;
  const heads = new Map(data.status.buckets.map(({ name, head }) => [name, head]));
  const clients = chosen ? data.clients.filter(({ buckets }) => buckets.includes(chosen)) : data.clients;
  return html`<div class="head"><h1>Clients</h1>
      <label class="row"><span class="soft">Bucket</span><select value=${chosen} onChange=${(event) => setChosen(event.target.value)}>
        <option value="">all</option>${data.buckets.map(({ id, name }) => html`<option key=${id} value=${name}>${name}</option>`)}</select></label>
          </div>
    <${Problem} error=${error} retry=${again} />
    <section class="stack"><h2>Connected now <span class="soft">${number(clients.length)}</span></h2>
      <${Clients} clients=${clients} heads=${heads} tokens=${data.tokens} consumers=${data.consumers} /></section>
    <section class="stack"><h2>Consumers <span class="soft">${here && !data.tooMany ? number(data.consumers.length) : ""}</span></h2>
      <p class="soft">Positions that the relay keeps: a client that reconnects goes on where it was. The slowest comes first.</p>
      ${here ? html`<${Consumers} data=${data} again=${again} />` : !error && html`<${Loading} />`}
    </section>`;
}
