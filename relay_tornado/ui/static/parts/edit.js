// Edit and send: a new event made by hand, or out of one that came, which is marked as edited then.
import { html, useMemo } from "../lib.js";
import { ask, v1 } from "../api.js";
import { bodyOf, encode, fromBase64, toBase64, utf8 } from "../event/bytes.js";
import { CONNECTION } from "../event/curl.js";
import { headersOf } from "../event/headers.js";
import { eventId } from "../event/log.js";
import { isHeavy } from "../event/plain.js";
import { METHODS } from "../event/record.js";
import { Dialog, Field, tell } from "./basic.js";
import { FormFoot, useForm } from "./form.js";

/** What a text area does not give back, or that nobody can see in it. */
const CONTROL = /[\0-\x08\x0b-\x1f\x7f]/;

/** The lines of a text as [[name, value]…]. Throws an Error that names the line. */
function parseHeaders(text) {
  return text.split("\n").flatMap((line, index) => {
    if (!line.trim()) return [];
    const colon = line.indexOf(":");
    const name = line.slice(0, colon).trim();
    if (colon < 1 || !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) throw new Error(`Line ${index + 1} is no header: write Name: value`);
    return [[name, line.slice(colon + 1).trim()]];
  });
}

/** How a body is edited: as text where it is one that a text area gives back as it is, and soon shows, else in base64. */
function begin(log) {
  if (!log) return { text: '{"hello": "world"}', form: "text", ends: "\n" };
  const bytes = bodyOf(log);
  const text = utf8(bytes);
  const plain = text === null ? "" : text.replaceAll("\r\n", "\n");
  const ends = text?.includes("\r\n") ? "\r\n" : "\n";
  // Line ends of two kinds would come out as one.
  if (text === null || plain.replaceAll("\n", ends) !== text || CONTROL.test(plain) || isHeavy(plain)) {
    return { text: toBase64(bytes), form: "base64", ends: "\n" };
  }
  return { text: plain, form: "text", ends };
}

/** What the form begins with. `ends` are the body's line ends, which a text area does not tell. */
function values(bucket, log) {
  const { text: body, form, ends } = begin(log);
  const [first] = bucket.inputs;
  return {
    input: bucket.inputs.some((each) => each.id === log?.input_id) ? log.input_id : (first?.id ?? ""), method: log?.method ?? "POST",
    path: log?.extra_path ?? "", query: log?.raw_query ?? "", output: "", body, form, ends,
    headers: log ? headersOf(log).filter(({ name }) => !CONNECTION.has(name.toLowerCase())).map(({ name, value }) => `${name}: ${value}`).join("\n")
      : "Content-Type: application/json",
  };
}

/** The dialog; with `log` it begins with that event. */
export function EditEvent({ bucket, log, onClose }) {
  const first = useMemo(() => values(bucket, log), []);
  const form = useForm(`${bucket.id}/events/${log?.id ?? "new"}`, first);
  const { input, method, path, query, headers, body, output, ends } = form.values;
  const asText = form.values.form === "text";

  const bytesNow = () => (asText ? encode(body.replaceAll("\n", ends)) : fromBase64(body));
  const change = () => {
    const bytes = bytesNow();
    const text = asText ? toBase64(bytes) : utf8(bytes);
    if (text === null) tell("This body is no text.", "bad");
    else form.change({ body: text, form: asText ? "base64" : "text" });
  };
  const send = async () => {
    const document = { input, method, path, query, headers: parseHeaders(headers), body_base64: toBase64(bytesNow()) };
    if (!asText && body.trim() && !document.body_base64) throw new Error("The body is no base64.");
    if (log) document.edited_from = eventId(log.id);
    if (output) document.output = output;
    return ask("POST", v1("buckets", bucket.id, "events"), { body: document });
  };
  const sent = ({ id }) => tell(`Sent as ${id}`);
  const known = METHODS.includes(method) ? METHODS : [method, ...METHODS];
  return html`<${Dialog} title=${log ? "Edit and send" : "New event"} onClose=${onClose} wide><form ref=${form.element}
      onSubmit=${form.submit(send, sent, onClose)}>
    <div class="edit-line">
      <${Field} as="select" label="Method" ...${form.bind("method")}>${known.map((each) => html`<option value=${each}
        key=${each}>${each}</option>`)}<//>
      <${Field} label="Path behind the input" placeholder="/orders" spellcheck=${false} autocomplete="off" ...${form.bind("path")} />
      <${Field} label="Query" placeholder="a=1" spellcheck=${false} autocomplete="off" ...${form.bind("query")} />
    </div>
    <div class="row two">
      ${bucket.inputs.length > 1 && html`<${Field} as="select" label="Input" ...${form.bind("input")}>
        ${bucket.inputs.map((each) => html`<option value=${each.id} key=${each.id}>${each.name}</option>`)}<//>`}
      ${bucket.outputs.length > 0 && html`<${Field} as="select" label="To" ...${form.bind("output")}><option
        value="">subscribers and outputs</option>${bucket.outputs.map((each) => html`<option value=${each.name} key=${each.id}>
          ${each.name} alone</option>`)}<//>`}
    </div>
    <${Field} as="textarea" rows="6" label="Headers" hint="One a line, as Name: value. Host and Content-Length are made anew."
      spellcheck=${false} ...${form.bind("headers")} />
    <${Field} as="textarea" rows="12" label=${asText ? "Body" : "Body, in base64"} spellcheck=${false} ...${form.bind("body")} />
    <div class="row"><button type="button" class="button tiny" onClick=${change}>${asText ? "Edit as base64" : "Edit as text"}</button></div>
    <p class="soft small">
      ${log ? "It becomes a new event, marked as edited. Its signature is not made anew." : "It becomes an event like one that came in."}</p>
    <${FormFoot} form=${form} action="Send" done="sent" always onCancel=${onClose} />
  </form><//>`;
}
