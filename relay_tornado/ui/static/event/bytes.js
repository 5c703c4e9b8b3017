// Bytes and texts: base64, UTF-8, hex dumps.

/** The bytes of a base64 text; none where it is not base64. */
export function fromBase64(text) {
  let binary;
  try {
    binary = atob(text ?? "");
  } catch {
    return new Uint8Array();
  }
  return fromLatin1(binary);
}

export const toBase64 = (bytes) => btoa(latin1(bytes));

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

export const encode = (text) => encoder.encode(text);

/** The text of bytes that are UTF-8, null for others. */
export function utf8(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

/** The text of any bytes, with U+FFFD for what is not UTF-8. */
export const readable = (bytes) => lenient.decode(bytes);

/** One character a byte, by its number. */
export function latin1(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return text;
}

/** The bytes of such a text. */
export function fromLatin1(text) {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** Pieces of bytes as one. */
export function joined(pieces) {
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** The exact bytes of a log's body. */
export const bodyOf = (log) => (log.body_base64 ? fromBase64(log.body_base64) : encode(log.body ?? ""));

export const hex = (value, digits) => value.toString(16).padStart(digits, "0");

/** A hex dump of the first `count` bytes, 16 a line: offset, bytes, and the characters that ASCII has for them. */
export function hexDump(bytes, count = bytes.length) {
  const lines = [];
  for (let at = 0; at < Math.min(count, bytes.length); at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const pairs = row.map((byte) => hex(byte, 2));
    const left = pairs.slice(0, 8).join(" ").padEnd(23);
    const right = pairs.slice(8).join(" ").padEnd(23);
    lines.push(`${hex(at, 8)}  ${left}  ${right}  ${row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("")}`);
  }
  return lines.join("\n");
}

const PICTURES = [
  ["image/png", (head) => head.startsWith("\x89PNG\r\n\x1a\n")],
  ["image/jpeg", (head) => head.startsWith("\xff\xd8\xff")],
  ["image/gif", (head) => /^GIF8[79]a/.test(head)],
  ["image/webp", (head) => /^RIFF[^]{4}WEBP/.test(head)],
  ["image/avif", (head) => /^[^]{4}ftypavi[fs]/.test(head)],
  ["image/bmp", (head) => head.startsWith("BM")],
  ["image/x-icon", (head) => head.startsWith("\0\0\x01\0")],
];
const SAME = new Map([["image/jpg", "image/jpeg"], ["image/vnd.microsoft.icon", "image/x-icon"], ["image/x-ms-bmp", "image/bmp"]]);

/** The type of a raster image where the declared type and the bytes both say so, else null. SVG is none: it can hold scripts. */
export function pictureType(declared, bytes) {
  const type = SAME.get(declared) ?? declared;
  const found = PICTURES.find(([name]) => name === type);
  return found?.[1](latin1(bytes.subarray(0, 16))) ? type : null;
}
