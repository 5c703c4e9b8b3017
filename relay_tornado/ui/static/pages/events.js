// The events of a bucket: a live list, newest first, and beside it the event that one looks at.
import { effect, html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib.js";
import { away, session } from "../api.js";
import { MOST, Live } from "../event/live.js";
import { newerThan, olderThan } from "../event/log.js";
import { beginning } from "../event/plain.js";
import { filterOf } from "../event/record.js";
import { seqOf } from "../event/sending.js";
import { Badge, Empty, Loading, Problem, bytes, number, tell, today } from "../parts/basic.js";
import { Filters } from "../parts/filters.js";
import { List } from "../parts/list.js";
import { bucketLink } from "../parts/names.js";
import { FEW, Plain } from "../parts/plain.js";
import { DELIVERY } from "../parts/deliveries.js";
import { EditEvent } from "../parts/edit.js";
import { SendAgain } from "../parts/send.js";
import { SendSample } from "../parts/sample.js";
import { useKeys, useRest, wideWindow } from "../parts/window.js";
import { exactly, zone } from "../parts/zone.js";
import { go, link, place, staying } from "../router.js";
import { EventView } from "./event.js";

const DAY = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
const CLOCK = new Intl.DateTimeFormat("sv-SE", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const REFRESH = 4000;

const STATES = {
  connecting: ["", "Connecting"], live: ["good", "Live"], away: ["warn", "Reconnecting"], resting: ["", "Resting"], gone: ["bad", "Bucket deleted"],
  past: ["", "Past"],
};

function Clock({ at }) {
  const date = new Date(at * 1000);
  return html`<time dateTime=${date.toISOString()} title=${exactly(date)}>${date.toDateString() === today.value ? CLOCK.format(date) : DAY.format(date).slice(5)}</time>`;
}

const GAPS = new Map([
  ["retention", "the bucket's retention removed them"], ["ephemeral", "their content is no longer in memory"], ["reset", "the log has lost them"],
  ["future", "the position was ahead of the log"],
]);

/** More than fits in a row. */
const CUT = 300;
const Cut = ({ text }) => html`<${Plain} text=${beginning(text, CUT)} marks=${FEW} />`;

const sentence = ({ from, to, count, reason }) => {
  const several = `Events ${number(from)} to ${number(to)} are missing here`;
  const which = from == null ? "Events are missing here" : count === 1 ? `Event ${number(from)} is missing here` : several;
  return `${which}: ${GAPS.get(reason) ?? reason}`;
};

function Row({ row, chosen, inputs }) {
  if (row.gap) return html`<span class="gap-row">${sentence(row.gap)}</span>`;
  const [kind, word] = DELIVERY[row.status] ?? ["", row.status];
  return html`<span class="tick" aria-hidden="true">${chosen ? "✓" : ""}</span>
    <span class="method cut"><${Cut} text=${row.method} /></span>
    <span class="cut path mono"><${Cut} text=${(row.path || "/") + (row.query && `?${row.query}`)} /></span>
    <span class="cut soft row-more">${inputs.get(row.input)}</span>
    <span class="cut soft row-more type mono"><${Cut} text=${row.type} /></span>
    <span class="cut soft row-more mono">${row.sender}</span>
    <span class="num soft size">${bytes(row.size)}</span>
    <span class="marks">${row.edited ? html`<${Badge}
      kind="accent">edited<//>` : row.resent && html`<${Badge}>again<//>`}${row.verified !== null && html`<${Badge}
        kind=${row.verified ? "good" : "bad"}>${row.verified ? "verified" : "unverified"}<//>`}
      ${word && row.status !== "received" && html`<${Badge} kind=${kind}>${word}${row.code ? ` ${row.code}` : ""}<//>`}</span>
    <span class="num soft when"><${Clock} at=${row.at} /></span>`;
}

/** The lists that were left, by the entry of the browser's history, the last one last: whoever goes back finds one as it was. */
const left = new Map();

effect(() => {
  if (!session.value) left.clear();
});

function leave(entry, list) {
  if (!session.peek()) return;
  left.delete(entry);
  left.set(entry, list);
  let rows = 0;
  for (const each of [...left.keys()].reverse()) {
    rows += left.get(each).live.length;
    if (rows > MOST && each !== entry) left.delete(each);
  }
}

/** The tab. `bucket` is the bucket's document, `query` the address's: the filter, and with `event` the event that is looked at. */
export default function Events({ bucket, query }) {
  const wide = wideWindow.value;
  const filter = filterOf(query);
  const about = JSON.stringify([session.peek()?.key, bucket.id, filter]);
  const entry = useMemo(() => place.peek().entry, [query]);
  const [before] = useState(() => (left.get(entry)?.about === about ? left.get(entry) : null));
  const live = useMemo(() => (before?.about === about ? before.live : new Live(bucket.id, filter)), [about]);
  const at = useRef({ top: before?.at.top ?? 0 }).current;
  const [chosen, setChosen] = useState(before?.chosen ?? new Set());
  const [active, setActive] = useState(query.get("event") ?? before?.active ?? null);
  const [dialog, setDialog] = useState(null);
  const panes = useRef(null);
  const sight = useRef([0, 0]);
  const had = useRef(null);
  const open = query.get("event");
  const named = JSON.stringify(bucket.inputs.length > 1 ? bucket.inputs.map((each) => [each.id, each.name]) : []);
  const inputs = useMemo(() => new Map(JSON.parse(named)), [named]);

  useEffect(() => {
    live.start();
    const timer = setInterval(() => document.hidden || live.refresh(...sight.current), REFRESH);
    return () => {
      clearInterval(timer);
      live.end();
    };
  }, [live]);
  const problem = live.error.value;
  useEffect(() => {
    // Where there is no stream whose coming back would say so.
    if (!problem || !away(problem) || live.state.value !== "past") return undefined;
    const timer = setTimeout(() => live.fill(), REFRESH);
    return () => clearTimeout(timer);
  }, [problem]);
  useRest(panes, [wide]);
  const leaving = useRef(null);
  leaving.current = () => leave(entry, { about, live, at, chosen, active });
  useEffect(() => () => leaving.current(), []);

  useLayoutEffect(() => {
    // Over the list, the event is all that there is.
    if (open && !wide) panes.current.querySelector(".event-pane").focus();
    // Closed by the browser's Back, it had the focus.
    else if (!open && had.current && document.activeElement === document.body) panes.current.querySelector("[role=listbox]").focus();
    had.current = open;
  }, [open, wide]);
  const over = Boolean(open) && !wide;
  useEffect(() => {
    // What it covers is not seen, so it is not to be reached either.
    const covered = over ? [...document.querySelectorAll("main > *, .events > *, .below")].filter((each) => !each.contains(panes.current)) : [];
    for (const each of covered) each.inert = true;
    return () => {
      for (const each of covered) each.inert = false;
    };
  }, [over]);

  const to = (next, options) => go(window.location.pathname + (Object.keys(next).length ? `?${new URLSearchParams(next)}` : ""), options);
  const show = (id) => to(id ? { ...filter, event: id } : filter, { replace: wide || Boolean(open) });
  const showing = useRef(0);
  // Whoever closes the event or goes elsewhere before the keys rest is not called back.
  useLayoutEffect(() => () => clearTimeout(showing.current), [query]);
  const look = (id, { quiet = false } = {}) => {
    setActive(id);
    // In the wide page the event beside the list follows, once the keys rest.
    clearTimeout(showing.current);
    if (wide && open && !quiet && !String(id).startsWith("gap-")) showing.current = setTimeout(show, 150, id);
  };
  const close = () => {
    show(null);
    panes.current.querySelector("[role=listbox]").focus();
  };
  /** From an event that the list does not hold, as that of a link may be. */
  const beyond = async (by) => {
    if (Object.keys(filter).length) {
      tell("This event is not in the list.");
      return;
    }
    const stays = staying();
    try {
      const next = await (by < 0 ? newerThan : olderThan)(bucket.id, open);
      if (!stays()) return;
      if (next) {
        setActive(next);
        show(next);
      } else tell(by < 0 ? "This is the newest event." : "This is the oldest event that is kept.");
    } catch (error) {
      tell(error.message, "bad");
    }
  };
  const step = async (by) => {
    if (live.indexOf(open) < 0) {
      await beyond(by);
      return;
    }
    const stays = staying();
    if (by > 0 && live.indexOf(open) === live.length - 1) await live.older();
    if (!stays()) return;
    for (let index = live.indexOf(open) + by; index >= 0 && index < live.length; index += by) {
      if (live.row(index).gap) continue;
      setActive(live.row(index).id);
      show(live.row(index).id);
      return;
    }
    tell(by < 0 ? "This is the newest event in the list." : "This is the oldest event in the list.");
  };
  const opened = (id, event) => {
    if (event.ctrlKey || event.metaKey || event.button === 1) window.open(link("/events", id), "_blank", "noopener");
    else show(id);
  };
  const pause = () => (live.paused.value ? live.resume() : live.pause());
  useKeys(({ key }) => {
    if (key === "p") pause();
    else if (key === "Escape" && open) close();
    else if ("jk".includes(key) && !open) panes.current.querySelector("[role=listbox]").focus();
  }, "input, textarea, select, dialog");

  const version = live.version.value;
  const [kind, word] = STATES[live.state.value];
  const paused = live.paused.value;
  const waiting = live.waiting.value;
  const ids = [...chosen];
  const two = ids.length === 2 && [...ids].sort((a, b) => seqOf(a) - seqOf(b));
  const pastEvent = live.filled && !live.length && live.whole.value;
  return html`<div class="events stack">
    <div class="head"><div class="row"><span role="status"><${Badge} kind=${paused ? "warn" : kind}>${paused ? "Paused" : word}<//></span>
      ${paused ? html`<span class="soft">${number(waiting)} waiting</span>` : html`<span class="soft small">
        ${(live.filled || !live.loading.value) && `${number(live.length)}${live.whole.value ? "" : "+"} listed, `}times in ${zone()}</span>`}</div>
      <div class="row">${live.state.value !== "past" && html`<button type="button" class="button" aria-keyshortcuts="p"
        onClick=${pause}>${paused ? "Resume" : "Pause"}</button>`}
        <button type="button" class="button" onClick=${() => setDialog("edit")}>New event</button>
        <button type="button" class="button" onClick=${() => setDialog("sample")}>Send a test event</button>
        <button type="button" class="button" onClick=${() => setDialog("range")}>Send a range again</button></div></div>
    <${Filters} filter=${filter} onFilter=${(next) => to(open && wide ? { ...next, event: open } : next, { replace: true })} />
    ${live.building.value && html`<p class="note warn">The index of the search is still being built: older events may be missing here.</p>`}
    <${Problem} error=${problem} retry=${() => live.fill()} />
    <div class=${`panes${open ? " with-event" : ""}`} ref=${panes}>
      <div class="pane" inert=${over}><${List} label="Events, newest first" length=${live.length}
        row=${(index) => live.row(index)} version=${version} active=${active} chosen=${chosen}
        draw=${(row, isChosen) => html`<${Row} row=${row} chosen=${isChosen} inputs=${inputs} />`} drawnFor=${inputs} onActive=${look}
        onChosen=${setChosen} onOpen=${opened}
        onAway=${(away) => { live.away = away; }} onEnd=${() => live.older()} onSight=${(from, end) => { sight.current = [from, end]; }} at=${at}>
        ${pastEvent && html`<${Nothing} filtered=${Object.keys(filter).length > 0} bucket=${bucket} />`}
        <${Bottom} live=${live} />
      <//></div>
      ${open && html`<section class="pane event-pane" aria-label="Event" tabindex="-1"><${EventView} id=${open} bucket=${bucket}
        onNewer=${() => step(-1)} onOlder=${() => step(1)} onClose=${close} chosen=${ids.filter((id) => id !== open)} /></section>`}
    </div>
    ${ids.length > 0 && html`<div class="note row chosen" role="status"><span class="grow">${number(ids.length)} selected</span>
      ${two && html`<a class="button tiny" href=${link("/compare", two[0], two[1])}>Compare</a>`}
      <button type="button" class="button tiny" onClick=${() => setDialog("chosen")}>Send again</button>
      <button type="button" class="button tiny" onClick=${() => setChosen(new Set())}>Clear</button></div>`}
    <p class="soft small keys">Keys: <kbd>↑</kbd> <kbd>↓</kbd> or <kbd>k</kbd> <kbd>j</kbd> move, <kbd>Enter</kbd> opens,${" "}
      <kbd>Space</kbd> selects, with <kbd>Shift</kbd> a range, <kbd>/</kbd> searches, <kbd>p</kbd> pauses.</p>
    ${dialog === "edit" && html`<${EditEvent} bucket=${bucket} onClose=${() => setDialog(null)} />`}
    ${dialog === "sample" && html`<${SendSample} bucket=${bucket} onClose=${() => setDialog(null)} />`}
    ${dialog === "range" && html`<${SendAgain} bucket=${bucket} range=${span(live)} onClose=${() => setDialog(null)} />`}
    ${dialog === "chosen" && html`<${SendAgain} bucket=${bucket} events=${ids.map((id) => ({ id }))}
      onClose=${() => setDialog(null)} />`}
  </div>`;
}

/** The seqs that the list has, as the range that is offered first. */
function span(live) {
  const seqs = live.rows.between(0, live.length).filter((row) => !row.gap).map((row) => row.seq);
  return seqs.length ? { first: seqs[0], last: seqs.at(-1) } : { first: 1, last: 1 };
}

function Nothing({ filtered, bucket }) {
  if (filtered) return html`<${Empty} title="No event fits">
    <p>Nothing that this bucket keeps is what you look for. New events that fit appear here.</p><//>`;
  return html`<${Empty} title="No event yet"><p>Events appear here as they come in. Send a test event, or <a
    href=${bucketLink(bucket, "connect")}>see what to give to a sender</a>.</p><//>`;
}

function Bottom({ live }) {
  if (live.loading.value) return html`<${Loading} />`;
  if (live.full.value) return html`<p class="bottom soft">The list holds ${number(MOST)} events and no more. Set a time to see older ones.</p>`;
  if (live.tired.value) return html`<p class="bottom soft">Nothing more so far. <button type="button" class="button tiny"
    onClick=${() => live.older(true)}>Look further back</button></p>`;
  return live.whole.value && live.length ? html`<p
    class="bottom soft">This is the oldest event${Object.keys(live.filter).length ? " that fits" : " that is kept"}.</p>` : null;
}
