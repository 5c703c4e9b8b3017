// Edit and send: a new event made by hand, or out of one that came, which is marked as edited then.
import { html, useMemo, useState } from "../lib.js";
import { ask, v1 } from "../api.js";
import { bodyOf, encode, fromBase64, toBase64, utf8 } from "../event/bytes.js";
import { CONNECTION } from "../event/curl.js";
import { headersOf } from "../event/headers.js";
import { hasPile } from "../event/plain.js";
import { Button, Dialog, Field, Problem, tell } from "./basic.js";

const METHODS = ["POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/** What a text area does not give back, or that nobody can see in it. */
const CONTROL = /[\0-\x08\x0b-\x1f\x7f]/;

/** The lines of a text as [[name, value]…]. Throws an Error that names the line. */
export function parseHeaders(text) {
  return text.split("\n").flatMap((line, index) => {
    if (!line.trim()) return [];
    const colon = line.indexOf(":");
    const name = line.slice(0, colon).trim();
    if (colon < 1 || !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) throw new Error(`Line ${index + 1} is no header: write Name: value`);
    return [[name, line.slice(colon + 1).trim()]];
  });
}

/** How a body is edited: as text where it is one that a text area gives back as it is, else in base64. */
function begin(log) {
  if (!log) return { text: '{"hello": "world"}', form: "text", ends: "\n" };
  const bytes = bodyOf(log);
  const text = utf8(bytes);
  const plain = text === null ? "" : text.replaceAll("\r\n", "\n");
  const ends = text?.includes("\r\n") ? "\r\n" : "\n";
  // Line ends of two kinds would come out as one.
  if (text === null || plain.replaceAll("\n", ends) !== text || CONTROL.test(plain) || hasPile(plain)) {
    return { text: toBase64(bytes), form: "base64", ends: "\n" };
  }
  return { text: plain, form: "text", ends };
}

/** The dialog; with `log` it begins with that event. */
export function EditEvent({ bucket, log, onClose, onSent }) {
  const first = useMemo(() => begin(log), []);
  const [input, setInput] = useState(bucket.inputs.some((each) => each.id === log?.input_id) ? log.input_id : (bucket.inputs[0]?.id ?? ""));
  const [method, setMethod] = useState(log?.method ?? "POST");
  const [path, setPath] = useState(log?.extra_path ?? "");
  const [query, setQuery] = useState(log?.raw_query ?? "");
  const [headers, setHeaders] = useState(() => (log
    ? headersOf(log).filter(({ name }) => !CONNECTION.has(name.toLowerCase())).map(({ name, value }) => `${name}: ${value}`).join("\n")
    : "Content-Type: application/json"));
  const [body, setBody] = useState(first.text);
  const [form, setForm] = useState(first.form);
  const [output, setOutput] = useState("");
  const [error, setError] = useState(null);

  const bytesNow = () => (form === "base64" ? fromBase64(body) : encode(body.replaceAll("\n", first.ends)));
  const change = (next) => {
    const bytes = bytesNow();
    const text = next === "text" ? utf8(bytes) : toBase64(bytes);
    if (text === null) {
      tell("This body is no text.", "bad");
      return;
    }
    setBody(text);
    setForm(next);
  };
  const send = async (event) => {
    event.preventDefault();
    try {
      const document = { input, method, path, query, headers: parseHeaders(headers), body_base64: toBase64(bytesNow()) };
      if (form === "base64" && body.trim() && !document.body_base64) throw new Error("The body is no base64.");
      if (log) document.edited_from = log.id.split("-").slice(0, 2).join("-");
      if (output) document.output = output;
      const { id } = await ask("POST", v1("buckets", bucket.id, "events"), { body: document });
      tell(`Sent as ${id}`);
      onSent?.(id);
      onClose();
    } catch (problem) {
      setError(problem);
    }
  };
  const typed = (set) => (event) => set(event.target.value);
  const known = METHODS.includes(method) ? METHODS : [method, ...METHODS];
  return html`<${Dialog} title=${log ? "Edit and send" : "New event"} onClose=${onClose} wide><form onSubmit=${send}>
    <div class="edit-line">
      <${Field} as="select" label="Method" value=${method} onChange=${typed(setMethod)}>${known.map((each) => html`<option value=${each}
        key=${each}>${each}</option>`)}<//>
      <${Field} label="Path behind the input" placeholder="/orders" value=${path} onInput=${typed(setPath)} spellcheck=${false} autocomplete="off" />
      <${Field} label="Query" placeholder="a=1" value=${query} onInput=${typed(setQuery)} spellcheck=${false} autocomplete="off" />
    </div>
    <div class="row two">
      ${bucket.inputs.length > 1 && html`<${Field} as="select" label="Input" value=${input} onChange=${typed(setInput)}>
        ${bucket.inputs.map((each) => html`<option value=${each.id} key=${each.id}>${each.name}</option>`)}<//>`}
      ${bucket.outputs.length > 0 && html`<${Field} as="select" label="To" value=${output} onChange=${typed(setOutput)}><option
        value="">subscribers and outputs</option>${bucket.outputs.map((each) => html`<option value=${each.name} key=${each.id}>
          ${each.name} alone</option>`)}<//>`}
    </div>
    <${Field} as="textarea" rows="6" label="Headers" hint="One a line, as Name: value. Host and Content-Length are made anew."
      value=${headers} onInput=${typed(setHeaders)} spellcheck=${false} />
    <${Field} as="textarea" rows="12" label=${form === "base64" ? "Body, in base64" : "Body"} value=${body} onInput=${typed(setBody)}
      spellcheck=${false} />
    <div class="row"><button type="button" class="button tiny" onClick=${() => change(form === "text" ? "base64" : "text")}>
      ${form === "text" ? "Edit as base64" : "Edit as text"}</button></div>
    <${Problem} error=${error} />
    <div class="row"><span class="soft small grow">
      ${log ? "It becomes a new event, marked as edited. Its signature is not made anew." : "It becomes an event like one that came in."}</span>
      <${Button} onPress=${onClose}>Cancel<//><${Button} kind="first" type="submit">Send<//></div>
  </form><//>`;
}
