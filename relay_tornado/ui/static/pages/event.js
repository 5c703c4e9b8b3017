// One event: what came, from whom, what the relay made of it, and what became of it.
import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { get, v1 } from "../api.js";
import { bodyOf } from "../event/bytes.js";
import { curl } from "../event/curl.js";
import { fields } from "../event/forms.js";
import { headersOf } from "../event/headers.js";
import { eventId, loadLog, newerThan, olderThan } from "../event/log.js";
import { shown } from "../event/plain.js";
import { seqOf } from "../event/sending.js";
import { Badge, Button, Copy, Dialog, Field, Loading, Problem, Time, bytes, counted, number, tell, useLoaded, useTitle } from "../parts/basic.js";
import { Body, Fields } from "../parts/body.js";
import { called, outputOf, reference, useNames } from "../parts/called.js";
import { Deliveries, HeaderTable, deliveriesOf, wentTo } from "../parts/deliveries.js";
import { EditEvent } from "../parts/edit.js";
import { bucketLink, relayUrl } from "../parts/names.js";
import { triesOf } from "../parts/oldest.js";
import { Path, Plain } from "../parts/plain.js";
import { SendAgain } from "../parts/send.js";
import { useKeys } from "../parts/window.js";
import { zone } from "../parts/zone.js";
import { go, link, staying } from "../router.js";

const REFRESH = 4;
const POSITIONS = 5;
const SMALL = 262_144;

/** The address of an input's event, as a sender would use it. */
function addressOf(log) {
  return `${relayUrl()}/v1/webhooks/${encodeURIComponent(log.input_id)}${log.extra_path}${log.raw_query && `?${log.raw_query}`}`;
}

/** What is known of the check of its signature. */
function Verdict({ log }) {
  if (log.verified === null || log.verified === undefined) return html`<span class="soft">not checked: the input checks none</span>`;
  return html`<${Badge} kind=${log.verified ? "good" : "bad"}>${log.verified ? "verified" : "failed"}<//>${log.verdict && html` <${Plain}
    text=${log.verdict} />`}`;
}

const MOST_MISSED = 3;

/** What is known of those that have a position in the bucket: {consumers, letters}, of which the dead letters are those of this event alone; null before
 *  the bucket is known. */
async function loadPositions(log, bucket, abort) {
  if (!bucket) return null;
  if (log.ephemeral) return { consumers: [], letters: [] };
  const consumers = await get(v1("buckets", bucket.id, "consumers"), {}, abort);
  if (!consumers.some(({ dead }) => dead)) return { consumers, letters: [] };
  const { data: letters } = await get(v1("buckets", bucket.id, "dead"), { cursor: `${log.epoch}-${log.seq - 1}`, limit: 1 }, abort);
  return { consumers, letters };
}

/** Whether an output or a consumer has done or parked some events after one that it has not: which ones, REST does not tell. */
const scattered = ({ floor, head, pending, parked }) => seqOf(head) - seqOf(floor) > pending - parked;

/** Why an output or a consumer is not done with this event, in words; "" where it may be. */
function why(consumer, { log, bucket, letters, tried }) {
  const output = consumer.kind === "output" ? outputOf(consumer, bucket) : null;
  if (consumer.kind === "output" && (!output || (log.target && log.target !== output.number))) return "";
  const letter = letters.find((each) => each.seq === log.seq && each.kind === consumer.kind && each.consumer === consumer.name);
  if (letter) return `given up after ${number(letter.attempts)} ${letter.attempts === 1 ? "try" : "tries"}: ${letter.reason}`;
  if (output && tried.some((each) => wentTo(each, output))) return "";
  const still = output?.disabled ? "disabled" : output?.paused ? "paused" : consumer.parked ? "trying an earlier one again" : "";
  const tries = consumer.oldest?.id === eventId(log.id) && triesOf(consumer);
  if (tries) return [still === "trying an earlier one again" ? "" : still, `${tries}, and not done`].filter(Boolean).join(", ");
  const before = log.seq - seqOf(consumer.floor) - 1;
  const place = before ? `${counted(before, "event")} before it` : consumer.out ? "it has it now, and has not answered" : "it comes next";
  if (before > 0 && scattered(consumer)) return "";
  if (before >= 0) return [still, place].filter(Boolean).join(", ");
  return output && !consumer.parked ? "not sent: its rules don't fit, or it was made or moved later" : "";
}

/** The outputs and consumers that are not done with this event, each with the reason; where there is none, whether any delivery is known. `positions` are
 *  null until they are loaded, and `trouble` is why they could not be. */
function Missed({ positions, tokens, trouble, ...rest }) {
  const { bucket, tried } = rest;
  if (!positions) return trouble && html`<dt>Not done by</dt><dd class="soft whole">Not known. ${trouble.message}</dd>`;
  const outputsFirst = positions.consumers.toSorted((a, b) => (b.kind === "output") - (a.kind === "output"));
  const missed = outputsFirst.map((each) => [each, why(each, { ...rest, ...positions })]).filter(([, reason]) => reason);
  if (!missed.length) return tried.length ? null : html`<dt>Deliveries</dt><dd class="soft whole">No delivery of it was reported yet.</dd>`;
  return html`<dt>Not done by</dt><dd class="whole">${missed.slice(0, MOST_MISSED).map(([each, reason]) => html`<div
    key=${reference(each)}><a href=${bucketLink(bucket, each.kind === "output" ? "outputs" : "consumers")}>${called(each, bucket, tokens)}</a>${" "}
      <span class="soft">${reason}</span></div>`)}
    ${missed.length > MOST_MISSED && html`<a href=${bucketLink(bucket, "consumers")}>and ${number(missed.length - MOST_MISSED)} more</a>`}</dd>`;
}

function Facts({ log, input, bucket, size, headerSize, tried }) {
  const [positions, trouble] = useLoaded((abort) => loadPositions(log, bucket, abort), { every: POSITIONS, on: [bucket?.id, log.id] });
  const [, tokens] = useNames((positions?.consumers ?? []).filter(({ kind }) => kind === "token"));
  const exact = new Date(log.received_at * 1000);
  return html`<dl class="facts">
    <dt>Received</dt><dd class="whole"><${Time} at=${log.received_at} exact />.${String(exact.getMilliseconds()).padStart(3, "0")} <span class="soft">${zone(exact)} (<${Time} at=${log.received_at} />)</span></dd>
    <dt>Size</dt><dd>${bytes(size)} body, ${bytes(headerSize)} headers</dd>
    <dt>Sender</dt><dd class="mono"><${Plain} text=${log.ip_address || "–"} /></dd>
    <dt>Id</dt><dd class="row"><code>${log.id}</code><${Copy} text=${log.id} label="the id" /></dd>
    <dt>Input</dt><dd><${Plain} text=${input?.name ?? log.input_id} /></dd>
    <dt>Signature</dt><dd class="whole"><${Verdict} log=${log} /></dd>
    ${log.resend_of && html`<dt>${log.edited ? "Edited from" : "Sent again from"}</dt><dd><a href=${link("/events", log.resend_of)}>
      ${log.resend_of}</a></dd>`}
    ${log.target && html`<dt>Goes to</dt><dd>one output alone</dd>`}
    <${Missed} ...${{ log, bucket, positions, tokens, tried, trouble }} />
  </dl>`;
}

/** Asks with which event to compare. */
function CompareWith({ id, chosen, onOlder, onClose }) {
  const [other, setOther] = useState("");
  const [wrong, setWrong] = useState("");
  const form = useRef(null);
  /** Compares, unless the dialog was closed while the other event was looked for. */
  const compare = (with_) => form.current && go(link("/compare", with_, id));
  const before = async () => {
    const found = await onOlder();
    if (found) compare(found);
    else tell("There is no older event.");
  };
  const submit = async (event) => {
    event.preventDefault();
    const wanted = other.trim();
    try {
      await loadLog(wanted);
      compare(wanted);
    } catch (error) {
      setWrong(error.message);
    }
  };
  return html`<${Dialog} title="Compare this event" onClose=${onClose}><form ref=${form} onSubmit=${submit}>
    ${onOlder && html`<div><${Button}
      onPress=${before}>With the one before it<//></div>`}
    ${chosen.length > 0 && html`<div class="row">${chosen.slice(0, 5).map((each) => html`<${Button} key=${each}
      onPress=${() => compare(each)}>With ${each}<//>`)}</div>`}
    <${Field} label="With the event" placeholder="k3v9x1q7m2ab-42" autocomplete="off" spellcheck=${false} value=${other} wrong=${wrong}
      onInput=${(event) => setOther(event.target.value)} />
    <div class="row"><span class="grow"></span><${Button} onPress=${onClose}>Cancel<//><${Button} kind="first" type="submit"
      disabled=${!other.trim()}>Compare<//></div>
  </form><//>`;
}

/** An event, by its id. `onNewer` and `onOlder` go to its neighbours, `onClose` closes it where it is part of a page, onLog(log) tells what
 *  was loaded; `chosen` are ids to compare with. */
export function EventView({ id, bucket, onNewer, onOlder, onClose, onLog, chosen = [] }) {
  const settled = useRef(false);
  const asking = useRef(0);
  const [log, error, again] = useLoaded(async (signal) => {
    asking.current += 1;
    try {
      return await loadLog(id, signal);
    } finally {
      asking.current -= 1;
    }
  }, { on: [id] });
  const [dialog, setDialog] = useState("");
  const top = useRef(null);
  const bodyBytes = useMemo(() => (log ? bodyOf(log) : null), [log?.id]);
  const headers = useMemo(() => (log ? headersOf(log) : []), [log?.id]);
  const gone = error?.status === 404;
  settled.current = gone || !log || log.id !== id || (log.size ?? bodyBytes.length) > SMALL || document.hidden;
  useEffect(() => {
    const timer = setInterval(() => settled.current || asking.current || again(), REFRESH * 1000);
    return () => clearInterval(timer);
  }, [id]);
  useEffect(() => {
    if (log) onLog?.(log);
  }, [log]);
  useEffect(() => {
    setDialog("");
    top.current?.closest(".event-pane")?.scrollTo(0, 0);
  }, [id]);
  useKeys(({ key }) => {
    if (key === "j") onOlder();
    else if (key === "k") onNewer();
  }, "input, textarea, select, dialog, [role=listbox]", [onOlder, onNewer]);

  const tools = html`<div class="event-tools" ref=${top}>
    <button type="button" class="button tiny" aria-keyshortcuts="k" onClick=${onNewer}>↑ Newer</button>
    <button type="button" class="button tiny" aria-keyshortcuts="j" onClick=${onOlder}>↓ Older</button>
    ${onClose && html`<a class="button plain end" href=${link("/events", id)}>Open as a page</a><button type="button"
      class="button plain" aria-label="Close the event" onClick=${onClose}>✕</button>`}</div>`;
  const [Heading, Part] = onClose ? ["h2", "h3"] : ["h1", "h2"];
  const heading = (kind) => html`<${Heading} class=${`request-line ${kind}`}>Event ${id}<//>`;
  if (error && log?.id !== id) return html`<div class="stack">${tools}${heading("")}<${Problem} error=${error} retry=${again} /></div>`;
  if (!log) return html`<div class="stack">${tools}${heading("late")}<${Loading} /></div>`;
  const input = bucket?.inputs.find((each) => each.id === log.input_id);
  const tried = deliveriesOf(log);
  const query = fields(log.raw_query);
  const headerSize = headers.reduce((sum, { name, raw, value }) => sum + name.length + (raw ?? value).length + 4, 0);
  const command = () => curl({ method: log.method, url: addressOf(log), headers, body: bodyBytes });
  const permalink = new URL(link("/events", log.id), window.location.href).href;
  return html`<article class="event stack" aria-busy=${log.id !== id ? "true" : "false"}>
    ${tools}
    <${Problem} error=${gone ? new Error(`${error.message} What is shown was loaded before.`) : error} retry=${again} />
    <${Heading} class="request-line"><span class="method"><${Plain} text=${log.method} /></span> <${Path} key=${log.id}
      log=${log} />${log.edited && html` <${Badge}
        kind="accent">edited<//>`}${log.ephemeral && html` <${Badge}>ephemeral<//>`}<//>
    ${log.damaged && html`<p class="note warn" role="status">The event is damaged: its headers and its body can't be read. The command <code>relay check</code>
      says more.</p>`}
    <div class="event-tools">
      <${Button} kind="first" disabled=${!bucket} onPress=${() => setDialog("send")}>Send again<//><${Button} disabled=${!bucket}
        onPress=${() => setDialog("edit")}>Edit and send<//>
      <${Button} onPress=${() => setDialog("compare")}>Compare<//>
      <${Copy} text=${command} label="as curl">Copy as curl<//><${Copy} text=${permalink} label="link">Copy link<//></div>
    <${Facts} log=${log} input=${input} bucket=${bucket} size=${bodyBytes.length} headerSize=${headerSize} tried=${tried} />
    ${tried.length > 0 && html`<section class="stack"><${Part}>Deliveries<//><${Deliveries} deliveries=${tried} bucket=${bucket} /></section>`}
    ${query.length > 0 && html`<section class="stack"><${Part}>Query<//><${Fields} key=${log.id} pairs=${query}
      label="Query" /></section>`}
    <section class="stack"><${Body} key=${log.id} bytes=${bodyBytes} headers=${headers} heading=${html`<${Part}>Body<//>`}
      download=${v1("logs", log.id, "body")} /></section>
    <section class="stack"><${Part}>Headers <span class="soft small">${headers.length}, in their order</span><//><${HeaderTable}
      key=${log.id} headers=${headers} label="Headers" /></section>
    ${log.id === id && html`${dialog === "send" && html`<${SendAgain} bucket=${bucket} events=${[{ id: eventId(log.id) }]} output=${missed(tried, bucket)} onClose=${() => setDialog("")} />`}
    ${dialog === "edit" && html`<${EditEvent} bucket=${bucket} log=${log} onClose=${() => setDialog("")} />`}
    ${dialog === "compare" && html`<${CompareWith} id=${log.id} chosen=${chosen} onOlder=${() => olderThan(log.bucket_id, log.id)}
      onClose=${() => setDialog("")} />`}`}
  </article>`;
}

/** The output that an event is to be sent to again: the one whose newest delivery failed, where there is one such and no other. */
function missed(tried, bucket) {
  const failed = (bucket?.outputs ?? []).filter((output) => tried.find((each) => wentTo(each, output))?.status === "failed");
  return failed.length === 1 ? failed[0].id : "";
}

/** The page of one event. */
export default function EventPage({ id }) {
  const [log, setLog] = useState(null);
  const [bucket, trouble] = useLoaded(async (signal) => log && get(v1("buckets", log.bucket_id), undefined, signal), { on: [log?.bucket_id] });
  useTitle(log ? shown(`${log.method} ${log.extra_path || "/"}`).slice(0, 80) : undefined);
  const to = async (find, none) => {
    const stays = staying();
    try {
      const next = log && (await find(log.bucket_id, id));
      if (!stays()) return;
      if (next) go(link("/events", next), { replace: true });
      else tell(none);
    } catch (error) {
      tell(error.message, "bad");
    }
  };
  return html`<div class="stack">
    <nav aria-label="Where this is" class="soft wrap">${bucket ? html`<a href=${bucketLink(bucket)}>${bucket.name}
      </a>` : "Bucket"} / event</nav>
    <${Problem} error=${trouble} />
    <div class="card"><${EventView} id=${id} bucket=${bucket} onLog=${setLog} onNewer=${() => to(newerThan, "This is the newest event.")}
      onOlder=${() => to(olderThan, "This is the oldest event that is kept.")} /></div>
  </div>`;
}
