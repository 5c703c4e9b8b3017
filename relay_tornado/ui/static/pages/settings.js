// A bucket's settings, and its end.
import { html, useState } from "../lib.js";
import { get, put, remove, session, v1 } from "../api.js";
import { Button, Confirm, Field, Problem, Time, counted, number, tell, useLoaded } from "../parts/basic.js";
import { Check, Moment, Section } from "../parts/fields.js";
import { FormFoot, useForm } from "../parts/form.js";
import { bucketLink } from "../parts/names.js";
import { StayBehind } from "../parts/staybehind.js";
import { go, link, staying } from "../router.js";
import { BodySize, Rate, Repeats, Retention, SenderAuth, bucketChanges, bucketValues } from "./bucketform.js";

/** When the bucket is deleted by itself, and the button that keeps it. */
function End({ bucket, form, changed }) {
  const keep = async () => {
    await put(v1("buckets", bucket.id), { expires_at: null });
    form.set("expires_at", form.values.expires_at === bucket.expires_at ? null : form.values.expires_at);
    tell(`${bucket.name} is kept`);
    changed();
  };
  return html`<${Section} title="Expiry">
    ${bucket.expires_at && html`<div class="note warn row"><span class="grow">This bucket is deleted <${Time}
        at=${bucket.expires_at} />, with everything in it.</span><${Button} kind="tiny" onPress=${keep}>Keep it<//></div>`}
    <${Moment} label="Expires" hint="Then it is deleted, with everything in it." ...${form.part("expires_at")} />
  <//>`;
}

/** Whom it would keep out to make the bucket ephemeral. */
function KeptOut({ bucket }) {
  const [consumers, error, again] = useLoaded((abort) => get(v1("buckets", bucket.id, "consumers"), {}, abort));
  return html`<${Problem} error=${error} retry=${again} />${consumers && html`<${StayBehind} consumers=${consumers} />`}`;
}

function Form({ bucket, changed }) {
  const [usage] = useLoaded((abort) => get("/v1/usage", {}, abort));
  const form = useForm(`${bucket.id}/settings`, bucketValues(bucket), { conflict: "name" });
  const { administrator } = session.value;
  const save = () => put(v1("buckets", bucket.id), bucketChanges(form));
  const saved = (document) => {
    tell("Settings saved");
    if (document.name !== bucket.name && form.element.current) go(bucketLink(document, "settings"), { replace: true });
    changed();
  };
  return html`<form ref=${form.element} class="card stack settings" onSubmit=${form.submit(save, saved)}>
    <${Section} title="The bucket">
      <${Field} label="Name" required maxlength="100" autocomplete="off" spellcheck=${false} disabled=${!administrator}
        hint=${administrator ? "Clients subscribe by it: those that use the old name get nothing any more."
          : "Only an administrator's token changes it."}
        ...${form.bind("name")} />
      <${Field} label="Description" as="textarea" rows="2" class="words" ...${form.bind("description")} />
      <${Check} label="Stream" hint="Off: nothing goes over WebSockets. Events are stored, and public outputs get them." ...${form.check("stream")} />
      <${Check} label="Ephemeral" hint="Content is not stored: events reach who is connected, and nobody later." ...${form.check("ephemeral")} />
      ${form.values.ephemeral && !bucket.ephemeral && html`<${KeptOut} bucket=${bucket} />`}<//>
    ${!form.values.ephemeral && html`<${Retention} form=${form} />`}
    <${SenderAuth} form=${form} secrets=${administrator} /><${Repeats} form=${form} />
    <${Rate} form=${form} what="bucket" /><${BodySize} form=${form} plan=${usage?.plan_meta} />
    <${End} bucket=${bucket} form=${form} changed=${changed} />
    <div class="save-bar"><${FormFoot} form=${form} action="Save" /></div>
  </form>`;
}

function Deletion({ bucket }) {
  const [asking, setAsking] = useState(false);
  const [status, error] = useLoaded((abort) => (asking ? get("/v1/status", {}, abort) : null), { on: [asking] });
  const events = status?.buckets.find(({ id }) => id === bucket.id)?.events;
  const drop = async () => {
    const stays = staying();
    await remove(v1("buckets", bucket.id), { force: true });
    tell(`${bucket.name} deleted`);
    if (stays()) go(link("/"), { replace: true });
  };
  const { inputs, outputs } = bucket;
  return html`<section class="card row danger-zone"><div class="grow"><h2>Delete this bucket</h2>
    <p class="soft small">Its events, inputs, outputs and consumers go with it. It can't be taken back.</p></div>
    <${Button} kind="danger" onPress=${() => setAsking(true)}>Delete the bucket…<//>
    ${asking && html`<${Confirm} title=${`Delete ${bucket.name}?`} action="Delete the bucket" typed=${bucket.name} onConfirm=${drop}
        onClose=${() => setAsking(false)}>
      <div class="stack"><${Problem}
          error=${error} />
        <p>${events == null ? "Every event in it" : html`<b>${number(events)}</b> ${events === 1 ? "event" : "events"}`}, ${counted(inputs.length, "input")}
          ${" "}and ${counted(outputs.length, "output")} are deleted. Senders get a 404.</p></div><//>`}
  </section>`;
}

export default function Settings({ bucket, changed }) {
  return html`<${Form} bucket=${bucket} changed=${changed} /><${Deletion} bucket=${bucket} />`;
}
