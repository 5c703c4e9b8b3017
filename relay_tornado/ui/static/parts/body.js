// A body in the forms in which one wants to see it: tree, pretty, fields, picture, text, raw, hex. It is text here, whatever it calls itself; where it
// came compressed, all but raw and hex show what it holds.
import { html, useEffect, useMemo, useState } from "../lib.js";
import { hex, hexDump, pictureType, readable, utf8 } from "../event/bytes.js";
import { notUtf8, textOf } from "../event/charset.js";
import { MOST, codingsOf, decompress, formsOf } from "../event/decompress.js";
import { fields, multipart, partOf, valueText } from "../event/forms.js";
import { mediaType, valueOf } from "../event/headers.js";
import { JsonError, parseJson, printJson } from "../event/json.js";
import { beginning } from "../event/plain.js";
import { prettyXml } from "../event/xml.js";
import { bytes as size, useLoaded } from "./basic.js";
import { Long, Plain, Short, useFirst } from "./plain.js";
import { Table } from "./table.js";
import { Tree } from "./tree.js";

const PART = 100_000;
/** Bytes that are shown in hex at once: each takes five characters. */
const MORE_HEX = 262_144;
/** Larger texts are not parsed without being asked for. */
const MAX_PARSED = 4_000_000;

/** The first `count` parts of a text, cut behind a line where that is possible, and how much is left. */
function partsOf(text, count) {
  const parts = [];
  let from = 0;
  while (parts.length < count && (from < text.length || !parts.length)) {
    let part = beginning(text.slice(from, from + PART + 1), PART);
    if (from + part.length < text.length) part = part.slice(0, part.lastIndexOf("\n") + 1) || part;
    parts.push(part);
    from += part.length;
  }
  return [parts, text.length - from];
}

/** A text in parts, with a button for more. Each part is a block of its own: what browsers do for the order of characters takes the square of a
 *  paragraph's length. */
function Text({ text, label }) {
  const [count, setCount] = useState(1);
  const [parts, left] = useMemo(() => partsOf(text, count), [text, count]);
  return html`<pre class="code" tabindex="0" aria-label=${label}>${parts.map((part, index) => html`<span class="part" key=${index}><${Long}
    text=${part} lines /></span>`)}</pre>
    ${left > 0 && html`<button type="button" class="button tiny" onClick=${() => setCount(count + 2)}>
      Show more of it (${size(left)} left)</button>`}`;
}

function Hex({ bytes, label }) {
  const [most, setMost] = useState(4096);
  return html`<pre class="code hex" tabindex="0" aria-label=${label}>${hexDump(bytes, most)}</pre>
    ${bytes.length > most && html`<button type="button" class="button tiny"
      onClick=${() => setMost(most + Math.min(7 * most, MORE_HEX))}>Show more of it (${size(bytes.length - most)} left)</button>`}`;
}

/** A table of names and values, for queries and forms. */
export function Fields({ pairs, label }) {
  const [rows, more] = useFirst(pairs);
  return html`<${Table} label=${label} columns=${[["Name"], ["Value"]]}>${rows.map(([name, value], index) => html`<tr key=${index}><td
    class="value name"><${Short} text=${name} /></td><td class="value"><${Short} text=${value} lines /></td></tr>`)}<//>${more}`;
}

const Form = ({ text }) => html`<${Fields} pairs=${useMemo(() => fields(text), [text])} label="Form fields" />`;

function Part({ raw }) {
  const part = useMemo(() => partOf(raw), [raw]);
  const text = useMemo(() => (utf8(part.bytes) === null ? null : valueText(part)), [part]);
  return html`<tr><td class="value name"><${Short} text=${part.name} /></td>
    <td class="value">${text === null ? html`<span class="soft">not text</span>` : html`<${Short} text=${text} lines />`}</td>
    <td class="value">${part.file !== null && html`<${Short} text=${part.file} />`}</td><td class="value"><${Short} text=${part.type} /></td>
    <td class="num">${size(part.bytes.length)}</td></tr>`;
}

function Parts({ parts }) {
  const [rows, more] = useFirst(parts);
  return html`<${Table} label="Form fields" columns=${[["Name"], ["Value"], ["File"], ["Type"], ["Size", "num"]]}>${rows.map(
    (raw, index) => html`<${Part} key=${index} raw=${raw} />`)}<//>${more}`;
}

function Picture({ type, bytes }) {
  const [url, setUrl] = useState("");
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([bytes], { type }));
    setUrl(made);
    setBroken(false);
    return () => URL.revokeObjectURL(made);
  }, [type, bytes]);
  if (broken) return html`<p class="note warn">The picture can't be shown: it is damaged, or this browser does not know its form.</p>`;
  return html`<figure class="picture">${url && html`<img src=${url} alt="The body as a picture" onError=${() => setBroken(true)} />`}</figure>`;
}

/** Where a JSON body is none: what is wrong, in which line and column, and the place itself. */
function Wrong({ error }) {
  return html`<div class="note warn stack"><span>Not JSON: ${error.message}. Line ${error.line}, column ${error.column}.</span>
    <pre class="pointed mono"><${Plain} text=${error.excerpt.slice(0, error.pointer)} /><mark><${Plain}
      text=${error.excerpt.slice(error.pointer, error.pointer + 1) || "⏎"} /></mark><${Plain}
        text=${error.excerpt.slice(error.pointer + 1)} /></pre></div>`;
}

/** What can be said about a body: its text, its JSON or why it is none, and which views there are, the best one first. `held` is what it holds where
 *  it came compressed. */
function looked(came, held, headers, all) {
  const bytes = held?.bytes ?? came;
  const { type, parameters } = mediaType(valueOf(headers, "Content-Type"));
  const { text, charset } = textOf(bytes, headers);
  const found = { text, charset, views: [], error: null, wrongByte: -1 };
  const picture = pictureType(type, bytes);
  if (picture) {
    found.picture = picture;
    found.views.push("Picture");
  }
  if (type === "multipart/form-data") {
    found.parts = multipart(bytes, parameters.get("boundary"));
    if (found.parts) found.views.push("Fields");
  }
  if (text !== null) {
    const called = /[/+]json$/.test(type) || type === "text/json";
    const seems = /^\s*[[{]/.test(text);
    const json = (called || seems) && !held?.cut;
    found.large = json && text.length > MAX_PARSED && !all;
    if (json && !found.large) {
      try {
        found.node = parseJson(text);
        found.views.push("Tree", "Pretty");
      } catch (error) {
        if (!(error instanceof JsonError)) throw error;
        if (called) found.error = error;
      }
    }
    if (type === "application/x-www-form-urlencoded" && text) found.views.push("Fields");
    const xml = !found.node && text.length <= MAX_PARSED && (/[/+]xml$/.test(type) || /^\s*<\?xml/.test(text)) ? prettyXml(text) : null;
    if (xml) {
      found.xml = xml;
      found.views.push("Pretty");
    }
  }
  if (text === null && !held?.cut && (held || !codingsOf(headers).length)) found.wrongByte = notUtf8(bytes, headers);
  if (held && text !== "") found.views.push(text === null ? "Hex, decompressed" : "Text");
  found.views.push(...(text && !held ? ["Raw", "Hex"] : ["Hex", "Raw"]));
  return found;
}

/** Why what came compressed is shown as it came. */
function Closed({ headers, download }) {
  const why = formsOf(headers).length ? "but is damaged or cut" : "which this browser can't open";
  return html`<p class="note row"><span class="grow">Compressed with <${Plain} text=${codingsOf(headers).join(", ")} />, ${why}: here is what came.</span>${
    download && html`<a class="button tiny" href=${download} download>Download it</a>`}</p>`;
}

/** What stands above a body: its heading, its views, where it can be downloaded. */
const Top = ({ heading, download, children }) => (heading ? html`<div class="head body-head">${heading}${children}<a class="button tiny" href=${
  download} download>Download body</a></div>` : children);

/** The views of a body; `held` is what it holds where it came compressed. */
function Views({ bytes, held, headers, label, heading, download }) {
  const [view, setView] = useState("");
  const [all, setAll] = useState(false);
  const found = useMemo(() => looked(bytes, held, headers, all), [bytes, held, headers, all]);
  const pretty = useMemo(() => found.xml ?? (found.node && view === "Pretty" ? printJson(found.node) : ""), [found, view]);
  const now = found.views.includes(view) ? view : found.views[0];
  return html`<div class="stack body">
    <${Top} heading=${heading} download=${download}><div class="tabs" role="group" aria-label=${`${label} shown as`}>${found.views.map((each) => html`<button
      type="button" key=${each} aria-pressed=${each === now ? "true" : "false"} class=${each === now ? "on" : ""} onClick=${() => setView(each)}>${each}
        </button>`)}</div><//>
    ${held && html`<p class="soft small">Decompressed, ${size(held.bytes.length)} out of ${size(bytes.length)}: <em>Hex</em> and <em>Raw</em> have what
      came.${held.cut && ` Only the first ${size(MOST)} of what it holds are shown.`}</p>`}
    ${!held && found.text === null && codingsOf(headers).length > 0 && html`<${Closed} headers=${headers} download=${download} />`}
    ${found.charset && html`<p class="soft small">Read as ${found.charset}. <em>Hex</em> has the bytes.</p>`}
    ${found.wrongByte >= 0 && html`<p class="note warn">This is not UTF-8: the byte ${hex((held?.bytes ?? bytes)[found.wrongByte], 2)} at ${
      hex(found.wrongByte, 8)} is the first that is wrong.</p>`}
    ${found.error && html`<${Wrong} error=${found.error} />`}
    ${found.large && html`<p class="note row"><span class="grow">This is much JSON for a tree.</span><button type="button"
      class="button tiny" onClick=${() => setAll(true)}>Show it all the same</button></p>`}
    ${now === "Picture" && html`<${Picture} type=${found.picture} bytes=${held?.bytes ?? bytes} />`}
    ${now === "Tree" && html`<${Tree} node=${found.node} />`}
    ${now === "Pretty" && html`<${Text} text=${pretty} label=${`${label}, pretty`} />`}
    ${now === "Fields" && (found.parts ? html`<${Parts} parts=${found.parts} />` : html`<${Form} text=${found.text} />`)}
    ${now === "Text" && html`<${Text} text=${found.text} label=${`${label}, text`} />`}
    ${now === "Raw" && html`<${Text} text=${(held ? null : found.text) ?? readable(bytes)} label=${`${label}, raw`} />`}
    ${now === "Hex" && html`<${Hex} key="came" bytes=${bytes} label=${`${label} in hex`} />`}
    ${now === "Hex, decompressed" && html`<${Hex} key="held" bytes=${held.bytes} label=${`${label} in hex, decompressed`} />`}
  </div>`;
}

function Compressed({ bytes, headers, ...rest }) {
  const { heading, download } = rest;
  const [held] = useLoaded(() => decompress(bytes, headers), { on: [bytes, headers] });
  if (held === undefined) return html`<${Top} heading=${heading} download=${download} /><p class="starting">Decompressing…</p>`;
  return html`<${Views} bytes=${bytes} held=${held} headers=${headers} ...${rest} />`;
}

/** A body: its bytes, and the headers of headersOf that came with it; `download` is the address of what came, and `heading` stands above. */
export function Body({ bytes, headers, label = "Body", heading, download }) {
  if (!bytes.length) return html`<${Top} heading=${heading} download=${download} /><p class="soft">No body</p>`;
  const As = formsOf(headers).length ? Compressed : Views;
  return html`<${As} bytes=${bytes} headers=${headers} label=${label} heading=${heading} download=${download} />`;
}
