// What a Content-Encoding did to a body, undone by what the browser has for it.
import { joined } from "./bytes.js";

/** Bytes that come out at most: a sender decides how many there would be. */
export const MOST = 4 * 1024 * 1024;
/** Bytes that go in at once. All that they become is made before it can be stopped: up to a thousand times as much, of brotli some million times. */
const PIECE = 4096;
const PIECES = { brotli: 16, zstd: 512 };

/** From a coding's name to the forms that it may have, the one that it should have first. */
const FORMS = new Map([
  ["gzip", ["gzip"]], ["x-gzip", ["gzip"]], ["deflate", ["deflate", "deflate-raw"]], ["br", ["brotli"]], ["zstd", ["zstd"]],
]);

function knows(form) {
  try {
    return Boolean(new DecompressionStream(form));
  } catch {
    return false;
  }
}

/** The codings that a body with these headers came in, in their order. */
export function codingsOf(headers) {
  const values = headers.filter(({ name }) => name.toLowerCase() === "content-encoding").map(({ value }) => value);
  return values.join().toLowerCase().split(",").map((each) => each.trim()).filter((each) => each && each !== "identity");
}

/** The forms in which the browser may decompress a body with these headers; none where it can't, or where nothing is compressed. */
export function formsOf(headers) {
  const codings = codingsOf(headers);
  return ((codings.length === 1 && FORMS.get(codings[0])) || []).filter(knows);
}

/** One form undone, up to a few more bytes than MOST. Throws where the bytes are not in it. */
async function undone(bytes, form) {
  const { readable, writable } = new DecompressionStream(form);
  const writer = writable.getWriter();
  const feed = async () => {
    const piece = PIECES[form] ?? PIECE;
    for (let at = 0; at < bytes.length; at += piece) await writer.write(bytes.subarray(at, at + piece));
    await writer.close();
  };
  // What goes wrong there is told to who reads.
  feed().catch(() => {});
  const reader = readable.getReader();
  const parts = [];
  let size = 0;
  while (size <= MOST) {
    const { done, value } = await reader.read();
    if (done) return joined(parts);
    parts.push(value);
    size += value.length;
  }
  reader.cancel();
  return joined(parts);
}

/** At most MOST bytes, cut before a character where they are text. */
function beginning(bytes) {
  let end = MOST;
  while (end > MOST - 4 && (bytes[end] & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}

/** What a compressed body holds: {bytes, cut}, `cut` where that is only its beginning. null where it is not compressed, or can't be decompressed. */
export async function decompress(bytes, headers) {
  for (const form of bytes.length ? formsOf(headers) : []) {
    try {
      const held = await undone(bytes, form);
      const cut = held.length > MOST;
      return { bytes: cut ? beginning(held) : held, cut };
    } catch {
      // It is in the next form, or in none.
    }
  }
  return null;
}
