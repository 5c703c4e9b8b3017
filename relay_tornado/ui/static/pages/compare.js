// Two events side by side: what differs between their request lines, headers, fields and bodies.
import { html, useMemo, useState } from "../lib.js";
import { ApiError } from "../api.js";
import { bodyOf, hexDump } from "../event/bytes.js";
import { textOf } from "../event/charset.js";
import { decompress } from "../event/decompress.js";
import { diffJson, diffLines, diffPairs } from "../event/diff.js";
import { fields } from "../event/forms.js";
import { headersOf, mediaType, valueOf } from "../event/headers.js";
import { JsonError, parseJson, printJson } from "../event/json.js";
import { loadLog } from "../event/log.js";
import { Badge, Loading, Problem, Time, bytes, number, useLoaded, useTitle } from "../parts/basic.js";
import { Path, Plain, Short, useFirst } from "../parts/plain.js";
import { Table } from "../parts/table.js";
import { zone } from "../parts/zone.js";
import { link } from "../router.js";

const AROUND = 3;
const MAX_TEXT = 1_000_000;

const pairsOf = (log) => headersOf(log).map(({ name, value }) => [name, value]);

function Cell({ values }) {
  const [shown, more] = useFirst(values, 5);
  return html`<td class="value">${values.length ? shown.map((value, index) => html`<div key=${index}><${Short} text=${value} lines />
    </div>`) : html`<span class="soft">–</span>`}${more}</td>`;
}

/** Names and values side by side; what is the same is shown on demand. */
function Pairs({ title, left, right, fold }) {
  const [all, setAll] = useState(false);
  const rows = useMemo(() => diffPairs(left, right, fold), [left, right]);
  const same = rows.filter((row) => row.same).length;
  const wanted = useMemo(() => (all ? rows : rows.filter((row) => !row.same)), [rows, all]);
  const [shown, more] = useFirst(wanted);
  if (!rows.length) return null;
  return html`<section class="stack"><div class="head"><h2>${title}</h2>${same > 0 && html`<button type="button" class="button tiny"
    onClick=${() => setAll(!all)}>
      ${all ? "Only what differs" : `Also what is the same (${number(same)})`}</button>`}</div>
    ${shown.length ? html`<${Table} label=${title} kind="compare" columns=${[["Name"], ["Left"], ["Right"]]}>${shown.map((row, index) => html`<tr key=${index}
        class=${row.same ? "" : row.left.length && row.right.length ? "changed" : row.left.length ? "only-left" : "only-right"}><th
          scope="row" class="value name"><${Short} text=${row.name} /></th><${Cell} values=${row.left} /><${Cell} values=${row.right} />
            </tr>`)}<//>${more}`
      : html`<p class="soft">The same.</p>`}</section>`;
}

const shortly = (node) => (node ? [printJson(node).slice(0, 2000)] : []);

function JsonChanges({ changes }) {
  const [shown, more] = useFirst(changes);
  if (!changes.length) return html`<p class="soft">The same values, perhaps written in another way.</p>`;
  return html`<${Table} label="Differences of the bodies" kind="compare" columns=${[["Place"], ["Left"], ["Right"]]}>${shown.map((change, index) => html`<tr key=${index}
      class=${change.left && change.right ? "changed" : change.left ? "only-left" : "only-right"}><th scope="row" class="value name place">
        <${Short} text=${change.path} /></th><${Cell} values=${shortly(change.left)} /><${Cell} values=${shortly(change.right)} /></tr>`)}<//>${more}`;
}

/** Lines with a few that are the same around each difference. */
function Lines({ left, right }) {
  const lines = useMemo(() => {
    const found = diffLines(left.slice(0, MAX_TEXT), right.slice(0, MAX_TEXT));
    const near = new Uint8Array(found.length);
    found.forEach((line, index) => {
      if (line.kind !== "same") near.fill(1, Math.max(0, index - AROUND), index + AROUND + 1);
    });
    const kept = [];
    let skipped = 0;
    found.forEach((line, index) => {
      if (!near[index]) skipped += 1;
      else {
        if (skipped) kept.push({ kind: "skip", text: `${number(skipped)} lines that are the same` });
        skipped = 0;
        kept.push(line);
      }
    });
    if (skipped) kept.push({ kind: "skip", text: `${number(skipped)} lines that are the same` });
    return kept;
  }, [left, right]);
  const [shown, more] = useFirst(lines, 1000);
  const marks = { left: "−", right: "+", same: " ", skip: "⋯" };
  const said = { left: "only left: ", right: "only right: ", same: "", skip: "" };
  return html`<div class="diff mono" tabindex="0" role="region" aria-label="Lines of both bodies">
    ${shown.map((line, index) => html`<div key=${index} class=${`line ${line.kind}`}><span class="sign" aria-hidden="true">
      ${marks[line.kind]}</span><span class="hidden">${said[line.kind]}</span><span><${Short} text=${line.text} lines
        /></span></div>`)}</div>${more}`;
}

const node = (text) => {
  if (text === null || text.length > 4 * MAX_TEXT || !/^\s*[[{]/.test(text)) return null;
  try {
    return parseJson(text);
  } catch (error) {
    if (error instanceof JsonError) return null;
    throw error;
  }
};

const same = (left, right) => left.length === right.length && left.every((byte, index) => byte === right[index]);

/** What is compared of a log's body: what it holds where it came compressed and that is all there, else the bytes that came. */
async function contentOf(log) {
  const [came, headers] = [bodyOf(log), headersOf(log)];
  const held = await decompress(came, headers);
  const bytes = held && !held.cut ? held.bytes : came;
  const { text } = textOf(bytes, headers);
  return { came, bytes, text, node: node(text), type: mediaType(valueOf(headers, "Content-Type")).type };
}

function Bodies({ contents: [a, b] }) {
  const [byLines, setByLines] = useState(false);
  const { equal, changes, forms } = useMemo(() => {
    const equal = same(a.bytes, b.bytes);
    const form = (each) => (each.type === "application/x-www-form-urlencoded" && each.text !== null ? fields(each.text) : null);
    const changes = !equal && a.node && b.node ? diffJson(a.node, b.node) : null;
    return { equal, changes, forms: form(a) && form(b) ? [form(a), form(b)] : null };
  }, [a, b]);
  if (equal) {
    const how = same(a.came, b.came) ? "" : ", compressed in another way";
    return html`<section class="stack"><h2>Body</h2><p class="soft">
      ${a.bytes.length ? `The same ${bytes(a.bytes.length)}${how}.` : "Neither has one."}</p></section>`;
  }
  if (forms && !byLines) return html`<${Pairs} title="Form fields" left=${forms[0]} right=${forms[1]} />`;
  const text = (each) => each.text ?? hexDump(each.bytes, 16_384);
  const pretty = (each) => (each.node ? printJson(each.node) : text(each));
  return html`<section class="stack"><div class="head"><h2>Body</h2>${changes && html`<button type="button" class="button tiny"
    onClick=${() => setByLines(!byLines)}>${byLines ? "By values" : "By lines"}</button>`}</div>
    ${(a.bytes !== a.came || b.bytes !== b.came) && html`<p class="soft small">What came compressed is compared by what it holds.</p>`}
    ${changes && !byLines ? html`<${JsonChanges} changes=${changes} />` : html`<${Lines} left=${changes ? pretty(a) : text(a)}
      right=${changes ? pretty(b) : text(b)} />`}</section>`;
}

function Side({ log, name }) {
  return html`<div class="card stack"><div class="row"><${Badge} kind=${name === "Left" ? "bad" : "good"}>${name}<//><a
    href=${link("/events", log.id)}>${log.id}</a></div>
    <div class="request-line"><span class="method"><${Plain} text=${log.method} /></span> <${Path} log=${log} /></div>
    <div class="soft small"><${Time} at=${log.received_at} exact /> ${zone(log.received_at * 1000)} from <span class="mono">${log.ip_address}</span></div></div>`;
}

const verdict = (log) => (log.verified == null ? "not checked" : log.verified ? "verified" : `failed: ${log.verdict ?? ""}`);

export default function Compare({ left, right }) {
  const load = (signal) => Promise.all([["Left", left], ["Right", right]].map(async ([side, id]) => {
    try {
      const log = await loadLog(id, signal);
      return { log, content: await contentOf(log) };
    } catch (problem) {
      throw problem.status === 404 ? new ApiError(404, { message: `${side}: ${problem.message}` }) : problem;
    }
  }));
  const [loaded, error, again] = useLoaded(load, { on: [left, right] });
  useTitle("Compare");
  const parts = useMemo(() => loaded?.map(({ log }) => ({
    request: [["Method", log.method], ["Path", log.extra_path || "/"], ["Sender", log.ip_address], ["Signature", verdict(log)]],
    query: fields(log.raw_query), headers: pairsOf(log),
  })), [loaded]);
  if (!loaded) return html`<h1>Compare</h1>${error ? html`<${Problem} error=${error} retry=${again} />` : html`<${Loading} />`}`;
  const [a, b] = parts;
  const logs = loaded.map(({ log }) => log);
  const contents = loaded.map(({ content }) => content);
  return html`<div class="stack comparison"><div class="head"><h1>Compare</h1><a class="button" href=${link("/compare", right, left)}>Swap</a></div>
    <${Problem} error=${error} retry=${again} />
    <div class="sides"><${Side} log=${logs[0]} name="Left" /><${Side} log=${logs[1]} name="Right" /></div>
    <${Pairs} title="Request" left=${a.request} right=${b.request} />
    <${Pairs} title="Query" left=${a.query} right=${b.query} />
    <${Pairs} title="Headers" left=${a.headers} right=${b.headers} fold=${(name) => name.toLowerCase()} />
    <${Bodies} contents=${contents} />
  </div>`;
}
