// What a text holds that eyes would not see, or that would change how they see the rest: controls, and marks of direction.

/** C0 and C1 controls, soft hyphen, zero-width and bidirectional characters, fillers and blanks that look like nothing, separators of lines, tags,
 *  selectors of variants (but those of emoji), halves of a pair. */
const HIDDEN = new RegExp([
  "[\\0-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f]",
  "[\\u2800\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}\\u{e0100}-\\u{e01ef}]",
  "[\\ud800-\\udbff](?![\\udc00-\\udfff])", "(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
].join("|"), "u");
/** What goes on behind thirty combining marks in a row: no script has that, and browsers break down at some ten thousand. */
const PILE = /(?<=\p{M}{30})\p{M}+/u;
const ALL = new RegExp(`${HIDDEN.source}|${PILE.source}`, "gu");

const NAMES = new Map([
  [0x00, "NUL"], [0x07, "BEL"], [0x08, "BS"], [0x09, "TAB"], [0x0a, "LF"], [0x0d, "CR"], [0x1b, "ESC"], [0x7f, "DEL"], [0xad, "SHY"],
  [0x200b, "ZWSP"], [0x200e, "LRM"], [0x200f, "RLM"], [0x202a, "LRE"], [0x202b, "RLE"], [0x202c, "PDF"], [0x202d, "LRO"], [0x202e, "RLO"],
  [0x2066, "LRI"], [0x2067, "RLI"], [0x2068, "FSI"], [0x2069, "PDI"], [0xfeff, "BOM"],
]);

/** Whether so many marks stand on one character that no browser can draw it. */
const hasPile = (text) => PILE.test(text);

export const hasHidden = (text) => HIDDEN.test(text) || hasPile(text);

/** The short name of a hidden character: RLO, or U+2028; MARK where it is too many marks. */
function nameOf(character) {
  if (!HIDDEN.test(character)) return "MARK";
  const code = character.codePointAt(0);
  return NAMES.get(code) ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** What a run of equal hidden characters is called: RLO, or RLO ×9. */
export const markName = (character, count) => nameOf(character) + (count > 1 ? ` ×${count}` : "");

/** A text cut into [text, hidden, count]: `hidden` is the character that stands `count` times behind the text, "" at the end. With `lines`, line
 *  ends and tabs stay in it. */
export function cut(text, lines = false) {
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(ALL)) {
    const character = found[0];
    if (lines && (character === "\n" || character === "\t" || (character === "\r" && text[found.index + 1] === "\n"))) continue;
    const last = parts.at(-1);
    if (last?.[1] === character && found.index === from) last[2] += 1;
    else if (!HIDDEN.test(String.fromCodePoint(character.codePointAt(0)))) parts.push([text.slice(from, found.index), "\u0300", [...character].length]);
    else parts.push([text.slice(from, found.index), character, 1]);
    from = found.index + character.length;
  }
  parts.push([text.slice(from), "", 0]);
  return parts;
}

/** The pieces of a cut text as one text again, the names of what is hidden in brackets. */
export const bracketed = (parts) => parts.map(([before, hidden, count]) => before + (hidden && `[${markName(hidden, count)}]`)).join("");

/** The same for a whole text, for places that hold no elements (titles, labels). */
export const shown = (text) => (hasHidden(text) ? bracketed(cut(text)) : text);

/** The first `most` characters of a text, or one fewer: both halves of a pair, or none. */
export const beginning = (text, most) => (text.length <= most ? text : text.slice(0, most - Number(/[\ud800-\udbff]/.test(text[most - 1]))));

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
/** Characters that are soon laid out, whatever they are. */
const SOON = 100;
/** Characters that take the best part of a second where such letters are among them. */
const HEAVY = 20_000;
/** The first thousand characters of what is left, or fewer: up to a line's end, or a space, or at least not before a mark of the last letter. */
const PIECE = /.{1,1000}$|.{1,999}\n|.{1,999} |.{1,1000}(?!\p{M})|.{1,1000}/gsu;

/** Whether a browser stands still over a text where it is shown as a whole. */
export const isHeavy = (text) => hasPile(text) || (text.length > HEAVY && RIGHT_TO_LEFT.test(text));

/** The pieces of a text whose letters run from right to left here and there: for them browsers take a hundred times as long as for others. None where
 *  it needs no pieces. */
export const pieces = (text) => (text.length > SOON && RIGHT_TO_LEFT.test(text) ? text.match(PIECE) : []);

/** The direction of a text, by its first letter. */
export const directionOf = (text) => (RIGHT_TO_LEFT.test(/\p{L}/u.exec(text)?.[0] ?? "") ? "rtl" : "ltr");
