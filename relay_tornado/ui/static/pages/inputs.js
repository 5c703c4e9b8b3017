// The inputs of a bucket: their URLs, what senders are answered, whose signatures are checked.
import { html, useState } from "../lib.js";
import { remove, v1 } from "../api.js";
import { Badge, Button, Confirm, Empty, duration, number, tell } from "../parts/basic.js";
import { unsaved } from "../parts/form.js";
import { inputUrls } from "../parts/names.js";
import { Address } from "./connect.js";
import { InputDialog, inputKey } from "./inputform.js";

const ANY = "anyOutput";

/** What a sender gets, in a few words. */
function answer(input, outputs) {
  const wanted = input.response_from_output;
  if (!wanted) return `answers ${input.status_code}${input.body ? " with a text" : ""}`;
  const output = outputs.find(({ id }) => id === wanted);
  return wanted === ANY ? "answers what a client answers" : `answers what ${output ? output.name : "an output that is gone"} answers`;
}

function Input({ input, bucket, edit, drop }) {
  const { verify, rate_limit: rate } = input;
  const urls = inputUrls(input);
  const refuses = verify?.on_failure === "reject";
  return html`<li class="card stack item"><div class="head"><div class="row grow"><h2>${input.name}</h2>
        ${verify && html`<${Badge} kind=${refuses ? "good" : "accent"}>${verify.provider}: ${refuses ? "others are refused" : "marked"}<//>`}
        ${rate && html`<${Badge}>${number(rate.events)} in ${duration(rate.interval)}<//>`}
        ${unsaved(inputKey(bucket, input)) && html`<${Badge} kind="warn">not saved<//>`}</div>
      <div class="row"><${Button} kind="tiny" aria-label=${`Edit ${input.name}`} onPress=${edit}>Edit<//>
        <${Button} kind="tiny danger" aria-label=${`Delete ${input.name}`} onPress=${drop}>Delete<//></div></div>
    ${input.description && html`<p class="soft lines">${input.description}</p>`}
    ${urls.map((url) => html`<${Address} key=${url} text=${url} label=${`URL of ${input.name}`} />`)}
    <p class="soft small">It ${answer(input, bucket.outputs)}.</p>
  </li>`;
}

export default function Inputs({ bucket, changed }) {
  const [edited, setEdited] = useState(null);
  const [dropped, setDropped] = useState(null);
  const drop = async () => {
    await remove(v1("buckets", bucket.id, "inputs", dropped.id));
    tell(`${dropped.name} deleted`);
    changed();
  };
  const add = () => setEdited({});
  return html`<div class="head"><p class="soft">Each has a URL of its own. Whoever knows it can send.</p>
    <${Button} kind="first" onPress=${add}>New input<//></div>
    ${bucket.inputs.length ? html`<ul class="items">${bucket.inputs.map((input) => html`<${Input} key=${input.id} input=${input} bucket=${bucket}
        edit=${() => setEdited(input)} drop=${() => setDropped(input)} />`)}</ul>`
      : html`<${Empty} title="No input"><p>Nothing can be sent to this bucket until it has one.</p><//>`}
    ${edited && html`<${InputDialog} input=${edited.id ? edited : null} bucket=${bucket} onClose=${() => setEdited(null)}
      onSaved=${(input) => {
        tell(`${input.name} saved`);
        changed();
      }} />`}
    ${dropped && html`<${Confirm} title=${`Delete the input ${dropped.name}?`} action="Delete the input" onConfirm=${drop}
        onClose=${() => setDropped(null)}>
      Its URL is a 404 from then on: senders that still use it lose what they send. Events that came in stay.<//>`}`;
}
