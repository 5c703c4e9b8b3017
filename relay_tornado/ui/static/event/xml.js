// XML with a line for each tag, for eyes: read as text, never as a document.
import { indent } from "./json.js";

const MAX_DEPTH = 200;

const TOKEN = /<!--[^]*?-->|<!\[CDATA\[[^]*?\]\]>|<\?[^]*?\?>|<!DOCTYPE(?:[^[>]|\[[^\]]*\])*>|<\/?[^\s<>/!?](?:"[^"]*"|'[^']*'|[^<>"'])*>|[^<]+|</g;

/** The text, indented; null where it does not look like XML, its tags don't close in turn, or it is nested deeper than people do. */
export function prettyXml(text) {
  const lines = [];
  const open = [];
  // What the line at hand holds: an element with nothing but text stays on one line.
  let flat = false;
  const put = (piece) => lines.push(indent(open.length) + piece);
  for (const [token] of text.trim().matchAll(TOKEN)) {
    if (/^<\/[^<>]/.test(token)) {
      const name = token.slice(2, -1).trim();
      if (open.pop() !== name) return null;
      if (flat) lines[lines.length - 1] += token;
      else put(token);
      flat = false;
    } else if (/^<[^!?<]/.test(token) && token.length > 1) {
      put(token);
      flat = !token.endsWith("/>");
      if (flat && open.push(token.slice(1, -1).split(/[\s/]/, 1)[0]) > MAX_DEPTH) return null;
    } else if (token.startsWith("<")) {
      if (token === "<") return null;
      if (flat && token.startsWith("<![CDATA[")) lines[lines.length - 1] += token;
      else put(token);
    } else if (token.trim()) {
      if (!lines.length) return null;
      if (flat) lines[lines.length - 1] += token.trim();
      else put(token.trim());
    }
  }
  return open.length || !lines.length ? null : lines.join("\n");
}
