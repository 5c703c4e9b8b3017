// A plot of series over time, by uPlot, which is loaded with the first one. Its values stand in a table, too, for whoever can't see it.
import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { code } from "../code.js";
import { bytes, total } from "./basic.js";
import { zone } from "./zone.js";

const HEIGHT = 168;
/** At most so many rows are shown: what lies between is folded into one. */
const ROWS = 60;
/** Fewer values than these are drawn as dots, too: a lone one has no line. */
const FEW = 20;

const CLOCK = new Intl.DateTimeFormat("sv-SE", { hour: "2-digit", minute: "2-digit" });
const SECONDS = new Intl.DateTimeFormat("sv-SE", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("sv-SE", { month: "2-digit", day: "2-digit" });
const DATE = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });

const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });

// what a number means: how it is written, and which steps its axis takes

const decimal = (from, to) => {
  const steps = [];
  for (let power = from; power <= to; power += 1) for (const factor of [1, 2, 5]) steps.push(factor * 10 ** power);
  return steps;
};

const latency = (value) => (!value ? "0" : value < 0.001 ? `${short.format(value * 1e6)} µs` : value < 1 ? `${short.format(value * 1e3)} ms` : `${
  short.format(value)} s`);

export const COUNT = { text: (value) => short.format(value), incrs: decimal(0, 12), zeros: 10 };
export const RATE = { text: (value) => `${short.format(value)}/s`, incrs: decimal(-4, 9), zeros: 10 };
export const LATENCY = { text: latency, incrs: decimal(-7, 4), zeros: 0.01 };
export const BYTES = { text: bytes, zeros: 1024, incrs: Array.from({ length: 50 }, (_, power) => 2 ** power) };

/** Where the axis of values ends: above the highest, or, where all are 0, at a number that is easy to read. */
export const endOf = (unit, highest) => (highest > 0 ? highest * 1.08 : unit.zeros);

/** A value as its unit writes it, a dash for none. */
export const written = (unit, value) => (value == null ? "–" : unit.text(value));

/** The last value that is there. */
export const last = (values) => values.findLast((value) => value != null) ?? null;

const FOLDS = {
  mean: (values) => total(values) / values.length,
  highest: (values) => Math.max(...values),
  sum: total,
};

/** Folds every `count` values into one; null where there is none. */
function folded(values, count, fold) {
  const result = [];
  for (let at = 0; at < values.length; at += count) {
    const there = values.slice(at, at + count).filter((value) => value != null);
    result.push(there.length ? FOLDS[fold](there) : null);
  }
  return result;
}

// uPlot

let loading;

function load() {
  loading ??= Promise.all([
    code(import.meta.resolve("../vendor/uplot.js")),
    new Promise((resolve, reject) => {
      const sheet = document.createElement("link");
      sheet.rel = "stylesheet";
      sheet.href = new URL("../vendor/uplot.css", import.meta.url).href;
      sheet.onload = resolve;
      sheet.onerror = reject;
      document.head.append(sheet);
    }),
  ]).then(([module]) => module.default);
  loading.catch(() => {
    loading = undefined;
  });
  return loading;
}

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (index) => token(`--plot-${(index % 5) + 1}`);

/** Calls `changed` whenever light turns to dark or back. */
function watchTheme(changed) {
  const media = matchMedia("(prefers-color-scheme: dark)");
  const observer = new MutationObserver(changed);
  observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  media.addEventListener("change", changed);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", changed);
  };
}

function options(unit, labels, sparse, width, pointed) {
  const axis = { stroke: () => token("--soft"), font: `11px ${token("--sans")}`, ticks: { show: false } };
  const grid = { stroke: () => token("--line"), width: 1 };
  const moments = (plot, splits, _axis, _space, increment) => splits.map((at) => (increment >= 86400 ? DAY : CLOCK).format(at * 1000));
  return {
    width, height: HEIGHT, legend: { show: false }, padding: [8, 16, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: true }, y: { range: (_plot, _low, high) => [0, endOf(unit, high)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 64, values: moments, border: { show: true, stroke: () => token("--line"), width: 1 } },
      { ...axis, grid, size: 64, space: 28, incrs: unit.incrs, values: (_plot, splits) => splits.map(unit.text) },
    ],
    series: [{}, ...labels.map((label, index) => ({
      label, stroke: () => colour(index), width: 1.5, spanGaps: sparse,
      points: { size: 4, show: (plot, number) => plot.data[number].filter((value) => value != null).length < FEW },
      fill: labels.length === 1 ? () => token("--plot-area") : undefined,
    }))],
    hooks: { setCursor: [(plot) => pointed(plot.cursor.idx ?? null)] },
  };
}

function Canvas({ unit, labels, sparse, data, pointed }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [problem, setProblem] = useState(false);
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    let ended = false;
    const ends = [];
    load().then((UPlot) => {
      if (ended || !place.current) return; // an effect may end later than its place
      plot.current = new UPlot(options(unit, labels, sparse, place.current.clientWidth || 300, pointed), latest.current, place.current);
      const sizes = new ResizeObserver(([entry]) => plot.current.setSize({ width: Math.max(120, entry.contentRect.width), height: HEIGHT }));
      sizes.observe(place.current);
      ends.push(() => sizes.disconnect(), watchTheme(() => plot.current.redraw(false, true)), () => plot.current.destroy());
    }, () => setProblem(true));
    return () => {
      ended = true;
      for (const end of ends) end();
      plot.current = null;
    };
  }, [labels.join("\n")]);
  useEffect(() => plot.current?.setData(data), [data]);
  return html`<div class="plot-canvas" ref=${place} aria-hidden="true">${problem && html`<p class="soft">The plot could not be loaded.</p>`}</div>`;
}

const CAPTIONS = { mean: "The mean", highest: "The highest", sum: "The sum" };

function Values({ title, unit, fold, from, step, series }) {
  const length = Math.max(0, ...series.map(({ values }) => values.length));
  const count = Math.max(1, Math.ceil(length / ROWS));
  const seconds = count * step;
  const rows = Array.from({ length: Math.ceil(length / count) }, (_, index) => from + index * seconds);
  const columns = series.map(({ values }) => folded(values, count, fold));
  return html`<div class="scroll plot-values" tabindex="0" role="region" aria-label=${`${title}: values`}><table>
    <caption class="soft small">${CAPTIONS[fold]} of each ${seconds % 60 ? `${seconds} s` : `${seconds / 60} min`}, newest first, times in ${zone()}</caption>
    <thead><tr><th scope="col">From</th>${series.map(({ label }) => html`<th scope="col" class="num">${label}</th>`)}</tr></thead>
    <tbody>${rows.map((at, index) => html`<tr key=${at}><td>${DATE.format(at * 1000)}</td>${columns.map(
      (column) => html`<td class="num">${written(unit, column[index])}</td>`)}</tr>`).reverse()}</tbody>
  </table></div>`;
}

/** A plot with its title, a legend that shows what is pointed at (else the last value), and its values as a table.
 *  `series`: [{label, values}], the first of `values` at `from` (unix seconds), the others each `step` seconds later, null where there is none.
 *  `unit`: COUNT, RATE, LATENCY, BYTES. `fold`: what the table shows of more values than it has rows: mean, highest, sum.
 *  `sparse`: a null says that there was nothing to measure, so that the line goes on. */
export function Plot({ title, unit = COUNT, from, step, series, fold = "mean", sparse = false, level = 2 }) {
  const [table, setTable] = useState(false);
  const [index, setIndex] = useState(null);
  const data = useMemo(() => {
    const length = Math.max(0, ...series.map(({ values }) => values.length));
    return [Array.from({ length }, (_, at) => from + at * step), ...series.map(({ values }) => values)];
  }, [from, step, series]);
  const there = series.some(({ values }) => last(values) != null);
  const at = index != null && index < data[0].length ? index : null;
  const value = (number) => written(unit, at == null ? last(series[number].values) : data[number + 1][at]);
  const said = series.map(({ label, values }) => `${label} ${written(unit, last(values))}`).join(", ");
  return html`<figure class="card plot">
    <figcaption class="head"><${`h${level}`}>${title}<//>
      ${there && html`<button type="button" class="button tiny" aria-label=${`${title}: ${
        table ? "show as plot" : "show as table"}`}
        onClick=${() => setTable(!table)}>${table ? "Show as plot" : "Show as table"}</button>`}</figcaption>
    ${!there && html`<p class="soft plot-none">Nothing yet.</p>`}
    ${there && table && html`<${Values} ...${{ title, unit, fold, from, step, series }} />`}
    ${there && !table && html`<div role="img" aria-label=${`${title}, now: ${said}`}>
      <${Canvas} unit=${unit} labels=${series.map(({ label }) => label)} sparse=${sparse} data=${data} pointed=${setIndex} /></div>
      <p class="plot-legend small" aria-hidden="true"><span class="soft">${
        at == null ? "now" : `${(step < 60 ? SECONDS : DATE).format(data[0][at] * 1000)} ${zone(data[0][at] * 1000)}`}</span>
        ${series.map(({ label }, number) => html`<span key=${label}><i class=${`mark mark-${(number % 5) + 1}`}></i>${label} <b>${value(number)}</b>
          </span>`)}</p>`}
  </figure>`;
}
