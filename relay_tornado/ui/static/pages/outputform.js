// The dialog that makes or changes an output.
import { html } from "../lib.js";
import { ApiError, post, put, session, v1 } from "../api.js";
import { Dialog, Field } from "../parts/basic.js";
import { Amount, Check, Choice, More, Pairs, Secret, Section, fromPairs, random, toPairs } from "../parts/fields.js";
import { FormFoot, touches, useForm } from "../parts/form.js";
import { Rules, readRules } from "../parts/rules.js";
import { Durability, Throttle, durabilityDocument, durabilityValues, throttleDocument, throttleValues } from "./outputpace.js";

const NEW = {
  name: "", description: "", destination: "", internal: true, disabled: false, lock_path: false, timeout: 10, retries: 0, tls_verification: true,
  headers: {}, rules: null, throttle: null, durability: null, strict_order: false, secret: "", paused: false,
};

/** What is taken over from the document as it is. */
const PLAIN = [
  "name", "description", "destination", "internal", "disabled", "lock_path", "timeout", "retries", "tls_verification", "rules", "strict_order",
  "secret", "paused",
];

/** What an output's draft is called. */
export const outputKey = (bucket, output) => `${bucket.id}/outputs/${output?.id ?? "new"}`;

function outputValues(output) {
  const values = { headers: toPairs(output.headers), ...throttleValues(output.throttle), ...durabilityValues(output.durability) };
  for (const name of PLAIN) values[name] = output[name];
  return values;
}

function outputChanges({ patch, values }, before) {
  const changes = {};
  for (const name of PLAIN) if (name in patch) changes[name] = values[name];
  if (values.internal) delete changes.paused;
  if (patch.headers) changes.headers = fromPairs(values.headers);
  if (typeof changes.rules?.text === "string") {
    const { document, wrong } = readRules(changes.rules.text);
    if (wrong) throw new ApiError(400, { field: "rules", message: wrong });
    changes.rules = document;
  }
  if (touches(patch, "throttle")) changes.throttle = throttleDocument(values, before.throttle);
  if (touches(patch, "durability")) changes.durability = durabilityDocument(values, before.durability);
  return changes;
}

function Destination({ form, was }) {
  const { internal } = form.values;
  return html`<${Choice} label="Who sends the events on" value=${internal} onValue=${(value) => form.set("internal", value)}
      wrong=${form.wrong("internal")} options=${[
      [true, "A connected client", "internal: it reaches what this relay can't"],
      [false, "This relay", "public: the destination is on the internet"]]} />
    ${was && internal && html`<p class="note warn small">The relay then forgets this output's position and its dead letters.</p>`}
    <${Field} label="Destination" type="url" required=${!internal} autocomplete="off" spellcheck=${false}
        placeholder=${internal ? "http://localhost:3000/hook" : "https://shop.example.org/hook"}
      hint=${internal ? "Clients are told this URL, and may send the events elsewhere." : ""} ...${form.bind("destination")} />
    <${Check} label="Lock the path" hint="What follows the input in the URL is not appended to the destination's path."
        ...${form.check("lock_path")} />`;
}

/** What only counts where the relay itself sends. */
function Forwarding({ form }) {
  const durability = form.values["durability.schedule"];
  return html`<${Section} title="When a try fails" hint="Three tries come first, 1 s and 3 s apart.">
      <${Durability} form=${form} />
      ${!durability && html`<${Amount} label="Tries beyond these"
          hint="10 s, 20 s, 40 s … 15 minutes apart. -1: one try in all." ...${form.part("retries")}
          min="-1" max="1000" />`}
      <${Check} label="Strict order" hint="No later event is sent before a failed one is delivered or given up."
        ...${form.check("strict_order")} /><//>
    <${Section} title="How fast"><${Throttle} form=${form} /><//>
    <${Section} title="Signature"><${Secret} label="Secret" make=${() => `whsec_${random(24)}`} placeholder="whsec_…, empty: not signed"
      hint=${session.value.administrator ? "Requests are signed by it as Standard Webhooks has it." : "Your token may not see one that is set."}
          ...${form.part("secret")} /><//>`;
}

/** `output` is null for a new one; `onSaved` gets the output's document. */
export function OutputDialog({ output, bucket, onSaved, onClose }) {
  const before = output ?? NEW;
  const form = useForm(outputKey(bucket, output), outputValues(before));
  const path = v1("buckets", bucket.id, "outputs", ...(output ? [output.id] : []));
  const save = async () => (output ? put : post)(path, outputChanges(form, before));
  const forwards = !form.values.internal;
  const special = !form.values.tls_verification || form.values.headers.length > 0 || form.values.timeout !== 10;
  return html`<${Dialog} title=${output ? `Output ${output.name}` : "New output"} wide onClose=${onClose}>
    <form ref=${form.element} onSubmit=${form.submit(save, onSaved, onClose)}>
      <div class="duo"><${Field} label="Name" maxlength="2100" autocomplete="off" placeholder="a number, if empty" ...${form.bind("name")} />
        <${Field} label="Description" autocomplete="off" ...${form.bind("description")} /></div>
      <${Destination} form=${form} was=${output && !output.internal} />
      <${Rules} form=${form} />
      ${forwards && html`<${Forwarding} form=${form} />`}
      <${More} title="The request" open=${special}>
        <${Amount} label="Time for one try, in seconds" whole=${false} ...${form.part("timeout")} max="180" />
        <${Pairs} label="Headers that come instead of the sender's" ...${form.part("headers")} />
        <${Check} label="Check the destination's certificate" ...${form.check("tls_verification")} /><//>
      <${Check} label="Disabled" hint="No event goes there." ...${form.check("disabled")} />
      ${forwards && !output && html`<${Check} label="Paused" hint="Nothing is sent until it is resumed; its position stays."
          ...${form.check("paused")} />`}
      <${FormFoot} form=${form} action=${output ? "Save" : "Make the output"} onCancel=${onClose} />
    </form>
  <//>`;
}
