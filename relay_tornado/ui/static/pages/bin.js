// A request bin: a bucket for a day, made by one press, with its URL and what arrives there.
import { html } from "../lib.js";
import { fetched, get, post, put, session, v1 } from "../api.js";
import { part } from "../code.js";
import { Badge, Button, Copy, Loading, Problem, Time, tell, useLoaded } from "../parts/basic.js";
import { Loaded } from "../parts/lazy.js";
import { bucketLink, inputUrls } from "../parts/names.js";
import { Table } from "../parts/table.js";
import { go, link, staying } from "../router.js";

const isBin = ({ name, expires_at: expiry }) => name.startsWith("bin-") && expiry != null;

/** A text for a POSIX shell, in quotes that hold whatever it is. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The events of a bucket, by the same parts as in its own page; loaded while the bin is made. */
const loadEvents = part(import.meta.resolve("./events.js"));

function Line({ text, label, large = false }) {
  return html`<div class=${`bin-url${large ? " large" : ""}`}><code>${text}</code><${Copy} text=${text} label=${label} /></div>`;
}

function Start({ bins }) {
  const make = async () => {
    const stays = staying();
    loadEvents().catch(() => {});
    const { bucket } = await post("/v1/bins");
    if (stays()) go(link("/bin", bucket.name));
    else tell(`${bucket.name} is made`);
  };
  return html`<h1>Try it</h1>
    <section class="card stack"><h2>A request bin</h2>
      <p>One press makes a bucket with a URL of its own. Whatever is sent there shows up on this page, at once.
        After a day it disappears, unless you keep it.</p>
      ${session.value.administrator ? html`<div><${Button} kind="first" onPress=${make}>Make a request bin<//></div>` : html`<p
        class="note">An administrator's token makes one.</p>`}</section>
    ${bins?.length > 0 && html`<section class="stack"><h2>Still there</h2>
      <${Table} label="Request bins" columns=${[["Bin"], ["Made"], ["Disappears"]]}>${bins.map((bin) => html`<tr key=${bin.id}><td><a
        href=${link("/bin", bin.name)}>${bin.name}</a></td><td><${Time} at=${bin.created_at} /></td><td><${Time} at=${bin.expires_at} /></td></tr>`)}<//></section>`}`;
}

/** Sends a webhook as anybody could, from here: whoever has no shell at hand sees something, too. */
async function sendOne(input) {
  const { response } = await fetched(`/v1/webhooks/${encodeURIComponent(input.id)}/hello?from=page`, {
    method: "POST", headers: { "Content-Type": "application/json" }, credentials: "omit",
    body: JSON.stringify({ hello: "world", at: new Date().toISOString() }),
  }, { unreached: " Whether it took the event is not known: look at what arrives." });
  if (!response.ok) throw new Error(`The relay answered ${response.status}.`);
  tell("Sent");
}

function Bin({ bucket, query, changed }) {
  const input = bucket.inputs[0];
  const [url] = input ? inputUrls(input) : [""];
  const keep = async () => {
    await put(v1("buckets", bucket.id), { expires_at: null });
    tell(`${bucket.name} stays`);
    changed();
  };
  return html`<div class="head"><div><p class="small"><a href=${link("/bin")}>Try it</a></p><h1>${bucket.name}</h1></div>
      ${bucket.expires_at ? html`<${Badge} kind="warn">disappears <${Time} at=${bucket.expires_at} /><//><${Button} onPress=${keep}>Keep it<//>`
        : html`<${Badge} kind="good">kept<//>`}
      <a class="button" href=${bucketLink(bucket, "settings")}>Settings</a></div>
    ${input ? html`<section class="card stack">
      <div class="stack"><h2>Send to this URL</h2><${Line} text=${url} label="URL" large /></div>
      <div class="stack"><h3>For example</h3><${Line} text=${`curl -d ${quoted('{"hello": "world"}')} -H ${
        quoted("Content-Type: application/json")} ${quoted(url)}`} label="curl command" /></div>
      <div class="row"><${Button} onPress=${() => sendOne(input)}>Send one from here<//><span
        class="soft small">Any method, any path behind it, any body.</span></div></section>`
      : html`<p class="note">This bucket has no input any more. <a href=${bucketLink(bucket, "inputs")}>Make one</a></p>`}
    <section class="stack"><h2>What arrives</h2>
      <${Loaded} load=${loadEvents} bucket=${bucket} query=${query} /></section>`;
}

export default function BinPage({ bucket: name = "", query }) {
  const [found, error, again] = useLoaded(async (abort) => ({ name, buckets: await get(v1("buckets"), {}, abort) }), { every: 30, on: [name] });
  const buckets = found?.name === name ? found.buckets : null;
  const bucket = buckets?.find((each) => each.name === name);
  if (!buckets) return html`<h1>Try it</h1><${Problem} error=${error} retry=${again} />${!error && html`<${Loading} />`}`;
  if (!name) return html`<${Start} bins=${buckets.filter(isBin)} />`;
  if (!bucket) {
    return html`<${Start} bins=${buckets.filter(isBin)} /><p class="note">There is no bin ${name} any more. ${
      session.value.administrator ? "" : "Or your token does not have it."}</p>`;
  }
  return html`<${Bin} key=${bucket.id} bucket=${bucket} query=${query} changed=${again} />`;
}
