// The dialog that makes or changes an input.
import { html } from "../lib.js";
import { post, put, session, v1 } from "../api.js";
import { Dialog, Field } from "../parts/basic.js";
import { Amount, Check, Choice, More, Pairs, Secret, Section, fromPairs, random, toPairs, useRows } from "../parts/fields.js";
import { FormFoot, nested, touches, useForm } from "../parts/form.js";
import { Rate, rateDocument } from "./bucketform.js";

const MOST_SECRETS = 10;

const PROVIDERS = [
  ["", "Nobody's"], ["github", "GitHub"], ["gitlab", "GitLab"], ["shopify", "Shopify"], ["slack", "Slack"], ["stripe", "Stripe"],
  ["standard-webhooks", "Standard Webhooks, Svix"],
];

const NEW = {
  name: "", description: "", status_code: 200, body: "", headers: {}, custom_domain: "", path_prefix: "", strip_path_prefix: false,
  response_from_output: "", verify: null, rate_limit: null,
};

/** What an input's draft is called. */
export const inputKey = (bucket, input) => `${bucket.id}/inputs/${input?.id ?? "new"}`;

function inputValues(input) {
  const { verify, rate_limit: rate } = input;
  return {
    id: "", name: input.name, description: input.description, status_code: input.status_code, body: input.body, headers: toPairs(input.headers),
    custom_domain: input.custom_domain, path_prefix: input.path_prefix, strip_path_prefix: input.strip_path_prefix,
    response_from_output: input.response_from_output, "verify.provider": verify?.provider ?? "", "verify.secrets": verify?.secrets ?? [],
    "verify.on_failure": verify?.on_failure ?? "reject", "rate_limit.events": rate?.events ?? null, "rate_limit.interval": rate?.interval ?? 1,
  };
}

function inputChanges({ patch, values }) {
  const changes = nested(patch);
  if (patch.headers) changes.headers = fromPairs(values.headers);
  if (touches(patch, "verify")) {
    const provider = values["verify.provider"];
    const secrets = values["verify.secrets"].filter(Boolean);
    changes.verify = provider ? { provider, secrets, on_failure: values["verify.on_failure"] } : null;
  }
  if (touches(patch, "rate_limit")) changes.rate_limit = rateDocument(values);
  return changes;
}

/** A new secret of the form that the provider wants. */
const makeSecret = (provider) => (provider === "standard-webhooks" ? `whsec_${random(24)}` : random(24));

/** The secrets of which each counts. `kept` are those that the token may not see. */
function Secrets({ form, provider, kept }) {
  const secrets = form.values["verify.secrets"];
  const rows = secrets.length ? secrets : [""];
  const box = useRows(".field", rows.length);
  const put = (index, text) => form.set("verify.secrets", rows.with(index, text));
  // An error names one of the secrets, or is about all of them: then the first one has it.
  const [, bad = "0"] = /^verify\.secrets\[(\d+)\]/.exec(form.field) ?? [];
  const wrong = (index) => (String(index) === bad ? form.wrong("verify.secrets") : "");
  return html`<div class="stack" ref=${box}>${rows.map((secret, index) => html`<${Secret} key=${index} label=${
      rows.length > 1 ? `Secret ${index + 1}` : "Secret"} value=${secret}
        hint=${kept && !index ? "Your token may not see those that are set. Left empty, they stay." : ""}
        wrong=${wrong(index)} onValue=${(text) => put(index, text)} make=${() => makeSecret(provider)}
        onRemove=${rows.length > 1 ? () => form.set("verify.secrets", rows.toSpliced(index, 1)) : null} />`)}
    ${rows.length < MOST_SECRETS && html`<div><button type="button" class="button tiny"
        onClick=${() => form.set("verify.secrets", [...rows, ""])}>Add a secret</button>
      <p class="soft small">To change a secret: add the new one, give it to the sender, then remove the old one. Meanwhile both count.</p></div>`}</div>`;
}

function Signatures({ form, had }) {
  const provider = form.values["verify.provider"];
  const choose = (event) => {
    const chosen = event.target.value;
    form.change({ "verify.provider": chosen, ...(chosen ? {} : { "verify.secrets": [] }) });
  };
  return html`<${Section} title="Signatures">
    <${Field} label="Whose signatures are checked" as="select" ...${form.bind("verify.provider")}
        onInput=${choose}>${PROVIDERS.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}<//>
    ${provider && html`<${Secrets} form=${form} provider=${provider} kept=${had && !session.value.administrator} />
      <${Choice} label="What does not pass" value=${form.values["verify.on_failure"]} onValue=${(value) => form.set("verify.on_failure", value)}
          options=${[
        ["reject", "is refused", "401, and nothing is stored"], ["mark", "is stored, and marked", "clients see the verdict"]]} />`}
  <//>`;
}

function Answer({ form, outputs }) {
  const waits = Boolean(form.values.response_from_output);
  return html`<${Section} title="What senders are answered">
    <${Field} label="The answer comes from" as="select"
        hint=${waits ? "The sender waits up to 10 s for it, then gets a 504. The event is stored in any case." : ""}
        ...${form.bind("response_from_output")}>
      <option value="">This form, at once</option><option value="anyOutput">Any client or output, the first one</option>
      ${outputs.map(({ id, name }) => html`<option key=${id} value=${id}>${name}</option>`)}<//>
    ${!waits && html`<div class="duo"><${Amount} label="Status" ...${form.part("status_code")} min="200" max="599" /></div>
      <${Field} label="Body" as="textarea" rows="3" spellcheck=${false} ...${form.bind("body")} />
      <${Pairs} label="Headers" ...${form.part("headers")} />`}
  <//>`;
}

/** `input` is null for a new one; `onSaved` gets the input's document. */
export function InputDialog({ input, bucket, onSaved, onClose }) {
  const form = useForm(inputKey(bucket, input), inputValues(input ?? NEW));
  const administrator = session.value.administrator;
  const path = v1("buckets", bucket.id, "inputs", ...(input ? [input.id] : []));
  const save = () => (input ? put : post)(path, inputChanges(form));
  const placed = ["id", "custom_domain", "path_prefix"].some((name) => form.values[name]);
  return html`<${Dialog} title=${input ? `Input ${input.name}` : "New input"} onClose=${onClose}>
    <form ref=${form.element} onSubmit=${form.submit(save, onSaved, onClose)}>
      <${Field} label="Name" maxlength="2100" autocomplete="off" placeholder="Public endpoint" ...${form.bind("name")} />
      <${Field} label="Description" autocomplete="off" ...${form.bind("description")} />
      <${Answer} form=${form} outputs=${bucket.outputs} />
      <${Signatures} form=${form} had=${Boolean(input?.verify)} />
      <${Rate} form=${form} what="input" />
      ${administrator && html`<${More} title="A place of its own" open=${placed}>
        ${!input && html`<${Field} label="Id in the URL" autocomplete="off" spellcheck=${false} placeholder="random"
            hint="Letters, digits, - and _. Whoever knows it can send: make it long." ...${form.bind("id")} />`}
        <div class="duo"><${Field} label="Domain" autocomplete="off" spellcheck=${false} placeholder="hooks.example.org"
            ...${form.bind("custom_domain")} />
          <${Field} label="Path prefix" autocomplete="off" spellcheck=${false} placeholder="/shop" ...${form.bind("path_prefix")} /></div>
        <${Check} label="Take the prefix off the event's path" ...${form.check("strip_path_prefix")} /><//>`}
      <${FormFoot} form=${form} action=${input ? "Save" : "Make the input"} always=${!input} onCancel=${onClose} />
    </form>
  <//>`;
}
