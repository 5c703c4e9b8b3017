// JSON as it was written: numbers keep their digits, names may come twice, and an error knows its line and column.
//
// A node is {kind, raw} for "string" (with its `value`), "number" and "word" (true, false, null), {kind: "object", entries: [{name, node}]} or
// {kind: "array", items: [node]}. Names are never keys of a JavaScript object, so __proto__ is a name like any other.

const MAX_DEPTH = 500;

/** Where a text is no JSON. `line` and `column` count from 1; `excerpt` is the line's part around it, `pointer` the place in that. */
export class JsonError extends Error {
  constructor(message, text, at) {
    const before = text.slice(0, at);
    const start = before.lastIndexOf("\n") + 1;
    const end = text.indexOf("\n", at);
    const line = text.slice(start, end < 0 ? text.length : end);
    const from = Math.max(0, at - start - 60);
    super(message);
    this.at = at;
    this.line = before.split("\n").length;
    this.column = at - start + 1;
    this.excerpt = line.slice(from, from + 120).replace(/\r$/, "");
    this.pointer = at - start - from;
  }
}

const SPACE = /[ \t\r\n]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
/** A part of a string: one match of a few million characters is more than browsers have room for. */
const STRING = /(?:[^"\\\0-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})){1,100000}/y;
const WORD = /[A-Za-z_$][\w$]*/y;

class Reader {
  constructor(text) {
    this.text = text;
    this.at = text.startsWith("\ufeff") ? 1 : 0;
    this.depth = 0;
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)?.[0] ?? "";
    this.at += found.length;
    return found;
  }

  fail(message, at = this.at) {
    throw new JsonError(at >= this.text.length ? `${message}, and the text ends here` : message, this.text, at);
  }

  value(expected) {
    this.take(SPACE);
    const first = this.text[this.at];
    if (first === "{") return this.nested(() => this.object());
    if (first === "[") return this.nested(() => this.array());
    if (first === '"') return this.string();
    if (first === "-" || (first >= "0" && first <= "9")) return this.number();
    const at = this.at;
    const word = this.take(WORD);
    if (["true", "false", "null"].includes(word)) return { kind: "word", raw: word };
    if (word) this.fail(`${word.slice(0, 40)} is no value of JSON`, at);
    if (first === "'") this.fail("A string is written in double quotes");
    return this.fail(`There should be ${expected}`);
  }

  nested(read) {
    if (this.depth >= MAX_DEPTH) this.fail(`It is nested more than ${MAX_DEPTH} deep`);
    this.depth += 1;
    this.at += 1;
    const node = read();
    this.depth -= 1;
    return node;
  }

  string() {
    const from = this.at;
    this.at += 1;
    while (this.take(STRING));
    if (this.text[this.at] !== '"') {
      if (this.text[this.at] === "\\") this.fail("There is no such escape in a string");
      if (this.at < this.text.length) this.fail("A string can't hold a line end or a control character");
      throw new JsonError("This string is not closed", this.text, from);
    }
    this.at += 1;
    const raw = this.text.slice(from, this.at);
    return { kind: "string", raw, value: JSON.parse(raw) };
  }

  number() {
    const raw = this.take(NUMBER);
    if (!raw) this.fail("There should be a digit", this.at + 1);
    if (/[\w.+]/.test(this.text[this.at] ?? "")) this.fail("This is no number of JSON");
    return { kind: "number", raw };
  }

  object() {
    const entries = [];
    this.take(SPACE);
    if (this.text[this.at] === "}") return this.closed({ kind: "object", entries });
    for (;;) {
      this.take(SPACE);
      if (entries.length && this.text[this.at] === "}") this.fail("There is a comma before this brace");
      if (this.text[this.at] !== '"') this.fail("There should be a name in double quotes");
      const name = this.string().value;
      this.take(SPACE);
      if (this.text[this.at] !== ":") this.fail("There should be a colon behind the name");
      this.at += 1;
      entries.push({ name, node: this.value("a value") });
      this.take(SPACE);
      if (this.text[this.at] === "}") return this.closed({ kind: "object", entries });
      if (this.text[this.at] !== ",") this.fail("There should be a comma or a closing brace");
      this.at += 1;
    }
  }

  array() {
    const items = [];
    this.take(SPACE);
    if (this.text[this.at] === "]") return this.closed({ kind: "array", items });
    for (;;) {
      this.take(SPACE);
      if (items.length && this.text[this.at] === "]") this.fail("There is a comma before this bracket");
      items.push(this.value("a value"));
      this.take(SPACE);
      if (this.text[this.at] === "]") return this.closed({ kind: "array", items });
      if (this.text[this.at] !== ",") this.fail("There should be a comma or a closing bracket");
      this.at += 1;
    }
  }

  closed(node) {
    this.at += 1;
    return node;
  }
}

/** The node of a JSON text. Throws JsonError. */
export function parseJson(text) {
  const reader = new Reader(text);
  const node = reader.value("a value");
  reader.take(SPACE);
  if (reader.at < text.length) reader.fail("Something follows the value");
  return node;
}

/** Longer strings are not looked into. */
const MAX_NESTED = 1_000_000;

/** The node of an object or array that stands as a text in a string; null for any other node. */
export function nestedIn({ kind, value }) {
  if (kind !== "string" || value.length > MAX_NESTED || !/^\s*[[{][^]*[\]}]\s*$/.test(value)) return null;
  try {
    return parseJson(value);
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    return null;
  }
}

/** How many values an object or array holds; null for what holds nothing. */
export const sizeOf = (node) => (node.entries ?? node.items)?.length ?? null;

/** What an object or array holds, or the first `most` of it, as [[label, node]…]; null for what holds nothing. */
export function children(node, most = Infinity) {
  if (node.kind === "object") return node.entries.slice(0, most).map((entry) => [entry.name, entry.node]);
  if (node.kind === "array") return node.items.slice(0, most).map((item, index) => [index, item]);
  return null;
}

/** Of the nodes that a tree begins with open: how deep they lie, how many values are in one, and in all. */
const OPEN_DEPTH = 3;
const OPEN_EACH = 100;
const OPEN_MOST = 500;

/** The nodes that a tree begins with open: the outer ones first, each with all that it holds. */
export function opened(root) {
  const found = new Set();
  let left = OPEN_MOST;
  let level = [root];
  for (let at = 0; at < OPEN_DEPTH && level.length; at += 1) {
    const next = [];
    for (const node of level) {
      const size = sizeOf(node);
      if (!size || size > Math.min(OPEN_EACH, left)) continue;
      left -= size;
      found.add(node);
      for (const [, inner] of children(node)) next.push(inner);
    }
    level = next;
  }
  return found;
}

/** Deeper values stand in one line. */
const MAX_PRINTED = 200;
/** Deeper lines begin no further to the right, so that a text is not many times as long as its value. */
const MAX_INDENT = 24;

const INDENTS = Array.from({ length: MAX_INDENT + 1 }, (_, depth) => "  ".repeat(depth));

export const indent = (depth) => INDENTS[Math.min(depth, MAX_INDENT)];

/** A node as an indented text. */
export function printJson(root) {
  const pieces = [];
  const print = (node, depth) => {
    const size = sizeOf(node);
    if (size === null) {
      pieces.push(node.raw);
      return;
    }
    const [open, close] = node.kind === "object" ? "{}" : "[]";
    const flat = depth >= MAX_PRINTED || !size;
    const pad = flat ? "" : `\n${indent(depth + 1)}`;
    pieces.push(open);
    for (let index = 0; index < size; index += 1) {
      pieces.push(index ? `,${pad || " "}` : pad);
      if (node.kind === "object") pieces.push(JSON.stringify(node.entries[index].name), ": ");
      print(node.kind === "object" ? node.entries[index].node : node.items[index], depth + 1);
    }
    pieces.push(flat ? close : `\n${indent(depth)}${close}`);
  };
  print(root, 0);
  return pieces.join("");
}
