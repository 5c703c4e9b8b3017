// The outputs of a bucket: where its events go, by whom, by which rules, and how far each public one is.
import { html, useState } from "../lib.js";
import { get, put, remove, v1 } from "../api.js";
import { Badge, Button, Confirm, Empty, Problem, counted, duration, number, tell, useLoaded } from "../parts/basic.js";
import { DeadLetters } from "../parts/dead.js";
import { unsaved } from "../parts/form.js";
import { bucketLink } from "../parts/names.js";
import { Circuit, Oldest } from "../parts/oldest.js";
import { inWords } from "../parts/rules.js";
import { Seek } from "../parts/seek.js";
import { OutputDialog, outputKey } from "./outputform.js";

const SCHEDULES = { seconds: "for 25 minutes", medium: "for 16 hours", long: "for 30 days", custom: "at times of its own" };

/** What a public output does where a try fails, and how fast it goes, in words. */
function terms({ retries, durability, throttle, strict_order: strict }) {
  const said = [];
  if (durability?.enabled) said.push(`tries again ${SCHEDULES[durability.schedule] ?? SCHEDULES.seconds}`);
  else said.push(retries < 0 ? "one try" : retries ? `three tries and ${number(retries)} more` : "three tries");
  if (strict) said.push("strict order");
  if (throttle?.enabled && throttle.mode === "concurrency") said.push(`${number(throttle.max_concurrent || 1)} at once`);
  else if (throttle?.enabled && throttle.rate) said.push(`at most ${number(throttle.rate)} a ${throttle.interval || "second"}`);
  return said.join(", ");
}

function State({ output, consumer }) {
  const paused = output.paused && !output.internal;
  return html`${output.disabled_reason ? html`<${Badge} kind="bad">disabled by the relay<//>` : output.disabled && html`<${Badge}
    kind="warn">disabled<//>`}${paused ? html`<${Badge} kind="warn">paused<//>`
    : !output.disabled && consumer?.circuit ? html`<${Badge} kind="warn"><${Circuit} circuit=${consumer.circuit} /><//>`
      : !output.disabled && consumer?.parked > 0 && html`<${Badge} kind="warn">trying again<//>`}`;
}

/** How far a public output is. `act` opens what can be done about it. */
function Position({ consumer, bucket, title, act }) {
  if (!consumer) return null;
  const { lag, floor, parked, dead } = consumer;
  return html`<div class="row small">
    <span>${lag.events ? html`<b>${number(lag.events)} behind</b>, for ${duration(lag.seconds)}` : "Up to date"}</span>
    <span class="soft">done up to <code>${floor}</code>${parked > 0 && html`, <a href=${bucketLink(bucket, { delivery: "stalled" })}>${
      number(parked)} to be tried again</a>`}${consumer.oldest && html`, <${Oldest} consumer=${consumer} />`}</span>
    <button type="button" class="button tiny" aria-label=${`Move ${title}`} onClick=${() => act("seek")}>Move…</button>
    ${dead > 0 && html`<button type="button" class="button tiny danger"
        onClick=${() => act("dead")}>${counted(dead, "dead letter")}</button>`}</div>`;
}

function Output({ output, bucket, consumer, act, changed }) {
  const { name, internal, destination, paused } = output;
  // What the relay answers counts: somebody else may have changed the rest meanwhile.
  const pause = async () => {
    const { disabled } = await put(v1("buckets", bucket.id, "outputs", output.id), { paused: !paused });
    if (paused && disabled) tell(`${name} resumed, but it is disabled: nothing goes there until it is enabled`, "bad");
    else tell(paused ? `${name} resumed` : `${name} paused`);
    changed();
  };
  const enable = async () => {
    const answer = await put(v1("buckets", bucket.id, "outputs", output.id), { disabled: false });
    if (answer.paused) tell(`${name} enabled, but it is paused: nothing goes there until it is resumed`, "bad");
    else tell(`${name} enabled`);
    changed();
  };
  return html`<li class="card stack item"><div class="head"><div class="row grow"><span class="soft num"
      title="Its number in the bucket">${output.number}</span><h2>${name}</h2>
        <${Badge} kind=${internal ? "" : "accent"}>${internal ? "internal" : "public"}<//><${State} output=${output} consumer=${consumer} />
        ${!internal && output.secret && html`<${Badge}>signed<//>`}${unsaved(outputKey(bucket, output)) && html`<${Badge}
            kind="warn">not saved<//>`}</div>
      <div class="row">${output.disabled && html`<${Button} kind="tiny" aria-label=${`Enable ${name}`} onPress=${enable}>Enable<//>`}
        ${!internal && !output.disabled && html`<${Button} kind="tiny" aria-label=${`${paused ? "Resume" : "Pause"} ${name}`}
            onPress=${pause}>${paused ? "Resume" : "Pause"}<//>`}
        <${Button} kind="tiny" aria-label=${`Edit ${name}`} onPress=${() => act("edit")}>Edit<//>
        <${Button} kind="tiny danger" aria-label=${`Delete ${name}`} onPress=${() => act("delete")}>Delete<//></div></div>
    ${output.description && html`<p class="soft lines">${output.description}</p>`}
    ${output.disabled_reason && html`<p class="note bad small">${output.disabled_reason}</p>`}
    <p class="mono wrap">${destination || html`<span class="soft">no destination: the client has its own</span>`}</p>
    <p class="soft small wrap">${inWords(output.rules)}${internal ? "" : ` · ${terms(output)}`}</p>
    ${!internal && html`<${Position} consumer=${consumer} bucket=${bucket} title=${name} act=${act} />`}
  </li>`;
}

/** Who gets events in this bucket at all, as its outputs are. */
function Who({ bucket }) {
  const internal = bucket.outputs.filter((output) => output.internal && !output.disabled).length;
  if (!internal) return html`<p class="note small">This bucket has public outputs only, so nothing goes over WebSockets.</p>`;
  return internal > 1 ? html`<p class="soft small">Clients get each event once for every enabled internal output whose rules match.</p>` : null;
}

export default function Outputs({ bucket, changed }) {
  const [action, setAction] = useState(null);
  const forwards = bucket.outputs.some(({ internal }) => !internal) && !bucket.ephemeral;
  const load = async (abort) => (forwards ? get(v1("buckets", bucket.id, "consumers"), {}, abort) : []);
  const [consumers, error, again] = useLoaded(load, { every: 5, on: [bucket.id, forwards] });
  const close = () => setAction(null);
  const consumerOf = ({ number: n }) => consumers?.find(({ kind, name }) => kind === "output" && name === String(n));
  const { what, output } = action ?? {};
  // Somebody else may delete the output meanwhile: then its dialog says so, by what the relay answers.
  const consumer = action && (consumerOf(output ?? {}) ?? action.consumer);
  const answering = what === "delete" ? bucket.inputs.filter((each) => each.response_from_output === output.id) : [];
  const drop = async () => {
    await remove(v1("buckets", bucket.id, "outputs", output.id));
    tell(`${output.name} deleted`);
    changed();
  };
  return html`<div class="head"><p class="soft">Where events leave: through a connected client, or sent by this relay.</p>
      <${Button} kind="first" onPress=${() => setAction({ what: "edit", output: null })}>New output<//></div>
    <${Problem} error=${error} retry=${again} />
    ${bucket.outputs.length ? html`<${Who} bucket=${bucket} /><ul class="items">${bucket.outputs.map((each) => html`<${Output} key=${each.id}
        output=${each} bucket=${bucket}
        consumer=${consumerOf(each)} changed=${changed} act=${(name) => setAction({ what: name, output: each, consumer: consumerOf(each) })} />`)}</ul>`
      : html`<${Empty} title="No output">
        <p>Clients that subscribe get each event once.
          Outputs say where a client takes it, which events go there, or that the relay itself sends them on.</p><//>`}
    ${what === "edit" && html`<${OutputDialog} output=${output} bucket=${bucket} onClose=${close} onSaved=${(saved) => {
      tell(`${saved.name} saved`);
      changed();
      again();
    }} />`}
    ${what === "seek" && html`<${Seek} consumer=${consumer} title=${output.name} onMoved=${again} onClose=${close} />`}
    ${what === "dead" && html`<${DeadLetters} consumer=${consumer} title=${output.name} onChanged=${again} onClose=${close} />`}
    ${what === "delete" && html`<${Confirm} title=${`Delete the output ${output.name}?`} action="Delete the output" onConfirm=${drop}
        onClose=${close}>
      ${output.internal ? "Clients get no copies for it any more." : "Its position and its dead letters are forgotten."}
      ${" "}Its number is not given again.
      ${answering.map(({ id, name }) => html` <span key=${id}>Senders of ${name} get the input's own answer then.</span>`)}<//>`}`;
}
