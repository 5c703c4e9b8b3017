// The dialog that makes a bucket: a name is enough.
import { html, useLayoutEffect } from "../lib.js";
import { get, post } from "../api.js";
import { Dialog, Field, Loading, Problem, focusField, tell, useLoaded } from "../parts/basic.js";
import { Check, Moment, More } from "../parts/fields.js";
import { FormFoot, useForm } from "../parts/form.js";
import { BodySize, Rate, Repeats, Retention, SenderAuth, bucketChanges, newBucketValues } from "./bucketform.js";

function Fields({ plan, onMade, onClose }) {
  const form = useForm("bucket/new", newBucketValues(plan), { conflict: "name" });
  const ephemeral = form.values.ephemeral;
  const make = () => post("/v1/buckets", { name: form.values.name, ...bucketChanges(form) });
  const made = (bucket) => (form.element.current ? onMade(bucket) : tell(`${bucket.name} is made`));
  useLayoutEffect(() => focusField(form.element.current), []);
  const more = Object.keys(form.patch).some((name) => !["name", "description"].includes(name));
  return html`<form ref=${form.element} onSubmit=${form.submit(make, made)}>
    <${Field} label="Name" required maxlength="100" autocomplete="off" spellcheck=${false} hint="Clients subscribe by it."
        ...${form.bind("name")} />
    <${Field} label="Description" autocomplete="off" ...${form.bind("description")} />
    <${More} title="More options" open=${more}>
      <${Check} label="Ephemeral" hint="Content is never stored: events reach who is connected, and nobody later." ...${form.check("ephemeral")} />
      ${!ephemeral && html`<${Retention} form=${form} />`}
      <${SenderAuth} form=${form} secrets=${true} />
      <${Repeats} form=${form} /><${Rate} form=${form} what="bucket" /><${BodySize} form=${form} plan=${plan} />
      <${Moment} label="Expires" hint="Then it is deleted, with everything in it." ...${form.part("expires_at")} />
    <//>
    <${FormFoot} form=${form} action="Make the bucket" onCancel=${onClose} />
  </form>`;
}

/** `onMade` gets the bucket's document. */
export function NewBucket({ onMade, onClose }) {
  const [usage, error, again] = useLoaded((abort) => get("/v1/usage", {}, abort));
  return html`<${Dialog} title="New bucket" onClose=${onClose}>
    ${usage ? html`<${Fields} plan=${usage.plan_meta} onMade=${onMade} onClose=${onClose} />` : error ? html`<${Problem} error=${error} retry=${again} />` : html`<${Loading} />`}
  <//>`;
}
