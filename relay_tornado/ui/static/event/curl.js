// A request as a command for a POSIX shell that sends the same bytes with curl.
import { encode, toBase64, utf8 } from "./bytes.js";
import { hasHidden } from "./plain.js";

const MAX_ARGUMENT = 100_000;
/** What curl makes by itself, or what belongs to the connection that was. */
export const CONNECTION = new Set([
  "host", "content-length", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect",
]);
/** What curl adds where it is not told otherwise. */
const ADDED = ["User-Agent", "Accept", "Content-Type"];

/** One word for a shell, whatever it holds but NUL. */
export const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** A word for text that should not stand in a terminal as it is, or is not UTF-8: printf makes its bytes, given one character each. Older shells
 *  replace a "!" and what follows by a command from before, even in quotes within a substitution. */
const printed = (raw) => `"$(printf %b '${raw.replace(/[^\w #$&()*+,./:;<=>?@[\]^{|}~-]/g, octal)}')"`;
const octal = (character) => `\\0${character.charCodeAt(0).toString(8).padStart(3, "0")}`;

const bytesAs = (text) => String.fromCharCode(...encode(text));

function headerWord({ name, value, raw }) {
  // curl takes "Name:" as a wish to leave a header out, and "Name;" as one to send it empty.
  const line = value === "" ? `${name};` : `${name}: ${value}`;
  const foreign = raw != null && utf8(Uint8Array.from(raw, (each) => each.charCodeAt(0))) === null;
  return foreign || hasHidden(line) ? printed(`${bytesAs(name)}: ${raw ?? bytesAs(value)}`) : quote(line);
}

/** The command: `headers` as headersOf gives them, `body` bytes. A body that is no plain text is given in base64. */
export function curl({ method, url, headers, body }) {
  const had = new Set(headers.map(({ name }) => name.toLowerCase()));
  const sends = body.length > 0 || (had.has("content-length") && method !== "GET" && method !== "HEAD");
  const parts = ["curl --globoff --path-as-is"];
  if (method === "HEAD" && !sends) parts[0] += " --head";
  else if (method !== (sends ? "POST" : "GET")) parts[0] += ` --request ${quote(method)}`;
  parts[0] += ` ${hasHidden(url) ? printed(bytesAs(url)) : quote(url)}`;
  for (const header of headers) if (!CONNECTION.has(header.name.toLowerCase())) parts.push(`--header ${headerWord(header)}`);
  for (const name of ADDED) if (!had.has(name.toLowerCase()) && (sends || name !== "Content-Type")) parts.push(`--header ${name}:`);
  if (sends) parts.push("--header Expect:");
  if (!sends) return parts.join(" \\\n  ");
  const text = body.length <= MAX_ARGUMENT ? utf8(body) : null;
  if (text !== null && !hasHidden(text.replace(/[\n\t]/g, ""))) return [...parts, `--data-raw ${quote(text)}`].join(" \\\n  ");
  return `base64 -d <<'EOF' |\n${toBase64(body).replace(/.{76}/g, "$&\n")}\nEOF\n${[...parts, "--data-binary @-"].join(" \\\n  ")}`;
}
