// Rules, which say which events go to an output: as a list of conditions for the common cases, as JSON for all others.
import { html, useState } from "../lib.js";
import { Field } from "./basic.js";
import { useRows } from "./fields.js";

/** What a match of each type has beside its parameter. */
const NEEDS = {
  value: "value", contains: "substring", "does-not-contain": "substring", regex: "regex", "payload-hash-sha1": "secret",
  "payload-hash-sha256": "secret", "ip-whitelist": "ip-range",
};

const SOURCES = [["header", "Header"], ["payload", "Body"], ["query", "Query"], ["address", "Sender's address"]];

/** From what a condition is called in the form to its type, and whether it is turned round. */
const TESTS = {
  value: ["is", "value", false], "not-value": ["is not", "value", true], contains: ["contains", "contains", false],
  "does-not-contain": ["does not contain", "does-not-contain", false], regex: ["matches the pattern", "regex", false],
  "not-regex": ["does not match the pattern", "regex", true], "payload-hash-sha1": ["is the body's HMAC-SHA1 by", "payload-hash-sha1", false],
  "payload-hash-sha256": ["is the body's HMAC-SHA256 by", "payload-hash-sha256", false],
};
const RANGES = { "ip-whitelist": ["is in", "ip-whitelist", false], "not-ip": ["is not in", "ip-whitelist", true] };
const testsOf = (source) => (source === "address" ? RANGES : TESTS);

const only = (object, names) => object && typeof object === "object" && Object.keys(object).every((name) => names.includes(name));

function toCondition(node) {
  const turned = only(node, ["not"]) && Object.hasOwn(node, "not");
  const inner = turned ? node.not : node;
  if (!only(inner, ["match"]) || !inner.match) return null;
  const { match } = inner;
  const need = NEEDS[match.type];
  if (!need || !only(match, ["type", "parameter", need]) || !["string", "undefined"].includes(typeof match[need])) return null;
  const address = match.type === "ip-whitelist";
  const parameter = match.parameter ?? {};
  if (!only(parameter, address ? [] : ["source", "name"])) return null;
  const source = address ? "address" : parameter.source;
  const found = Object.entries(testsOf(source)).find(([, [, type, not]]) => type === match.type && not === turned);
  if (!found || !SOURCES.some(([name]) => name === source)) return null;
  return { source, name: parameter.name ?? "", test: found[0], text: match[need] ?? "" };
}

function fromCondition({ source, name, test, text }) {
  const [, type, turned] = testsOf(source)[test];
  const match = { type, ...(source === "address" ? {} : { parameter: { source, name } }), [NEEDS[type]]: text };
  return turned ? { not: { match } } : { match };
}

/** A document as {join: "and" | "or", conditions}, or null where it says more than the form can. */
function toConditions(document) {
  if (document == null) return { join: "and", conditions: [] };
  const join = ["and", "or"].find((name) => only(document, [name]) && Array.isArray(document[name]));
  const nodes = join ? document[join] : [document];
  const conditions = nodes.map(toCondition);
  return conditions.includes(null) ? null : { join: join ?? "and", conditions };
}

const fromConditions = ({ join, conditions }) => (conditions.length ? { [join]: conditions.map(fromCondition) } : null);

/** Rules in a few words, for a list. */
export function inWords(document) {
  const form = toConditions(document);
  if (!form) return "by rules";
  if (!form.conditions.length) return "every event";
  const said = form.conditions.map(({ source, name, test, text }) => {
    const what = source === "address" ? "the sender's address" : `${source === "payload" ? "body" : source} ${name}`.trim();
    return `${what} ${testsOf(source)[test][0]} ${test.startsWith("payload-hash") ? "a secret" : text}`;
  });
  return said.join(form.join === "and" ? " and " : " or ");
}

function Condition({ condition, index, wrong, onValue, onRemove }) {
  const { source, name, test, text } = condition;
  const tests = testsOf(source);
  const put = (part) => (event) => onValue({ ...condition, [part]: event.target.value });
  const from = (event) => {
    const next = event.target.value;
    onValue({ ...condition, source: next, test: Object.hasOwn(testsOf(next), test) ? test : Object.keys(testsOf(next))[0] });
  };
  const n = index + 1;
  const bad = wrong ? { "aria-invalid": "true", "aria-describedby": `condition-${n}-wrong` } : {};
  return html`<li><div class="condition" role="group" aria-label=${`Condition ${n}`}>
      <select aria-label=${`Condition ${n}: part of the event`} value=${source} onChange=${from}>${SOURCES.map(([value, said]) => html`<option
          key=${value} value=${value}>${said}</option>`)}</select>
      ${source !== "address" && html`<input aria-label=${`Condition ${n}: name`} autocomplete="off" spellcheck=${false}
          placeholder=${source === "payload" ? "commits.0.author.name, or the whole" : "Name"} value=${name} onInput=${put("name")} />`}
      <select aria-label=${`Condition ${n}: test`} value=${test} onChange=${put("test")}>${Object.entries(tests).map(([value, [said]]) => html`<option
          key=${value} value=${value}>${said}</option>`)}</select>
      <input aria-label=${`Condition ${n}: value`} autocomplete="off" spellcheck=${false}
          placeholder=${source === "address" ? "192.0.2.0/24" : test.startsWith("payload-hash") ? "secret" : ""} value=${text} ...${bad}
          onInput=${put("text")} />
      <button type="button" class="button plain" aria-label=${`Remove condition ${n}`} onClick=${onRemove}>✕</button></div>
    ${wrong && html`<span class="wrong" id=${`condition-${n}-wrong`}>${wrong}</span>`}</li>`;
}

function Conditions({ value, onValue, form }) {
  const { join, conditions } = value;
  const put = (changes) => onValue(fromConditions({ ...value, ...changes }));
  const at = (index) => form.field.match(/^rules\.(?:and|or)\[(\d+)\]/)?.[1] === String(index);
  const box = useRows(".condition", conditions.length);
  const add = () => put({ conditions: [...conditions, { source: "header", name: "", test: "value", text: "" }] });
  return html`<div class="field" ref=${box}>${conditions.length > 1 && html`<div class="row">An event goes there where <select aria-label="How many of the conditions have to hold"
      value=${join} onChange=${(event) => put({ join: event.target.value })}><option value="and">all of these hold</option>
    <option value="or">one of these holds</option></select></div>`}
    ${conditions.length === 0 && html`<p class="soft">Every event goes there.</p>`}
    <ol class="conditions">${conditions.map((condition, index) => html`<${Condition} key=${index} condition=${condition} index=${index}
        wrong=${at(index) ? form.wrong("rules") : ""}
      onValue=${(next) => put({ conditions: conditions.with(index, next) })}
          onRemove=${() => put({ conditions: conditions.toSpliced(index, 1) })} />`)}</ol>
    <div><button type="button" class="button tiny" onClick=${add}>Add a condition</button></div></div>`;
}

const MORE = "These rules say more than a list of conditions can.";

/** JSON of rules: what it says, and what is wrong with it as JSON. */
export function readRules(text) {
  if (!text.trim()) return { document: null, wrong: "" };
  try {
    const document = JSON.parse(text);
    if (document && typeof document === "object" && !Array.isArray(document)) return { document, wrong: "" };
    return { document: null, wrong: "Write an object with one of and, or, not and match." };
  } catch (error) {
    return { document: null, wrong: `This is no JSON: ${error.message}` };
  }
}

/**
 * The field `rules` of a form. Its value is the document (null: every event), or {text} while somebody writes JSON: `readRules` says what that is.
 */
export function Rules({ form }) {
  const value = form.values.rules;
  const written = typeof value?.text === "string" ? value.text : null;
  const { document, wrong } = written === null ? { document: value, wrong: "" } : readRules(written);
  const conditions = wrong ? null : toConditions(document);
  const [asJson, setAsJson] = useState(written !== null || !conditions);
  const json = asJson || !conditions;
  const server = form.wrong("rules");
  const where = form.field.startsWith("rules") && server ? `${form.field}: ${server.charAt(0).toLowerCase()}${server.slice(1)}` : "";
  const placed = !json && /^rules\.(and|or)\[/.test(form.field);
  const toForm = () => {
    if (written !== null) form.set("rules", document);
    setAsJson(false);
  };
  return html`<div class="field"><div class="row"><span class="label grow" id="rules-label">Which events go there</span>
      <button type="button" class="button tiny" aria-pressed=${json} disabled=${json && !conditions}
          onClick=${json ? toForm : () => setAsJson(true)}>${json ? "As conditions" : "As JSON"}</button></div>
    ${json ? html`<${Field} label="Rules as JSON" as="textarea" rows="9" spellcheck=${false}
        value=${written ?? (document ? JSON.stringify(document, null, 2) : "")} wrong=${wrong || where}
        hint=${!wrong && !conditions ? MORE : "and, or, not and match, as docs/rest.md has them. Empty: every event."}
        onInput=${(event) => form.set("rules", { text: event.target.value })} />`
      : html`<${Conditions} value=${conditions} form=${form} onValue=${(next) => form.set("rules", next)} />${where && !placed && html`<span
          class="wrong">${where}</span>`}`}
  </div>`;
}
