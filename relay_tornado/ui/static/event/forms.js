// Fields of queries and forms, in their order; a name may come more than once.
import { encode, fromLatin1, latin1, readable } from "./bytes.js";
import { mediaType, parseBlock, valueOf } from "./headers.js";

const decoded = (text) => (/[%+]/.test(text) ? new URLSearchParams(`=${text}`).get("") : text);

/** [[name, value]…] of a query or of an application/x-www-form-urlencoded body. (Browsers list a million of URLSearchParams in half a minute at best.) */
export function fields(text) {
  return (text ?? "").split("&").filter(Boolean).map((piece) => {
    const equals = piece.indexOf("=");
    return equals < 0 ? [decoded(piece), ""] : [decoded(piece.slice(0, equals)), decoded(piece.slice(equals + 1))];
  });
}

/** The parts of a multipart/form-data body as they stand in it, for partOf; null where it is none with this boundary. */
export function multipart(bytes, boundary) {
  if (!boundary) return null;
  const mark = latin1(encode(`--${boundary}`));
  const text = `\r\n${latin1(bytes)}`;
  const pieces = text.split(`\r\n${mark}`);
  if (pieces.length < 3 || !pieces.at(-1).startsWith("--")) return null;
  const parts = [];
  for (const piece of pieces.slice(1, -1)) {
    const begin = piece.indexOf("\r\n");
    const end = piece.indexOf("\r\n\r\n", begin);
    if (begin < 0 || end < 0) return null;
    parts.push({ head: piece.slice(begin + 2, end + 2), content: piece.slice(end + 4) });
  }
  return parts;
}

/** What a part is: {name, file, type, bytes}. */
export function partOf({ head, content }) {
  const headers = parseBlock(fromLatin1(head));
  const { parameters } = mediaType(valueOf(headers, "Content-Disposition"));
  return {
    name: parameters.get("name") ?? "", file: parameters.get("filename") ?? null, type: valueOf(headers, "Content-Type"), bytes: fromLatin1(content),
  };
}

const MAX_VALUE = 4096;

/** A part's value as a text, cut after so many bytes. */
export const valueText = (part) => readable(part.bytes.subarray(0, MAX_VALUE)) + (part.bytes.length > MAX_VALUE ? "…" : "");
