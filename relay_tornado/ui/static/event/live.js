// The events of a bucket as a list that grows at both ends: new ones from the stream, older ones by search, and never more than there is room for.
import { batch, signal } from "../lib.js";
import { get } from "../api.js";
import { follow } from "../stream.js";
import { Gathered } from "./gathered.js";
import { fromFrame, fromGap, fromLog, needsSearch, streamFilter, wants } from "./record.js";
import { Rows } from "./rows.js";

const PAGE = 100;
/** Records that stay while new ones come in, and that wait while the list is paused; older ones are asked for again. */
const KEEP = 2_000;
/** The most that there are at all, after scrolling far back. */
export const MOST = 100_000;
/** Bodies up to this size come with the frames that all subscribers share; larger ones without, and none where a search reads them. */
const MAX_BODY = 65_536;
const LOOK = 1_000;
/** Milliseconds of rest after which the list begins anew instead of reading all that came meanwhile. */
const LONG = 300_000;
/** Pages in a row in which nothing fits, after which somebody has to ask for more. */
const PATIENCE = 40;
const FINAL = new Set(["sent"]);

/** One view of a bucket's events. What shows it reads `version` and calls `row(index)`, 0 is the newest; `start` and `end` are its life. */
export class Live {
  constructor(bucket, filter) {
    this.bucket = bucket;
    this.filter = filter;
    /** Counts changes of the rows. */
    this.version = signal(0);
    this.state = signal("connecting");
    this.paused = signal(false);
    this.waiting = signal(0);
    this.loading = signal(true);
    this.error = signal(null);
    /** Whether nothing older is left; whether there is no room for older ones. */
    this.whole = signal(false);
    this.full = signal(false);
    /** Whether a search has looked far back and found nothing more. */
    this.tired = signal(false);
    this.empty = 0;
    this.filled = false;
    /** Whether there may be events that are on no stream. */
    this.missed = false;
    /** Whether the index of search still builds. */
    this.building = signal(false);
    /** Set by the list while it shows other than the newest events. */
    this.away = false;
    this.rows = new Rows();
    this.held = [];
    this.heldTooMany = false;
    this.incoming = new Gathered(KEEP * 2, (records) => this.enter(records));
    this.cursor = "";
    this.coming = null;
    this.abort = new AbortController();
  }

  get length() {
    return this.rows.length;
  }

  row(index) {
    return this.rows.at(index);
  }

  indexOf(id) {
    return this.rows.indexOf(id);
  }

  /** Whether there may be events that only a search finds. */
  get behind() {
    return needsSearch(this.filter) || this.missed || Boolean(this.error.value);
  }

  // its life

  /** Begins, also once more after the end: then with the rows that it had, and what came meanwhile. */
  start() {
    this.abort = new AbortController();
    if (this.paused.value) this.resume();
    this.filling = this.fill();
    const until = Number(this.filter.to);
    if (until && until < Date.now() / 1000) {
      this.state.value = "past";
      return;
    }
    this.follow();
    if (needsSearch(this.filter)) this.looking = setInterval(() => document.hidden || this.look(), 5 * LOOK);
  }

  follow() {
    const rules = streamFilter(this.filter);
    this.unfollow = follow(this.bucket, { max_body: needsSearch(this.filter) ? 0 : MAX_BODY, ...(rules && { filter: JSON.stringify(rules) }) }, {
      webhook: (frame) => this.took(frame),
      late: () => {
        // More comes in than gets here: the list goes on with the newest, else it would show ever older ones as live.
        if (this.away || this.paused.value) return;
        this.incoming.flush();
        this.unfollow();
        this.follow();
      },
      gap: (gap) => this.incoming.add(fromGap(gap, Math.max(this.rows.newest?.at ?? 0, this.incoming.last?.at ?? 0))),
      subscribed: async ({ head = 0 }, resumed) => {
        // What came between the first page and the subscription is on no stream: look again where there may be such events. Two pages at a time would
        // share a slow link.
        const known = Math.max(this.rows.newest?.seq ?? 0, (await this.filling) ?? 0);
        this.missed ||= !resumed && head > known;
        if (!this.filled || (this.behind && !this.paused.value)) this.fill();
      },
      status: (text) => this.became(text),
    });
  }

  became(text) {
    this.state.value = text;
    if (text === "resting") this.rested = performance.now();
    else if (text === "connecting" && performance.now() - (this.rested ?? Infinity) > LONG && !this.away && !this.paused.value) {
      this.rested = undefined;
      // Not from within the call that opens the old stream again.
      setTimeout(() => {
        if (this.abort.signal.aborted) return;
        this.unfollow();
        this.clear();
        this.follow();
        this.filling = this.fill();
      });
    } else if (text === "live") this.rested = undefined;
  }

  clear() {
    this.rows = new Rows();
    this.incoming.clear();
  }

  end() {
    this.abort.abort();
    this.unfollow?.();
    clearInterval(this.looking);
    clearTimeout(this.soon);
    this.incoming.flush();
    Object.assign(this, { rested: undefined, soon: undefined });
  }

  // what comes in

  took(frame) {
    const record = fromFrame(frame);
    if (needsSearch(this.filter)) this.look();
    else if (wants(this.filter, record)) this.incoming.add(record);
  }

  /** A search finds what is new, a moment later and once the one before is through, unless somebody wants the list to stay as it is. */
  look() {
    this.soon ??= setTimeout(async () => {
      await this.filling;
      this.soon = undefined;
      if (!this.paused.value) this.filling = this.fill();
    }, LOOK);
  }

  enter(records) {
    if (this.paused.value) {
      const news = records.filter((record) => !this.rows.has(record.id));
      this.held.push(...news);
      this.waiting.value += news.length;
      if (this.held.length > KEEP) {
        this.heldTooMany = true;
        this.held = this.held.slice(-KEEP);
      }
      return;
    }
    for (const record of records) this.rows.place(record);
    this.trim();
    this.version.value += 1;
  }

  trim() {
    if (!this.away && this.rows.length > KEEP * 1.25) {
      this.rows.drop(this.rows.length - KEEP);
      this.cursor = this.rows.oldestId;
      this.whole.value = false;
      this.full.value = false;
    } else if (this.away && this.rows.length > MOST) this.pause();
  }

  pause() {
    this.paused.value = true;
  }

  resume() {
    batch(() => {
      this.paused.value = false;
      this.waiting.value = 0;
      const held = this.held;
      this.held = [];
      if (this.heldTooMany) {
        // More came than waited here: the list begins again with the newest, and the rest is found by scrolling.
        this.heldTooMany = false;
        this.clear();
        this.fill();
      } else for (const record of held) this.rows.place(record);
      if (this.behind) this.fill();
      this.trim();
      this.version.value += 1;
    });
  }

  // what is asked for

  async ask(query) {
    const page = await get("/v1/search", { bucket: this.bucket, ...this.filter, ...query }, this.abort.signal);
    this.building.value = page.complete === false && Boolean(this.filter.q);
    return { records: page.data.map(fromLog), next: page.next_cursor ?? "" };
  }

  /** The newest page, joined with what is there: the seq of its newest event. */
  async fill() {
    const known = (record) => this.rows.has(record.id);
    try {
      let { records, next } = await this.ask({ limit: PAGE });
      // Where somebody looks at older ones, what came above them is read until it meets them.
      while (this.away && this.filled && next && records.length < KEEP && !records.some(known)) {
        const page = await this.ask({ limit: 500, cursor: next });
        [records, next] = [[...records, ...page.records], page.next];
      }
      batch(() => {
        // A page of nothing but news has more of them behind it, so what was there is too far away to be joined.
        const anew = !this.rows.length || (this.filled && records.length >= PAGE && !records.some(known));
        if (anew) this.rows = new Rows(records.length ? this.rows.after(records[0]) : []);
        for (const record of records.reverse()) this.rows.place(record);
        this.rows.update(records);
        if (anew || !this.filled) {
          this.cursor = next;
          this.whole.value = !next;
        }
        this.trim();
        Object.assign(this, { filled: true, missed: false });
        this.error.value = null;
        this.loading.value = false;
        this.version.value += 1;
      });
      return records.at(-1)?.seq;
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      batch(() => {
        this.error.value = error;
        this.loading.value = false;
      });
    }
  }

  /** The page behind the oldest record; who asks while it comes waits for the same one. `on` goes on after a search in vain. */
  older(on = false) {
    if (on) this.empty = 0;
    return (this.coming ??= this.further().finally(() => (this.coming = null)));
  }

  async further() {
    this.tired.value = this.empty >= PATIENCE;
    if (this.loading.value || this.whole.value || !this.filled || !this.cursor || this.tired.value || this.error.value) return;
    this.full.value = this.rows.length >= MOST;
    if (this.full.value) return;
    this.loading.value = true;
    try {
      const { records, next } = await this.ask({ limit: 500, cursor: this.cursor });
      batch(() => {
        this.empty = this.rows.extend(records) ? 0 : this.empty + 1;
        this.cursor = next;
        this.whole.value = !next;
        this.loading.value = false;
        this.version.value += 1;
      });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.error.value = error;
      this.loading.value = false;
    }
  }

  /** Asks again what became of the rows that are looked at, where that may still change. */
  async refresh(from, to) {
    const shown = this.rows.between(from, to).filter((row) => !row.gap);
    if (!shown.length || shown.every((row) => FINAL.has(row.status))) return;
    const above = this.rows.between(0, from).find((row) => !row.gap);
    try {
      const { records } = await this.ask({ limit: Math.min(shown.length, 200), cursor: above?.id });
      if (this.rows.update(records)) this.version.value += 1;
    } catch {
      // The next time tells.
    }
  }
}
