// The text of a body: by which charset it is read, and where it is none.
import { encode, latin1, readable, utf8 } from "./bytes.js";
import { mediaType, valueOf } from "./headers.js";

/** The types of what has to be text. */
const TEXT = /^text\/|[/+](json|xml)$|^application\/x-www-form-urlencoded$/;

/** By which UTF-16 the mark at the beginning says that bytes are to be read; "" where there is none. */
const utf16 = ([first, second]) => (first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff ? "utf-16be" : "");

/** The text of a body that came with these headers, and by what it was read: {text, charset}; `text` is null where it is none. UTF-8 is tried first, as
 *  many senders name a wrong charset, and is "" here. Only UTF-16 comes before it: much of that would pass as UTF-8 with NULs. */
export function textOf(bytes, headers) {
  const { type, parameters } = mediaType(valueOf(headers, "Content-Type"));
  const charset = ((!type || TEXT.test(type)) && utf16(bytes)) || (parameters.get("charset") ?? "");
  const wide = /^utf-?16/i.test(charset);
  const text = wide ? null : utf8(bytes);
  if (text !== null) return { text, charset: "" };
  try {
    const decoder = new TextDecoder(charset, { fatal: true });
    return { text: decoder.decode(bytes), charset: decoder.encoding };
  } catch {
    return { text: wide ? utf8(bytes) : null, charset: "" };
  }
}

/** Where the first byte stands that is not UTF-8; -1 where all are, or where the headers do not say that this is text. */
export function notUtf8(bytes, headers) {
  if (!TEXT.test(mediaType(valueOf(headers, "Content-Type")).type)) return -1;
  const text = readable(bytes);
  for (let [at, from] = [0, 0]; ; at += 3) {
    const index = text.indexOf("\ufffd", from);
    if (index < 0) return -1;
    at += encode(text.slice(from, index)).length;
    // The character itself may have been sent.
    if (latin1(bytes.subarray(at, at + 3)) !== "\xef\xbf\xbd") return at;
    from = index + 1;
  }
}
