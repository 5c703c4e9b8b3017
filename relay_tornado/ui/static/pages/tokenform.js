// The dialogs about one token: what it may do, and a new secret.
import { html, useState } from "../lib.js";
import { post, put, session, v1 } from "../api.js";
import { Dialog, Field } from "../parts/basic.js";
import { Amount, Check, Choice, Moment, TIMES } from "../parts/fields.js";
import { FormFoot, useForm } from "../parts/form.js";

const MANY = 8;

/** What a token's draft is called. */
export const tokenKey = (token) => `token/${token?.key ?? "new"}`;

/** A list of buckets to choose from, by id. */
function Buckets({ buckets, value, onValue, wrong }) {
  const [text, setText] = useState("");
  const [first] = useState(new Set(value));
  const gone = value.filter((id) => !buckets.some((bucket) => bucket.id === id)).length;
  // What was chosen before is in sight; what is chosen now stays where it is.
  const sorted = buckets.toSorted((left, right) => first.has(right.id) - first.has(left.id) || left.name.localeCompare(right.name, undefined, { numeric: true }));
  const shown = sorted.filter(({ name }) => name.toLowerCase().includes(text.trim().toLowerCase()));
  const put = (id, on) => onValue(on ? [...value, id] : value.filter((each) => each !== id));
  return html`<div class="field" role="group" aria-label="Buckets">
    ${buckets.length > MANY && html`<input type="search" aria-label="Find a bucket" placeholder=${`Find one of ${buckets.length}`} value=${text}
        onInput=${(event) => setText(event.target.value)} />`}
    <div class="picker" tabindex="0">${shown.map(({ id, name }) => html`<label key=${id}><input type="checkbox"
        aria-invalid=${wrong ? "true" : undefined} checked=${value.includes(id)} onChange=${(event) => put(id, event.target.checked)} />
      <span>${name}</span></label>`)}
      ${shown.length === 0 && html`<p class="soft">${buckets.length ? "None has that in its name." : "There is no bucket yet."}</p>`}</div>
    <span class="hint">${value.length} chosen${gone ? `, ${gone} of them deleted` : ""}. Buckets that are made later are not included.</span>
    ${wrong && html`<span class="wrong">${wrong}</span>`}</div>`;
}

/** What follows from what is chosen. */
function says(all, api) {
  if (api && all) return "It is an administrator's token: it may do everything, and sees secrets.";
  if (api) return "It reads and changes these buckets, their inputs and outputs, connects, and signs in here.";
  return `It connects and reads ${all ? "every bucket, also those made later" : "these buckets"}, and answers events. It can't sign in here.`;
}

/** `token` is null for a new one, `wanted` then the name of a bucket to begin with; `onSaved` gets the document, of a new one with its secret. */
export function TokenDialog({ token, buckets, wanted, onSaved, onClose }) {
  const [first] = useState(() => buckets.filter(({ name }) => name === wanted).map(({ id }) => id));
  const ids = token ? token.scopes.buckets : first;
  const form = useForm(tokenKey(token), {
    description: token?.description ?? "", all: Boolean(token) && ids.length === 0, "scopes.buckets": ids,
    api_access: token?.api_access === "enabled", durable: token?.durable ?? false, expires_at: token?.expires_at ?? null,
  });
  const { all } = form.values;
  const chosen = form.values["scopes.buckets"];
  const save = () => {
    const { patch, values } = form;
    const changes = {};
    // Somebody else may have changed the rest meanwhile.
    for (const name of ["description", "durable", "expires_at"]) if (!token || name in patch) changes[name] = values[name];
    if (!token || "all" in patch || "scopes.buckets" in patch) changes.scopes = { buckets: all ? [] : chosen };
    if (!token || "api_access" in patch) changes.api_access = values.api_access ? "enabled" : "disabled";
    return token ? put(v1("tokens", token.key), changes) : post("/v1/tokens", changes);
  };
  const own = token?.key === session.value.key && (!all || !form.values.api_access);
  return html`<${Dialog} title=${token ? `Token ${token.description || token.key}` : "New token"} onClose=${onClose}>
    <form ref=${form.element} onSubmit=${form.submit(save, onSaved, onClose)}>
      <${Field} label="Description" autocomplete="off" placeholder="who uses it, and where" hint="So that one knows later which to revoke."
          ...${form.bind("description")} />
      <${Choice} label="Buckets" value=${all} onValue=${(value) => form.set("all", value)}
          options=${[[false, "Some"], [true, "Every bucket", "also those made later"]]} />
      ${!all && html`<${Buckets} buckets=${buckets} ...${form.part("scopes.buckets")} />`}
      <${Check} label="API access" hint="Signs in to this page, and uses REST." ...${form.check("api_access")} />
      <p class="note small" role="status">${!all && chosen.length === 0 ? "Choose at least one bucket." : says(all, form.values.api_access)}</p>
      ${own && html`<p class="note warn small">You are signed in with this token: you lose what you take from it.</p>`}
      <${Check} label="Durable"
          hint="The relay keeps the token's position in every bucket that it reads, so that a client that keeps none misses nothing."
          ...${form.check("durable")} />
      <${Moment} label="Expires" ...${form.part("expires_at")} />
      <${FormFoot} form=${form} action=${token ? "Save" : "Make the token"} always=${!token} disabled=${!all && chosen.length === 0}
          onCancel=${onClose} />
    </form>
  <//>`;
}

const GRACES = [[0, "At once"], [3600, "In an hour"], [86400, "In a day"], [-1, "In another time"]];

export function RotateDialog({ token, onRotated, onClose }) {
  const form = useForm(`${tokenKey(token)}/rotate`, { choice: 3600, grace: 3600 });
  const { choice, grace } = form.values;
  const rotate = () => post(v1("tokens", token.key, "rotate"), { grace: choice < 0 ? grace ?? 0 : choice });
  return html`<${Dialog} title=${`New secret for ${token.description || token.key}`} onClose=${onClose}>
    <form ref=${form.element} onSubmit=${form.submit(rotate, onRotated, onClose)}>
      <p>The token stays what it is and gets a new secret, shown once. Until the old secret ends, both are valid.</p>
      <${Choice} label="The old secret ends" value=${choice} onValue=${(value) => form.set("choice", value)} options=${GRACES}
          wrong=${choice < 0 ? "" : form.wrong("grace")} />
      ${choice < 0 && html`<${Amount} label="After" units=${TIMES} usual=${2} required ...${form.part("grace")} />`}
      ${choice === 0 && html`<p class="note warn small">Clients that are connected with it are disconnected.</p>`}
      ${token.key === session.value.key && html`<p
          class="note warn small">You are signed in with this token: once the old secret ends, sign in with the new one.</p>`}
      <${FormFoot} form=${form} action="Make a new secret" always onCancel=${onClose} />
    </form>
  <//>`;
}
