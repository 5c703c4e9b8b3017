// Forms: what was changed and not saved is a draft. It outlives a closed dialog, another tab of the page and a failed save.
import { effect, html, signal, useEffect, useRef, useState } from "../lib.js";
import { session } from "../api.js";
import { Button, Problem, tell } from "./basic.js";

const NOTHING = {};

/** From a form's key to the fields that differ from what the relay has. */
const drafts = signal({});

/** The key of the token whose drafts they are, "" of the relay's owner: a session that ended loses none, another token gets none. */
let owner = null;

effect(() => {
  const key = session.value?.key ?? null;
  if (key === null || key === owner) return;
  if (owner !== null) drafts.value = {};
  owner = key;
});

window.addEventListener("beforeunload", (event) => {
  if (Object.keys(drafts.peek()).length) event.preventDefault();
});

/** Whether a form with this key, or one below it (KEY/…), has changes that are not saved. */
export const unsaved = (key) => Object.keys(drafts.value).some((each) => each === key || each.startsWith(`${key}/`));

const same = (left, right) => JSON.stringify(left) === JSON.stringify(right);
const covers = (name, field) => field === name || field.startsWith(`${name}.`) || field.startsWith(`${name}[`);

/** What an error of the API says, without the field that it is shown at. */
function words({ message, field }) {
  const text = message.startsWith(`${field}: `) ? message.slice(field.length + 2) : message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/**
 * A form over `initial`, an object from a field's name (as the API calls it, `retention.max_age`) to what the relay has. `key` names the
 * draft. `values` are those of the form, `patch` what differs. `conflict` is the field that a 412 is about.
 */
export function useForm(key, initial, { conflict = "" } = {}) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const element = useRef(null);
  const names = useRef(new Set()).current;
  const patch = drafts.value[key] ?? NOTHING;
  const kept = useRef(patch !== NOTHING);
  const values = { ...initial, ...patch };
  const field = error?.field || (error?.status === 412 ? conflict : "");

  const keep = (next) => {
    const { [key]: _, ...others } = drafts.peek();
    drafts.value = Object.keys(next).length ? { ...others, [key]: next } : others;
  };
  const change = (changes) => {
    const next = { ...drafts.peek()[key], ...changes };
    for (const [name, value] of Object.entries(next)) if (same(value, initial[name])) delete next[name];
    keep(next);
    if (error && Object.keys(changes).some((name) => covers(name, field))) setError(null);
  };
  const set = (name, value) => change({ [name]: value });
  const wrong = (name) => {
    names.add(name);
    return field && covers(name, field) ? words({ message: error.message, field }) : "";
  };
  const discard = (sent) => {
    // What was entered while it was on its way stays.
    keep(Object.fromEntries(Object.entries((sent && drafts.peek()[key]) ?? {}).filter(([name, value]) => !same(value, sent[name]))));
    kept.current = false;
    setError(null);
  };
  /** For the form's onSubmit: `send` may throw an ApiError, which is shown where it belongs; `done` gets what `send` returned. `close` closes a dialog, unless
   *  that is closed by then. */
  const submit = (send, done, close) => async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    try {
      const sent = drafts.peek()[key] ?? {};
      const answer = await send();
      discard(sent);
      if (element.current) close?.();
      done(answer);
    } catch (problem) {
      if (element.current) setError(problem);
      else tell(problem.message, "bad");
    } finally {
      setBusy(false);
    }
  };
  useEffect(() => {
    const first = error && element.current?.querySelector('[aria-invalid="true"]');
    first?.closest("details")?.setAttribute("open", "");
    first?.focus();
  }, [error]);

  return {
    element, values, patch, busy, error, set, change, wrong, discard, submit,
    dirty: patch !== NOTHING,
    /** Whether this draft was begun before the form was opened. */
    kept: kept.current && patch !== NOTHING,
    /** The error that belongs to no field. */
    general: () => (error && !(field && [...names].some((name) => covers(name, field))) ? error : null),
    /** The field of the error, as the relay calls it. */
    field,
    /** For a Field. */
    bind: (name) => ({ name, value: values[name] ?? "", wrong: wrong(name), onInput: (event) => set(name, event.target.value) }),
    /** For a Check. */
    check: (name) => ({ name, checked: Boolean(values[name]), wrong: wrong(name), onChange: (event) => set(name, event.target.checked) }),
    /** For a part that gives its value. */
    part: (name) => ({ value: values[name], wrong: wrong(name), onValue: (value) => set(name, value) }),
  };
}

/** A form's end: what is wrong with it as a whole, and its buttons; `done` says what its action makes of the changes. `onCancel` closes a dialog, and
 *  takes the draft back. */
export function FormFoot({ form, action, done = "saved", always = false, disabled = false, onCancel }) {
  const cancel = () => {
    form.discard();
    onCancel?.();
  };
  return html`<${Problem} error=${form.general()} />
    <div class="row form-foot">
      <span class="grow small soft" role="status">${form.kept ? `These changes were not ${done} before.` : form.dirty ? `Not ${done} yet.` : ""}</span>
      ${(onCancel || form.dirty) && html`<${Button} onPress=${cancel}>${onCancel ? "Cancel" : "Discard"}<//>`}
      <${Button} type="submit" kind="first" disabled=${disabled || !(form.dirty || always)}
        aria-disabled=${form.busy ? "true" : undefined}>${action}<//>
    </div>`;
}

/** Whether a patch has a part of a nested field: of `retention`, as retention.max_age. */
export const touches = (patch, field) => Object.keys(patch).some((name) => name.startsWith(`${field}.`));

/** The fields of a patch as the nested object that the API takes: {"retention.max_age": 1} is {retention: {max_age: 1}}. */
export function nested(patch) {
  const document = {};
  for (const [name, value] of Object.entries(patch)) {
    const [first, second] = name.split(".");
    if (second === undefined) document[first] = value;
    else document[first] = { ...document[first], [second]: value };
  }
  return document;
}
