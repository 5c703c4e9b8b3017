// How the relay does: the present as numbers, the last hour, day or month as plots.
import { html, useMemo } from "../lib.js";
import { get, session, v1 } from "../api.js";
import { go, link } from "../router.js";
import { Loading, Problem, bytes, counted, duration, number, total, useLoaded } from "../parts/basic.js";
import { behind, called, referred, useNames } from "../parts/called.js";
import { storedBytes } from "../parts/kept.js";
import { bucketLink } from "../parts/names.js";
import { BYTES, COUNT, LATENCY, Plot, RATE, last, written } from "../parts/plot.js";

const SPANS = { hour: "Hour", day: "Day", month: "Month" };
/** Seconds between two looks: about as often as there is a new value to see. */
const EVERY = { hour: 10, day: 30, month: 300 };

/** The errors of all reasons, the most frequent first. What did not happen is not in the series: 0 where there was a measure at all. */
function errors({ series }) {
  return Object.entries(series).filter(([name, values]) => name.startsWith("errors:") && total(values) > 0)
    .map(([name, values]) => ({
      label: name.slice(7).replaceAll("_", " "), sum: total(values), values: values.map((value, at) => value ?? zero(series, at)),
    }))
    .sort((a, b) => b.sum - a.sum);
}

const zero = (series, at) => (series.subscribers[at] == null ? null : 0);

/** The series of the whole relay as plots. */
function plots({ from, step, series }) {
  const reasons = errors({ series });
  const shown = reasons.slice(0, reasons.length > 5 ? 4 : 5);
  const others = reasons.slice(shown.length);
  const whenever = (sum) => series.subscribers.map((there, at) => (there == null ? null : sum(at)));
  if (others.length) shown.push({ label: "others", values: whenever((at) => total(others.map(({ values }) => values[at]))) });
  if (!shown.length) shown.push({ label: "errors", values: whenever(() => 0) });
  const one = (label, name) => [{ label, values: series[name] }];
  return [
    { title: "Events per second", unit: RATE, series: one("events", "events") },
    { title: "Commit latency", unit: LATENCY, series: [...one("p50", "commit_p50"), ...one("p99", "commit_p99")], fold: "highest", sparse: true },
    { title: "Subscribers", unit: COUNT, series: one("subscribers", "subscribers") },
    { title: "Lag of the slowest, in events", unit: COUNT, series: one("lag", "lag"), fold: "highest" },
    { title: "Disk left", unit: BYTES, series: one("free", "disk_free") },
    { title: `Errors in ${duration(step)}`, unit: COUNT, series: shown, fold: "sum" },
  ].map((plot) => ({ ...plot, from, step }));
}

function Tile({ label, value, note, kind = "" }) {
  return html`<div class="card tile"><dt>${label}</dt><dd class=${kind}>${value}</dd><dd class="soft small">${note}</dd></div>`;
}

/** The bucket of the slowest consumer of all. */
const slowest = (buckets) => buckets.filter(({ lag }) => lag).sort((a, b) => b.lag.events - a.lag.events)[0] ?? null;

function Tiles({ status, data, span }) {
  const { buckets } = status;
  const slow = slowest(buckets);
  const [documents, tokens] = useNames(slow ? behind([slow]) : []);
  const name = () => called(referred(slow.lag.consumer), documents.find(({ id }) => id === slow.id), tokens);
  const minute = total(buckets.map(({ rate }) => rate.at(-2)));
  const subscribers = total(buckets.map((bucket) => bucket.subscribers));
  const now = (name) => last(data.series[name]);
  const reasons = data && errors(data);
  const wrong = data && total(reasons.map(({ sum }) => sum));
  return html`<dl class="tiles" aria-label="Now">
    <${Tile} label="Events" value=${written(RATE, data ? now("events") : minute / 60)} note=${`${number(minute)} last minute`} />
    ${data && html`<${Tile} label="Commit latency" value=${written(LATENCY, now("commit_p50"))} note=${`p50; p99 ${
      written(LATENCY, now("commit_p99"))}`} />`}
    <${Tile} label="Subscribers" value=${number(data ? now("subscribers") ?? subscribers : subscribers)} note=${counted(buckets.length, "bucket")} />
    <${Tile} label="Lag" value=${number(slow?.lag.events ?? 0)} kind=${slow?.lag.events > 1000 ? "warned" : ""}
      note=${slow?.lag.events ? html`events: ${name()} of <a href=${bucketLink(slow, "consumers")}>${slow.name}</a>` : "no consumer is behind"} />
    ${data && html`<${Tile} label="Disk left" value=${bytes(now("disk_free"))} note=${`${
      bytes(total(buckets.map(storedBytes)))} of events`} />
      <${Tile} label=${`Errors, last ${span}`} value=${number(wrong)} kind=${wrong ? "failed" : ""} note=${wrong ? `most: ${
        reasons[0].label}` : "none"} />`}
  </dl>`;
}

/** For a token that does not see the whole relay: what came in to its buckets, from what they say of the last hour. */
function OwnBuckets({ status }) {
  const series = useMemo(() => {
    const values = Array.from({ length: 60 }, (_, minute) => total(status.buckets.map(({ rate }) => rate[minute])));
    return [{ label: "events", values }];
  }, [status]);
  return html`<div class="plots"><${Plot} title="Events per minute" from=${Math.floor(status.now / 60) * 60 - 59 * 60} step=${60} series=${
    series} /></div>
    <p class="soft small">This token sees its own buckets. Latency, errors and the disk are shown to an administrator's token.</p>`;
}

export default function Overview({ query }) {
  const asked = query.get("span");
  const span = Object.hasOwn(SPANS, asked ?? "") ? asked : "hour";
  const whole = session.value.administrator;
  const [status, missing, againStatus] = useLoaded((abort) => get(v1("status"), {}, abort), { every: 10 });
  const [data, problem, again] = useLoaded(
    async (abort) => (whole ? { span, ...(await get(v1("series"), { span }, abort)) } : null), { every: EVERY[span], on: [span] },
  );
  const here = data?.span === span ? data : null;
  const drawn = useMemo(() => here && plots(here), [here]);
  return html`<div class="head"><h1>Overview</h1>
      ${whole && html`<div class="row choices" role="group" aria-label="Time that is shown">${Object.entries(SPANS).map(([name, text]) =>
        html`<button type="button" key=${name} class="button tiny" aria-pressed=${name === span}
          onClick=${() => go(link("/overview", { span: name === "hour" ? "" : name }), { replace: true })}>${text}</button>`)}</div>`}</div>
    <${Problem} error=${missing} retry=${againStatus} />
    ${problem?.message !== missing?.message && html`<${Problem} error=${problem} retry=${again} />`}
    ${status && (here || !whole || problem) && html`<${Tiles} status=${status} data=${here} span=${span} />`}
    ${drawn && html`<div class="plots">${drawn.map((plot) => html`<${Plot} key=${plot.title} ...${plot} />`)}</div>`}
    ${status && !whole && html`<${OwnBuckets} status=${status} />`}
    ${!(status && (here || !whole)) && !missing && !problem && html`<${Loading} />`}
    ${status && html`<p class="soft small">relay ${status.version} · instance ${status.instance}</p>`}`;
}
