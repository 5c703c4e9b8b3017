// How to send to a bucket and how to read from it: every URL, and code with the real values.
import { html, useState } from "../lib.js";
import { session } from "../api.js";
import { Copy } from "../parts/basic.js";
import { bucketLink, inPath, inputUrls, relayUrl, socketUrl } from "../parts/names.js";
import { link } from "../router.js";
import * as snippets from "./snippets.js";

/** Those who read: the name of the tab, the code, and what it is good for. */
const READERS = [
  ["Node", snippets.node, "The stock protocol with the ws package: clients of Webhook Relay work as they are."],
  ["Python", snippets.python, "Comes back by itself and goes on where it was: the checkpoint holds how far it is."],
  ["relay forward", snippets.forward, "Gives each event to a server near by, as it came, and sends its answer back."],
  ["relay listen", snippets.listen, "Prints events as they come; on a terminal for people, elsewhere as lines of JSON."],
  ["curl", snippets.stream, "Server-sent events: for whoever has HTTP and no WebSocket."],
];

/** In a list of names a comma ends one. */
const streamUrl = ({ id, name }) => `${relayUrl()}/v1/stream?bucket=${encodeURIComponent(name.includes(",") ? id : name)}`;

/** A URL or another short text with a button that copies it. */
export const Address = ({ text, label }) => html`<div class="address"><code class="grow">${text}</code><${Copy} text=${text} label=${label} /></div>`;

/** Code with a button that copies it. */
export function Code({ text, label }) {
  return html`<figure class="snippet"><figcaption class="row"><span class="soft small grow">${label}</span><${Copy} text=${text} label=${label} />
    </figcaption>
    <pre class="code" tabindex="0" role="region" aria-label=${label}>${text}</pre></figure>`;
}

/** Tabs over things that are there already, by arrow keys too. `tabs` are names. */
function Switch({ label, tabs, value, onValue }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(value) + step + tabs.length) % tabs.length];
    onValue(next);
    event.currentTarget.querySelectorAll("button")[tabs.indexOf(next)].focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>${tabs.map((each) => html`<button key=${each} type="button"
      role="tab"
    aria-selected=${each === value ? "true" : "false"} tabindex=${each === value ? 0 : -1} onClick=${() => onValue(each)}>${each}</button>`)}</div>`;
}

function Sending({ bucket }) {
  const [id, setId] = useState(bucket.inputs[0]?.id);
  const input = bucket.inputs.find((each) => each.id === id) ?? bucket.inputs[0];
  if (!input) {
    return html`<section class="card stack"><h2>Send to it</h2><p>This bucket has no input, so nothing can be sent to it. <a
        href=${bucketLink(bucket, "inputs")}>Make one</a>.</p></section>`;
  }
  const [url] = inputUrls(input);
  const { auth } = bucket;
  return html`<section class="card stack"><div class="head"><h2>Send to it</h2>
      ${bucket.inputs.length > 1 && html`<select aria-label="Input" value=${input.id}
          onChange=${(event) => setId(event.target.value)}>${bucket.inputs.map((each) => html`<option key=${each.id}
          value=${each.id}>${each.name}</option>`)}</select>`}</div>
    <p class="soft small">Any method, any path and query behind it, any body.${" "}
      ${auth.type === "none" ? "Whoever knows the URL can send." : "It takes the URL and what the bucket asks for."}</p>
    ${inputUrls(input).map((each) => html`<${Address} key=${each} text=${each} label="URL" />`)}
    <${Code} text=${snippets.send({ url, auth })} label="curl command" />
    ${auth.type !== "none" && !session.value.administrator && html`<p class="note small">Put the bucket's own${" "}
      ${auth.type === "basic" ? "password" : "token"} for <code>${snippets.PASSWORD}</code>: your token may not see it.</p>`}
    ${input.verify?.on_failure === "reject" && html`<p
        class="note small">This input refuses what is not signed as <b>${input.verify.provider}</b> does it, so this command gets a 401. <a
        href=${bucketLink(bucket, "events")}>Send a test event</a> instead: it is signed.</p>`}
  </section>`;
}

function Reading({ bucket }) {
  const [reader, setReader] = useState(READERS[0][0]);
  const [, write, about] = READERS.find(([name]) => name === reader);
  const streamed = streamUrl(bucket);
  const values = { relay: relayUrl(), socket: socketUrl(), streamed, key: session.value.key || snippets.KEY, name: bucket.name };
  const code = write(values);
  const keyed = code.includes(values.key);
  return html`<section class="card stack"><h2>Read from it</h2>
    <${Switch} label="Ways to read" tabs=${READERS.map(([name]) => name)} value=${reader} onValue=${setReader} />
    <div class="stack" role="tabpanel" aria-label=${reader}><p class="soft small">${about}</p>
      <${Code} text=${code} label=${`${reader} code`} /></div>
    <p class="note small">Put a token's secret for <code>${snippets.SECRET}</code>: the relay keeps none that it could show.
      ${session.value.administrator
        ? html` <a href=${link("/tokens", { bucket: bucket.name })}>Make a token for this bucket</a>${keyed && html`, and take its key, too${
          !session.value.key && html`, for <code>${snippets.KEY}</code>`}`}.`
        : keyed && " The key is that of the token that you are signed in with."}</p>
    ${!bucket.stream && html`<p class="note warn small">This bucket's stream is off: nothing comes over WebSockets. <a
        href=${bucketLink(bucket, "settings")}>Settings</a></p>`}
  </section>`;
}

function Addresses({ bucket }) {
  const rest = `${relayUrl()}/v1`;
  const part = encodeURIComponent(inPath(bucket));
  return html`<section class="card stack"><h2>Addresses</h2><dl class="addresses">
    <dt>WebSocket</dt><dd><${Address} text=${socketUrl()} label="WebSocket URL" /></dd>
    <dt>Server-sent events</dt><dd><${Address} text=${streamUrl(bucket)} label="stream URL" /></dd>
    <dt>This bucket in REST</dt><dd><${Address} text=${`${rest}/buckets/${part}`} label="REST URL" /></dd>
    <dt>Its events in REST</dt><dd><${Address} text=${`${rest}/logs?bucket=${part}`} label="logs URL" /></dd>
    <dt>Polling</dt><dd><${Address} text=${`${rest}/events?bucket=${part}`} label="polling URL" /></dd>
    <dt>The bucket's id</dt><dd><${Address} text=${bucket.id} label="id" /></dd>
    ${session.value.key && html`<dt>Your token's key</dt><dd><${Address} text=${session.value.key} label="key" /></dd>`}
  </dl></section>`;
}

export default function Connect({ bucket }) {
  return html`<div class="cards pair-of-cards"><div class="stack"><${Sending} bucket=${bucket} /><${Addresses} bucket=${bucket} /></div>
    <${Reading} bucket=${bucket} /></div>`;
}
