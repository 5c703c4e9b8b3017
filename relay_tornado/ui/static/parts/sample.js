// Sending a test event: a sample of a provider's webhooks, signed where the input has a secret.
import { html, useState } from "../lib.js";
import { get, post, v1 } from "../api.js";
import { Button, Dialog, Field, Loading, Problem, tell, useAttempt, useLoaded } from "./basic.js";

/** The dialog. */
export function SendSample({ bucket, onClose }) {
  const [samples, problem, again] = useLoaded((signal) => get("/v1/samples", undefined, signal));
  const [chosen, setChosen] = useState("");
  const [input, setInput] = useState(bucket.inputs[0]?.id ?? "");
  const providers = [...new Set((samples ?? []).map((each) => each.provider))];
  const key = ({ provider, event }) => JSON.stringify([provider, event]);
  // The samples of the provider that the input expects come first to mind.
  const expected = bucket.inputs.find((each) => each.id === input)?.verify?.provider;
  const first = samples?.find((each) => each.provider === expected) ?? samples?.[0];
  const now = chosen || (first ? key(first) : "");
  const [error, send] = useAttempt(async () => {
    const [provider, name] = JSON.parse(now);
    const { id, signed } = await post(v1("buckets", bucket.id, "samples"), { provider, event: name, input });
    tell(`Sent as ${id}${signed ? ", signed" : ", not signed: the input has no secret of this provider"}`);
  }, onClose);
  return html`<${Dialog} title="Send a test event" onClose=${onClose}>
    <${Problem} error=${problem ?? error} retry=${problem && again} />
    ${!samples && !problem && html`<${Loading} />`}
    ${samples && html`<${Field} as="select" label="Sample" value=${now} onChange=${(event) => setChosen(event.target.value)}>
      ${providers.map((provider) => html`<optgroup label=${provider} key=${provider}>
      ${samples.filter((each) => each.provider === provider).map((each) => html`<option value=${key(each)} key=${key(each)}>
        ${each.title ?? each.event}</option>`)}</optgroup>`)}<//>
    <${Field} as="select" label="Input" hint="The sample is signed where the input checks this provider's signatures." value=${input}
      onChange=${(event) => setInput(event.target.value)}>${bucket.inputs.map((each) => html`<option value=${each.id} key=${each.id}>
        ${each.name}${each.verify ? `, checks ${each.verify.provider}` : ""}</option>`)}<//>`}
    <div class="row"><span class="grow"></span><${Button} onPress=${onClose}>Cancel<//><${Button} kind="first"
      disabled=${!now} onPress=${send}>Send<//></div>
  <//>`;
}
