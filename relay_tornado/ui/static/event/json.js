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
const STRING = /"(?:[^"\\\0-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*/y;
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
    const raw = this.take(STRING);
    if (this.text[this.at] !== '"') {
      if (this.text[this.at] === "\\") this.fail("There is no such escape in a string");
      if (this.at < this.text.length) this.fail("A string can't hold a line end or a control character");
      throw new JsonError("This string is not closed", this.text, from);
    }
    this.at += 1;
    return { kind: "string", raw: `${raw}"`, value: JSON.parse(`${raw}"`) };
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

/** What an object or array holds, as [[label, node]…]; null for what holds nothing. */
export function children(node) {
  if (node.kind === "object") return node.entries.map((entry) => [entry.name, entry.node]);
  if (node.kind === "array") return node.items.map((item, index) => [index, item]);
  return null;
}

/** A node as an indented text. */
export function printJson(node, depth = 0) {
  const inner = children(node);
  if (!inner) return node.raw;
  const [open, close] = node.kind === "object" ? "{}" : "[]";
  if (!inner.length) return open + close;
  const pad = "  ".repeat(depth + 1);
  const lines = inner.map(([label, each]) => pad + (node.kind === "object" ? `${JSON.stringify(label)}: ` : "") + printJson(each, depth + 1));
  return `${open}\n${lines.join(",\n")}\n${"  ".repeat(depth)}${close}`;
}
