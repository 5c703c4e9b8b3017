// What can be said of a bucket: the fields that making one and its settings share.
import { html } from "../lib.js";
import { Field } from "../parts/basic.js";
import { Amount, Check, Choice, SIZES, Secret, Section, TIMES } from "../parts/fields.js";
import { nested, touches } from "../parts/form.js";

const DAY = 86400;

/** A bucket's document as a form's values. */
export function bucketValues(bucket) {
  const { retention, auth, dedupe, rate_limit: rate } = bucket;
  return {
    name: bucket.name, description: bucket.description, stream: bucket.stream, ephemeral: bucket.ephemeral,
    large_webhooks: bucket.large_webhooks, max_body: bucket.max_body, expires_at: bucket.expires_at ?? null,
    "retention.max_age": retention.max_age, "retention.max_events": retention.max_events, "retention.max_bytes": retention.max_bytes,
    "retention.wait_for_consumers": retention.wait_for_consumers, "retention.hard_max_bytes": retention.hard_max_bytes,
    "auth.type": auth.type, "auth.username": auth.username, "auth.password": auth.password, "auth.token": auth.token,
    "dedupe.header": dedupe?.header ?? "", "dedupe.window": dedupe?.window ?? DAY,
    "rate_limit.events": rate?.events ?? null, "rate_limit.interval": rate?.interval ?? 1,
  };
}

/** What a bucket that is not made yet begins with; the limits are those of the relay's settings, from GET /v1/usage. */
export const newBucketValues = (plan) => bucketValues({
  name: "", description: "", stream: true, ephemeral: false, large_webhooks: false, max_body: null, expires_at: null,
  retention: {
    max_age: plan.retention_age, max_events: plan.retention_events, max_bytes: plan.retention_bytes, wait_for_consumers: false, hard_max_bytes: null,
  },
  auth: { type: "none", username: "", password: "", token: "" }, dedupe: null, rate_limit: null,
});

/** The document `rate_limit` from a form's values. */
export function rateDocument(values) {
  const events = values["rate_limit.events"];
  return events == null ? null : { events, interval: values["rate_limit.interval"] ?? 1 };
}

/** What is sent of a form: the fields that differ, and with one part of what is only whole or not there at all the other. */
export function bucketChanges({ patch, values }) {
  const changes = nested(patch);
  if (touches(patch, "dedupe")) {
    const header = values["dedupe.header"].trim();
    changes.dedupe = header ? { header, window: values["dedupe.window"] ?? DAY } : null;
  }
  if (touches(patch, "rate_limit")) changes.rate_limit = rateDocument(values);
  if (touches(patch, "auth")) {
    const type = values["auth.type"];
    changes.auth = { type };
    if (type === "basic") Object.assign(changes.auth, { username: values["auth.username"], password: values["auth.password"] });
    if (type === "token") changes.auth.token = values["auth.token"];
  }
  if (touches(patch, "retention") && !values["retention.wait_for_consumers"]) changes.retention.hard_max_bytes = null;
  return changes;
}

/** For how long, and how much of it. */
export function Retention({ form }) {
  const waits = form.values["retention.wait_for_consumers"];
  return html`<${Section} title="What is kept" hint="The oldest events leave as soon as one of these is passed. Empty is no limit.">
    <div class="trio"><${Amount} label="Age" units=${TIMES} usual=${3} placeholder="no limit" ...${form.part("retention.max_age")} />
      <${Amount} label="Number of events" placeholder="no limit" ...${form.part("retention.max_events")} />
      <${Amount} label="Size in all" units=${SIZES} usual=${3} placeholder="no limit" ...${form.part("retention.max_bytes")} /></div>
    <${Check} label="Wait for consumers" hint="What a consumer is not done with stays, whatever the limits say."
        ...${form.check("retention.wait_for_consumers")} />
    ${waits && html`<${Amount} label="Wait up to this size" units=${SIZES} usual=${3} placeholder="as long as the disk has room"
      hint="Over it the oldest events leave all the same, and the consumers that miss them are told." ...${form.part("retention.hard_max_bytes")} />`}
  <//>`;
}

/** What senders must bring. `secrets`: whether this token sees those that are set. */
export function SenderAuth({ form, secrets }) {
  const type = form.values["auth.type"];
  const hint = secrets ? "" : "Your token may not see what is set. Left empty, it stays as it is.";
  return html`<${Section} title="What senders must bring">
    <${Choice} label="Authorization" value=${type} onValue=${(value) => form.set("auth.type", value)} wrong=${form.wrong("auth.type")} options=${[
      ["none", "Nothing", "the URL is the secret"], ["basic", "A user name and a password"], ["token", "A token", "Authorization: Bearer"]]} />
    ${type === "basic" && html`<div class="duo"><${Field} label="User name" autocomplete="off" ...${form.bind("auth.username")} />
      <${Secret} label="Password" hint=${hint} ...${form.part("auth.password")} /></div>`}
    ${type === "token" && html`<${Secret} label="Token" hint=${hint} ...${form.part("auth.token")} />`}
  <//>`;
}

export function Repeats({ form }) {
  return html`<${Section} title="Repeats"
      hint="For senders that repeat what they think was lost: a webhook with the same input, request, body and value of this header is stored once.">
    <div class="duo"><${Field} label="Header with the delivery's id" placeholder="off" list="delivery-ids" autocomplete="off" spellcheck=${false}
        hint="auto knows GitHub's, Shopify's, Standard Webhooks' and Idempotency-Key." ...${form.bind("dedupe.header")} />
      ${form.values["dedupe.header"] && html`<${Amount} label="For how long" units=${TIMES} usual=${2} ...${form.part("dedupe.window")} />`}</div>
    <datalist id="delivery-ids">${["auto", "X-GitHub-Delivery", "webhook-id", "Idempotency-Key", "X-Shopify-Webhook-Id"].map((name) => html`<option
        key=${name} value=${name} />`)}</datalist>
  <//>`;
}

/** At most so many in so long; for a bucket, and for an input. */
export function Rate({ form, what }) {
  return html`<${Section} title="Rate" hint=${`Over it senders to this ${what} get a 429, and try again later.`}>
    <div class="duo"><${Amount} label="Events" placeholder="no limit" ...${form.part("rate_limit.events")} />
      ${form.values["rate_limit.events"] != null && html`<${Amount} label="In" units=${TIMES} whole=${false}
          ...${form.part("rate_limit.interval")} />`}</div>
  <//>`;
}

/** `plan` is what the relay's settings allow, from GET /v1/usage. */
export function BodySize({ form, plan }) {
  const usual = form.values.large_webhooks ? plan?.large_max_body : plan?.max_body;
  const text = usual ? `${Math.round(usual / 1024 / 102.4) / 10} MiB by the relay's settings` : "by the relay's settings";
  return html`<${Section} title="Size of a webhook">
    <${Check} label="Large webhooks" hint="Takes the larger limit of the relay's settings." ...${form.check("large_webhooks")} />
    <${Amount} label="Largest body" units=${SIZES} usual=${2} placeholder=${text} hint="Larger ones get a 413." ...${form.part("max_body")} />
  <//>`;
}
