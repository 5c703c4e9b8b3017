// Sending again: one event, a selection or a range; to subscribers, an output, a consumer or a URL.
import { html, useEffect, useRef, useState } from "../lib.js";
import { get, v1 } from "../api.js";
import { sendAgain, seqOf } from "../event/sending.js";
import { link } from "../router.js";
import { Badge, Button, Dialog, Field, Problem, duration, number, tell, useLoaded } from "./basic.js";
import { called, reference } from "./called.js";
import { Answer } from "./deliveries.js";

function Choice({ kind, now, onKind, title, children }) {
  return html`<div class="choice"><label class="row"><input type="radio" name="target" value=${kind} checked=${kind === now}
    onChange=${() => onKind(kind)} /><span>${title}</span></label>
    ${kind === now && children && html`<div class="stack choice-more">${children}</div>`}</div>`;
}

/** A press within so many milliseconds and pixels of another one is its double click. */
const DOUBLE = 500;
const SLIP = 8;

/** Whether a press is the second one of a double click, which is none: what it meets was somewhere else before the first. Where it meets another
 *  element, only Chromium counts it as a second one. */
const isSecond = (press, first) => press.detail > 1 || (press.detail > 0 && first !== null && press.timeStamp - first.timeStamp < DOUBLE
  && Math.hypot(press.clientX - first.clientX, press.clientY - first.clientY) < SLIP);

/** How far it is, and what came of it. */
function Progress({ state, running, problem, onStop }) {
  const copy = !running && state.total === 1 && state.copy;
  const failed = state.failed.length ? `, ${number(state.failed.length)} not` : "";
  const share = state.total ? state.done / state.total : 1;
  return html`<div class="stack">
    <progress max="1" value=${share} aria-label="Sent so far"></progress>
    <div class="row"><span class="grow" role="status">
      ${number(state.done)} of ${number(state.total)} done, ${number(state.sent)} sent${failed}${running ? "" : problem ? ". Stopped." : "."}${
        problem === "stopped" ? " What was on its way may have been sent." : ""}${
        copy && html` <a href=${link("/events", copy)}>Look at the copy</a>`}</span>
      ${running && html`<button type="button" class="button danger" onClick=${onStop}>Stop</button>`}</div>
    ${problem && problem !== "stopped" && html`<${Problem} error=${problem} />`}
    ${state.failed.length > 0 && html`<ul class="note warn small failures">
      ${state.failed.slice(0, 50).map(({ id, message }, index) => html`<li key=${index}><code>${id}</code> ${message}</li>`)}
      ${state.failed.length > 50 && html`<li>and ${number(state.failed.length - 50)} more</li>`}</ul>`}
    ${!running && state.total === 1 && state.answer && html`<div class="stack"><p class="row"><span>Answer</span><${Badge}
      kind=${state.answer.status_code < 400 ? "good" : "bad"}>${state.answer.status_code}<//><span class="soft small">
        ${duration(state.answer.duration_ms / 1000)}</span></p>
      <${Answer} headers=${state.answer.response_headers} body=${state.answer.response_body} /></div>`}
  </div>`;
}

/** The dialog. `events` are [{id}…], in any order, or `range` is {first, last} to begin with; `output` is the id of the output that is offered first,
 *  if any. */
export function SendAgain({ bucket, events, range, output: wanted = "", onClose }) {
  const [kind, setKind] = useState(wanted ? "output" : "subscribers");
  const [output, setOutput] = useState(wanted || (bucket.outputs[0]?.id ?? ""));
  const [force, setForce] = useState(false);
  const [consumer, setConsumer] = useState("");
  const [url, setUrl] = useState("");
  const [span, setSpan] = useState(range);
  const [run, setRun] = useState(null);
  const abort = useRef(null);
  const pressed = useRef(null);
  const [consumers, problem] = useLoaded(async (signal) => {
    const all = await get(v1("buckets", bucket.id, "consumers"), undefined, signal);
    return all.filter((each) => each.ack !== "receipt");
  });
  const chosen = consumer || (consumers?.length ? reference(consumers[0]) : "");
  useEffect(() => () => abort.current?.abort(), []);

  const press = (event) => {
    if (isSecond(event, pressed.current)) event.preventDefault();
    else pressed.current = event;
  };
  const send = async (event) => {
    event.preventDefault();
    if (run?.running) return;
    const controller = new AbortController();
    abort.current = controller;
    const target = { kind, output, force, consumer: chosen, url };
    const ids = events && [...events].sort((a, b) => seqOf(a.id) - seqOf(b.id)).map((each) => each.id);
    let state = { done: 0, total: ids?.length ?? span.last - span.first + 1, sent: 0, failed: [], answer: null, copy: "" };
    setRun({ state, running: true, problem: null });
    let end = null;
    let shown = 0;
    try {
      for await (state of sendAgain({ bucket, events: ids, range: ids ? null : span, target, abort: controller.signal })) {
        if (controller.signal.aborted) break;
        if (performance.now() - shown < 100) continue;
        shown = performance.now();
        setRun({ state: { ...state }, running: true, problem: null });
      }
    } catch (error) {
      end = error.name === "AbortError" ? "stopped" : error;
    }
    setRun({ state: { ...state }, running: false, problem: end ?? (controller.signal.aborted ? "stopped" : null) });
  };
  const title = events ? (events.length === 1 ? "Send this event again" : `Send ${number(events.length)} events again`) : "Send a range again";
  const wrong = span && span.last < span.first ? "The last one comes before the first." : "";
  const to = bucket.outputs.find((each) => each.id === output);
  const nobody = to?.internal && to.disabled ? "It is disabled: nobody would get a copy." : "";
  const later = !to || to.internal ? "" : to.disabled ? "It is disabled: it gets the copies once it is enabled."
    : to.paused ? "It is paused: it gets the copies once it is resumed." : "";
  const missing = Boolean(wrong) || (kind === "output" && (!output || Boolean(nobody))) || (kind === "consumer" && !chosen) || (kind === "url" && !url);
  const edge = (name, label) => html`<${Field} label=${label} type="number" min="1" step="1" required value=${span[name]}
    wrong=${name === "last" ? wrong : ""} hint=${name === "first" ? "An event's number is the end of its id." : ""}
    onInput=${(event) => setSpan({ ...span, [name]: Number(event.target.value) })} />`;
  // Closed by mistake, it would end somewhere in the middle.
  const close = () => (run?.running ? tell("It is still sending: stop it first.") : onClose());
  return html`<${Dialog} title=${title} onClose=${close}><form onSubmit=${send}>
    ${span && html`<div class="row two">${edge("first", "From number")}${edge("last", "To number")}</div>`}
    <fieldset class="stack" disabled=${run?.running}><legend class="label">To</legend>
      <${Choice} kind="subscribers" now=${kind} onKind=${setKind} title="Subscribers and outputs, as for a new event" />
      ${bucket.outputs.length > 0 && html`<${Choice} kind="output" now=${kind} onKind=${setKind} title="One output">
        <${Field} as="select" label="Output" value=${output} wrong=${nobody} hint=${later}
          onChange=${(event) => setOutput(event.target.value)}>
          ${bucket.outputs.map((each) => html`<option value=${each.id} key=${each.id}>${each.name}</option>`)}<//>
        <label class="row"><input type="checkbox" checked=${force}
          onChange=${(event) => setForce(event.target.checked)} />Whatever its rules say</label><//>`}
      <${Choice} kind="consumer" now=${kind} onKind=${setKind} title="One consumer, which gets the same events again">
        ${problem ? html`<${Problem} error=${problem} />` : consumers && !consumers.length ? html`<p
          class="soft">No consumer of this bucket acks, so none can be given events again.</p>`
          : html`<${Field} as="select" label="Consumer" value=${chosen} onChange=${(event) => setConsumer(event.target.value)}>
            ${(consumers ?? []).map((each) => html`<option value=${reference(each)} key=${reference(each)}>
              ${called(each, bucket)}</option>`)}<//>`}<//>
      <${Choice} kind="url" now=${kind} onKind=${setKind} title="A URL">
        <${Field} label="URL" type="url" required placeholder="https://staging.example.org/hook" value=${url}
          onInput=${(event) => setUrl(event.target.value.trim())} hint="The relay sends it, once, and keeps nothing of the answer." /><//>
    </fieldset>
    ${run && html`<${Progress} ...${run} onStop=${(event) => isSecond(event, pressed.current) || abort.current.abort()} />`}
    <div class="row"><span class="grow"></span>${!run?.running && html`<${Button} onPress=${onClose}>${run ? "Close" : "Cancel"}<//>`}
      <${Button} kind="first" type="submit" disabled=${missing} aria-disabled=${run?.running ? "true" : undefined}
        onPress=${press}>${run ? "Send once more" : "Send"}<//></div>
  </form><//>`;
}
