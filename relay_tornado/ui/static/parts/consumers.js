// The consumers of a bucket: where each stands, how far behind it is, and what can be done with it.
import { html, useState } from "../lib.js";
import { get, post, remove, v1 } from "../api.js";
import { link } from "../router.js";
import { Badge, Confirm, Dialog, Empty, Loading, Problem, Time, duration, number, tell, useLoaded } from "./basic.js";
import { called, consumerPath, outputOf, reference, useNames } from "./called.js";
import { DeadLetters } from "./dead.js";
import { bucketLink } from "./names.js";
import { Circuit, Oldest, triesOf } from "./oldest.js";
import { COUNT, Plot } from "./plot.js";
import { Seek } from "./seek.js";
import { StayBehind } from "./staybehind.js";
import { Table } from "./table.js";

export const EVERY = 5;

const ACKS = { explicit: "acked one by one", receipt: "moved by receipts", forward: "the relay sends" };

/** The lag of a consumer over a time. A step in which it was not behind has no lag, and neither has one in which nothing was measured; but a measure of
 *  the bucket's events there is whenever the relay ran. */
async function loadLag({ bucket_id: bucket, created_at: since, ...consumer }, span, abort) {
  const [{ from, step, series }, events] = await Promise.all([
    get(v1("series"), { span, bucket, consumer: reference(consumer) }, abort), get(v1("series"), { span, bucket }, abort),
  ]);
  const shift = (from - events.from) / step;
  const unknown = (at) => from + (at + 1) * step <= since || events.series.events?.[at + shift] == null;
  return { from, step, values: (series.lag ?? []).map((value, at) => value ?? (unknown(at) ? null : 0)) };
}

/** A dialog with the lag of one consumer over the last hour, or day. */
function Lag({ consumer, title, onClose }) {
  const [span, setSpan] = useState("hour");
  const [data, error, again] = useLoaded((abort) => loadLag(consumer, span, abort), { every: 10, on: [span] });
  return html`<${Dialog} title=${`Lag of ${title}`} onClose=${onClose} wide>
    <div class="row choices" role="group" aria-label="Time that is shown">${["hour", "day"].map((name) =>
      html`<button type="button" key=${name} class="button tiny" aria-pressed=${span === name} onClick=${() => setSpan(name)}>Last ${name}
        </button>`)}</div>
    <${Problem} error=${error} retry=${again} />
    ${data ? html`<${Plot} title=${`Lag of ${title}, in events`} unit=${COUNT} from=${data.from} step=${data.step} fold="highest" level=${3}
      series=${[{ label: "events", values: data.values }]} />` : !error && html`<${Loading} />`}<//>`;
}

function Where({ consumer }) {
  const { pending, out, parked, kind } = consumer;
  const again = `${number(parked)} to be tried again`;
  const home = { id: consumer.bucket_id, name: consumer.bucket_name };
  return html`<span class="mono">${consumer.floor}</span>${pending > 0 && html`<div class="soft small">${
      consumer.oldest && html`<${Oldest} consumer=${consumer} />, `}${out > 0 && `${number(out)} ${kind === "output" ? "being sent" : "not answered yet"}, `}${
      parked > 0 && html`${kind === "output" ? html`<a href=${bucketLink(home, { delivery: "stalled" })}>${again}</a>` : again}, `}changed <${
      Time} at=${consumer.updated_at} /></div>`}
    ${consumer.gaps && html`<div class="small"><${Badge} kind="warn">missed events<//> <span class="soft">${
      number(consumer.gaps.times)} times, noticed <${Time} at=${consumer.gaps.at} /></span></div>`}`;
}

/** What it does now: who is connected, and of an output, which the relay itself sends to, whether it may. */
function Now({ consumer, bucket }) {
  if (consumer.kind !== "output") {
    return consumer.connections ? html`<${Badge} kind="good">${number(consumer.connections)} connected<//>` : html`<${Badge}>away<//>`;
  }
  const output = outputOf(consumer, bucket);
  if (!output) return html`<span class="soft">–</span>`;
  const still = output.disabled ? "disabled" : output.paused ? "paused" : consumer.circuit ? html`<${Circuit} circuit=${consumer.circuit} />`
    : consumer.parked ? "trying again" : "";
  return html`<${Badge} kind=${still ? "warn" : "good"}>${still || "sending"}<//>`;
}

function Consumer({ consumer, bucket, title, bucketToo, act }) {
  const behind = consumer.lag.events;
  const home = { id: consumer.bucket_id, name: consumer.bucket_name };
  return html`<tr>
    <td class="name"><div><b>${consumer.kind === "output" ? html`<a href=${bucketLink(home, "outputs")}>${title}</a>` : title}</b> <${Badge}>${consumer.kind}<//></div>
      <div class="soft small">${ACKS[consumer.ack] ?? consumer.ack}${consumer.max_deliver ? `, tries: ${number(consumer.max_deliver)} at most` : ""}
        </div></td>
    ${bucketToo && html`<td class="name" data-label="Bucket"><a href=${bucketLink(home, "consumers")}>${consumer.bucket_name}</a>
      </td>`}
    <td data-label="Now"><${Now} consumer=${consumer} bucket=${bucket} /></td>
    <td data-label="Done up to"><${Where} consumer=${consumer} /></td>
    <td class="num" data-label="Behind">${behind ? html`<b>${number(behind)}</b>` : html`<span class="soft">0</span>`}</td>
    <td class="num" data-label="Waiting">${behind ? duration(consumer.lag.seconds) : html`<span class="soft">–</span>`}</td>
    <td class="num" data-label="Dead">${consumer.dead ? html`<button type="button" class="button tiny danger" aria-label=${`Dead letters of ${title}: ${consumer.dead}`}
      onClick=${() => act("dead")}>${number(consumer.dead)}</button>` : html`<span class="soft">0</span>`}</td>
    <td class="acts"><div class="row">
      <button type="button" class="button tiny" aria-label=${`Lag of ${title} over time`} onClick=${() => act("lag")}>Lag…</button>
      <button type="button" class="button tiny" aria-label=${`Move ${title}`} onClick=${() => act("seek")}>Move…</button>
      ${consumer.ack !== "receipt" && triesOf(consumer) && html`<button type="button" class="button tiny danger" aria-label=${
        `Give up the oldest event of ${title}`} onClick=${() => act("give up")}>Give up…</button>`}
      ${consumer.kind === "client" && html`<button type="button" class="button tiny danger" aria-label=${`Delete ${title}`}
        onClick=${() => act("delete")}>Delete…</button>`}</div></td>
  </tr>`;
}

const bySlowness = (a, b) => b.lag.events - a.lag.events || a.bucket_name.localeCompare(b.bucket_name) || a.name.localeCompare(b.name);

const keyOf = ({ bucket_id, kind, name }) => `${bucket_id} ${kind} ${name}`;

/** Asks whether the oldest event of a consumer is to be given up. `onDone` is called once it is. */
function GiveUp({ consumer, title, onDone, onClose }) {
  const { id, out } = consumer.oldest;
  const giveUp = async () => {
    await post(consumerPath(consumer, "dead"), { id });
    tell(`${id} is a dead letter of ${title}`);
    onDone();
  };
  return html`<${Confirm} title="Give up the oldest event?" action="Give up" onConfirm=${giveUp} onClose=${onClose}>
    The oldest event that ${title} is not done with is <a href=${link("/events", id)}>${id}</a>, ${triesOf(consumer)}. Given up, it is a dead
    letter, which can be sent again. No other event is affected.${out && " It is in flight: if this try succeeds, it is done after all."}<//>`;
}

/** A table of consumers as REST has them, the slowest first. `buckets` and `tokens` are for their names; `again` loads anew what was changed. */
export function ConsumerTable({ consumers, buckets = [], tokens, bucketToo = false, again }) {
  const [action, setAction] = useState(null);
  const bucketOf = (consumer) => buckets.find(({ id }) => id === consumer.bucket_id);
  const titled = (consumer) => called(consumer, bucketOf(consumer), tokens);
  const close = () => setAction(null);
  const title = action && titled(action.consumer);
  // It goes on while one chooses where to move it.
  const asItIs = (consumer) => consumers.find((each) => keyOf(each) === keyOf(consumer)) ?? consumer;
  const drop = async () => {
    await remove(consumerPath(action.consumer));
    tell(`${title} deleted`);
    again();
  };
  return html`<${Table} label="Consumers" kind="consumers stacks" columns=${[["Consumer"], bucketToo && ["Bucket"], ["Now"], ["Done up to"],
    ["Behind", "num"], ["Waiting", "num"], ["Dead", "num"], ["Actions", "acts"]]}>${consumers.toSorted(bySlowness).map((consumer) => html`<${Consumer} key=${keyOf(consumer)} consumer=${consumer} bucket=${bucketOf(consumer)} title=${titled(consumer)} bucketToo=${
        bucketToo} act=${(what) => setAction({ what, consumer })} />`)}<//>
    ${action?.what === "lag" && html`<${Lag} consumer=${action.consumer} title=${title} onClose=${close} />`}
    ${action?.what === "seek" && html`<${Seek} consumer=${asItIs(action.consumer)} title=${title} onMoved=${again} onClose=${close} />`}
    ${action?.what === "give up" && html`<${GiveUp} consumer=${action.consumer} title=${title} onDone=${again} onClose=${close} />`}
    ${action?.what === "dead" && html`<${DeadLetters} consumer=${action.consumer} title=${title} onChanged=${again} onClose=${close} />`}
    ${action?.what === "delete" && html`<${Confirm} title=${`Delete the consumer ${title}?`} action="Delete" typed=${action.consumer.name}
      onConfirm=${drop} onClose=${close}>
      Its position and its ${
        number(action.consumer.dead)} dead letters are forgotten. A client that subscribes with this name again begins anew.<//>`}`;
}

/** The consumers of one bucket: its document as REST has it, or its name. They are looked at again every few seconds. */
export function Consumers({ bucket }) {
  const id = bucket.id ?? bucket;
  const [consumers, error, again] = useLoaded((abort) => get(v1("buckets", id, "consumers"), {}, abort), { every: EVERY, on: [id] });
  const [, tokens] = useNames(consumers?.filter(({ kind }) => kind === "token"));
  const [loaded] = useLoaded(async (abort) => (bucket.id ? bucket : get(v1("buckets", id), {}, abort)), { on: [bucket] });
  return html`<${Problem} error=${error} retry=${again} />
    ${!consumers && !error && html`<${Loading} />`}
    ${consumers?.length === 0 && html`<${Empty} title="No consumers">
      <p>The relay keeps no position in this bucket. It does for clients that subscribe with <code>"consumer": "NAME"</code>,
        for durable tokens, and for public outputs.</p><//>`}
    ${consumers && loaded?.ephemeral && html`<${StayBehind} consumers=${consumers} />`}
    ${consumers?.length > 0 && html`<${ConsumerTable} consumers=${consumers} buckets=${loaded ? [loaded] : []} tokens=${tokens}
      again=${again} />`}`;
}
