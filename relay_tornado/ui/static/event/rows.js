// Records in the order of their coming, each once. They lie oldest first, since most come in at the new end; they are counted newest first.

const before = (a, b) => a.at < b.at || (a.at === b.at && a.seq < b.seq);

export class Rows {
  constructor(records = []) {
    this.items = records;
    this.ids = new Set(records.map((each) => each.id));
  }

  get length() {
    return this.items.length;
  }

  get newest() {
    return this.items.at(-1);
  }

  /** The id of the oldest event, "" where there is none. */
  get oldestId() {
    return this.items.find((each) => !each.gap)?.id ?? "";
  }

  has(id) {
    return this.ids.has(id);
  }

  at(index) {
    return this.items[this.items.length - 1 - index];
  }

  indexOf(id) {
    return this.ids.has(id) ? this.items.length - 1 - this.items.findLastIndex((each) => each.id === id) : -1;
  }

  /** Those with the indexes `from` to before `to`, oldest first. */
  between(from, to) {
    return this.items.slice(Math.max(0, this.items.length - to), this.items.length - from);
  }

  /** Those that came after a record. */
  after(record) {
    return this.items.filter((each) => before(record, each));
  }

  /** Puts a record where it belongs; one that is there already is not put again. */
  place(record) {
    if (this.ids.has(record.id)) return;
    this.ids.add(record.id);
    let at = this.items.length;
    while (at > 0 && before(record, this.items[at - 1])) at -= 1;
    if (at === this.items.length) this.items.push(record);
    else this.items.splice(at, 0, record);
  }

  /** Puts records, newest first, behind the oldest; returns how many of them were new. */
  extend(records) {
    const fresh = records.filter((each) => !this.ids.has(each.id)).reverse();
    for (const { id } of fresh) this.ids.add(id);
    this.items = [...fresh, ...this.items];
    return fresh.length;
  }

  /** Takes out so many of the oldest. */
  drop(count) {
    for (const { id } of this.items.splice(0, count)) this.ids.delete(id);
  }

  /** Takes over what became of events that are there; whether anything changed. */
  update(records) {
    const fresh = new Map(records.map((record) => [record.id, record]));
    let changes = 0;
    for (let at = this.items.length - 1, left = fresh.size; at >= 0 && left > 0; at -= 1) {
      const record = fresh.get(this.items[at].id);
      if (!record) continue;
      left -= 1;
      const { status, code, edited, resent } = this.items[at];
      if (record.status !== status || record.code !== code || record.edited !== edited || record.resent !== resent) {
        this.items[at] = record;
        changes += 1;
      }
    }
    return changes > 0;
  }
}
