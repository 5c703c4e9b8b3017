// Sending events again, step by step, so that it can be watched and stopped.
import { ask, get, v1 } from "../api.js";

const PAGE = 500;
const MOST = 10_000;
const FULL_WAIT = 1000;

export const seqOf = (id) => Number(String(id).split("-")[1]);

const pause = (milliseconds, abort) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  abort.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(new DOMException("stopped", "AbortError"));
  }, { once: true });
});

/** Runs of seqs that follow each other: [[first, last]…]. */
export function runs(seqs) {
  const found = [];
  for (const seq of [...new Set(seqs)].sort((a, b) => a - b)) {
    if (found.length && found.at(-1)[1] === seq - 1) found.at(-1)[1] = seq;
    else found.push([seq, seq]);
  }
  return found;
}

/** The ids of a range, oldest first, so that each can be asked for by itself. */
async function idsOf(bucket, first, last, abort) {
  const ids = [];
  let cursor = "";
  do {
    const page = await get("/v1/search", { bucket: bucket.id, limit: PAGE, cursor }, abort);
    for (const { id, seq } of page.data) if (seq >= first && seq <= last) ids.push(id);
    if (ids.length > MOST) throw new Error(`To a URL at most ${MOST.toLocaleString("en")} events are sent at a time: choose a smaller range.`);
    cursor = page.data.length && page.data.at(-1).seq <= first ? "" : (page.next_cursor ?? "");
  } while (cursor);
  return ids.reverse();
}

const orders = ({ kind, output, force }) => (kind === "output" ? { output, process_policy: force ? "force" : "skip" } : {});

/**
 * Sends events again, and yields after each step {done, total, sent, failed: [{id, message}], answer, copy: the id of the last copy made}. `events` are ids, or `range` is {first, last};
 * `target` is {kind: "subscribers"}, {kind: "output", output, force}, {kind: "consumer", consumer} or {kind: "url", url}.
 */
export async function* sendAgain({ bucket, events, range, target, abort }) {
  const state = { done: 0, total: events?.length ?? range.last - range.first + 1, sent: 0, failed: [], answer: null, copy: "" };
  const post = (path, body) => ask("POST", path, { body, signal: abort });
  if (target.kind === "consumer") {
    for (const [first, last] of range ? [[range.first, range.last]] : runs(events.map(seqOf))) {
      let next = first;
      while (next != null && next <= last) {
        const answer = await post(v1("buckets", bucket.id, "consumers", target.consumer, "replay"), { first: next, last });
        state.sent += answer.scheduled;
        state.done += (answer.next ?? last + 1) - next;
        next = answer.next;
        yield state;
        if (answer.full) await pause(FULL_WAIT, abort);
      }
    }
    return;
  }
  if (range && target.kind !== "url") {
    let cursor;
    do {
      const answer = await post(v1("buckets", bucket.id, "resend"), { ...range, ...orders(target), ...(cursor && { cursor }) });
      state.sent += answer.ids?.length ?? 0;
      for (const { from, to, count, reason } of answer.skipped ?? []) {
        state.failed.push({ id: from === to ? `#${from}` : `#${from} to #${to}`, message: `${count} passed over: ${reason}` });
      }
      if (answer.problem) throw new Error(answer.problem);
      cursor = answer.next_cursor;
      state.done = cursor ? Math.max(state.done, seqOf(cursor) - range.first + 1) : state.total;
      yield state;
    } while (cursor);
    return;
  }
  const ids = events ?? (await idsOf(bucket, range.first, range.last, abort));
  state.total = ids.length;
  for (const id of ids) {
    try {
      if (target.kind === "url") state.answer = await post(v1("logs", id, "send"), { url: target.url });
      else state.copy = (await post(v1("logs", id, "action"), { action: "resend", ...orders(target) })).ids?.[0] ?? "";
      state.sent += 1;
    } catch (error) {
      if (error.name === "AbortError" || [0, 401, 403].includes(error.status)) throw error;
      state.failed.push({ id, message: error.message });
    }
    state.done += 1;
    yield state;
  }
}
