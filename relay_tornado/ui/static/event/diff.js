// What differs between two texts, by lines, and between two JSON values, by place.
import { beginning } from "./plain.js";

const MAX_EDITS = 1000;

/** The lines of both texts in turn: [{kind: "same" | "left" | "right", text}]. By Myers; where too much differs, all of one and then all of
 *  the other. */
export function diffLines(left, right) {
  const a = left.split(/\r?\n/);
  const b = right.split(/\r?\n/);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const same = (lines) => lines.map((text) => ({ kind: "same", text }));
  return [...same(a.slice(0, head)), ...middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail)), ...same(a.slice(a.length - tail))];
}

function middle(a, b) {
  const whole = () => [...a.map((text) => ({ kind: "left", text })), ...b.map((text) => ({ kind: "right", text }))];
  if (!a.length || !b.length) return whole();
  const most = Math.min(a.length + b.length, MAX_EDITS);
  const trace = [];
  let reach = new Map([[1, 0]]);
  for (let edits = 0; edits <= most; edits += 1) {
    trace.push(new Map(reach));
    for (let k = -edits; k <= edits; k += 2) {
      let x = k === -edits || (k !== edits && reach.get(k - 1) < reach.get(k + 1)) ? reach.get(k + 1) : reach.get(k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return walked(a, b, trace);
    }
  }
  return whole();
}

function walked(a, b, trace) {
  const lines = [];
  let x = a.length;
  let y = b.length;
  for (let edits = trace.length - 1; edits >= 0; edits -= 1) {
    const reach = trace[edits];
    const k = x - y;
    const before = k === -edits || (k !== edits && reach.get(k - 1) < reach.get(k + 1)) ? k + 1 : k - 1;
    const fromX = reach.get(before);
    const fromY = fromX - before;
    while (x > fromX && y > fromY && x > 0 && y > 0) {
      x -= 1;
      y -= 1;
      lines.push({ kind: "same", text: a[x] });
    }
    if (edits === 0) break;
    if (x === fromX) {
      y -= 1;
      lines.push({ kind: "right", text: b[y] });
    } else {
      x -= 1;
      lines.push({ kind: "left", text: a[x] });
    }
  }
  return lines.reverse();
}

/** A function that tells a node's number, which equal values share: the order of names does not count. (A text of each would hold all that is
 *  below it, at each level anew.) */
function numbers() {
  const known = new Map();
  const kept = new Map();
  const numberOf = (node) => {
    let found = kept.get(node);
    if (found !== undefined) return found;
    let text;
    if (node.kind === "object") text = `{${node.entries.map(({ name, node: each }) => `${JSON.stringify(name)}:${numberOf(each)}`).sort().join(",")}}`;
    else if (node.kind === "array") text = `[${node.items.map(numberOf).join(",")}]`;
    else text = node.kind === "string" ? JSON.stringify(node.value) : node.raw;
    found = known.get(text);
    if (found === undefined) known.set(text, (found = known.size));
    kept.set(node, found);
    return found;
  };
  return numberOf;
}

/** Names of an object by the order of their coming; the second of a name is told apart by its number. */
function byName(node) {
  const found = new Map();
  const turns = new Map();
  for (const { name, node: each } of node.entries) {
    const turn = (turns.get(name) ?? 0) + 1;
    turns.set(name, turn);
    found.set(JSON.stringify(name) + (turn > 1 ? ` (${turn})` : ""), each);
  }
  return found;
}

const MAX_KEY = 200;
const MAX_FOUND = 500;

/** The path of what stands under a key; a key that is as long as a body is cut. */
function step(path, key) {
  if (key.length > MAX_KEY) return `${path}[${beginning(key, MAX_KEY)}…]`;
  return /^"[A-Za-z_]\w*"$/.test(key) ? `${path}${path && "."}${key.slice(1, -1)}` : `${path}[${key}]`;
}

/** Where two JSON values differ: [{path, left, right}], a side that has nothing there is null; at most MAX_FOUND. */
export function diffJson(left, right) {
  const found = [];
  const numberOf = numbers();
  const compare = (a, b, path) => {
    if (found.length >= MAX_FOUND || (a && b && numberOf(a) === numberOf(b))) return;
    if (a?.kind === "object" && b?.kind === "object") {
      const mine = byName(a);
      const yours = byName(b);
      for (const key of new Set([...mine.keys(), ...yours.keys()])) compare(mine.get(key) ?? null, yours.get(key) ?? null, step(path, key));
    } else if (a?.kind === "array" && b?.kind === "array") {
      compareItems(a.items, b.items, path);
    } else found.push({ path: path || "(all)", left: a, right: b });
  };
  // What both begin and end with is passed over, so that an item that was put in between is one difference.
  const compareItems = (a, b, path) => {
    const shorter = Math.min(a.length, b.length);
    let head = 0;
    while (head < shorter && numberOf(a[head]) === numberOf(b[head])) head += 1;
    let tail = 0;
    while (tail < shorter - head && numberOf(a[a.length - 1 - tail]) === numberOf(b[b.length - 1 - tail])) tail += 1;
    const end = Math.max(a.length, b.length) - tail;
    for (let index = head; index < end; index += 1) {
      compare(index < a.length - tail ? a[index] : null, index < b.length - tail ? b[index] : null, `${path}[${index}]`);
    }
  };
  compare(left, right, "");
  return found;
}

/** Lists of [name, value] side by side: [{name, left: [values], right: [values], same}], in the order of the left, then what only the right has. */
export function diffPairs(left, right, fold = (name) => name) {
  const rows = new Map();
  for (const [side, pairs] of [["left", left], ["right", right]]) {
    for (const [name, value] of pairs) {
      const key = fold(name);
      if (!rows.has(key)) rows.set(key, { name, left: [], right: [] });
      rows.get(key)[side].push(value);
    }
  }
  const same = ({ left: a, right: b }) => a.length === b.length && a.every((value, index) => value === b[index]);
  return [...rows.values()].map((row) => ({ ...row, same: same(row) }));
}
