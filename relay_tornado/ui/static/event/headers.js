// A request's headers: the raw block in the sender's order, and what is read from it.
import { fromBase64, fromLatin1, latin1, utf8 } from "./bytes.js";

const blank = (character) => character === " " || character === "\t";

/** Without spaces and tabs at both ends. (A regular expression for those at the end takes the square of the time.) */
function trim(text) {
  let [from, to] = [0, text.length];
  while (from < to && blank(text[from])) from += 1;
  while (to > from && blank(text[to - 1])) to -= 1;
  return text.slice(from, to);
}

/** The headers of a raw block: [{name, value, raw}], in order. `value` is UTF-8 where its bytes are that, else Latin-1; `raw` its bytes, one
 *  character each. A line that begins with a space goes on with the one before. */
export function parseBlock(bytes) {
  const headers = [];
  for (const line of latin1(bytes).split(/\r?\n/)) {
    if (/^[ \t]/.test(line) && headers.length) headers.at(-1).raw += ` ${trim(line)}`;
    else if (line) {
      const colon = line.indexOf(":");
      headers.push(colon < 0 ? { name: line, raw: "" } : { name: line.slice(0, colon), raw: trim(line.slice(colon + 1)) });
    }
  }
  for (const header of headers) header.value = utf8(fromLatin1(header.raw)) ?? header.raw;
  return headers;
}

/** The headers of a log: its raw block, or where it has none what it has by name. */
export function headersOf(log) {
  if (log.headers_base64) return parseBlock(fromBase64(log.headers_base64));
  return Object.entries(log.headers ?? {}).flatMap(([name, values]) => [values].flat().map((value) => ({ name, value: String(value), raw: null })));
}

/** The first value of a header, "" where there is none. */
export function valueOf(headers, name) {
  return headers.find((header) => header.name.toLowerCase() === name.toLowerCase())?.value ?? "";
}

/** A Content-Type in its parts: {type: "text/html", parameters: Map}. */
export function mediaType(value) {
  const parameters = new Map();
  for (const [, name, text] of value.matchAll(/;\s*([^=;\s]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)/g)) {
    parameters.set(name.toLowerCase(), text.startsWith('"') ? text.slice(1, -1).replace(/\\(.)/g, "$1") : text.trim());
  }
  return { type: value.split(";", 1)[0].trim().toLowerCase(), parameters };
}
