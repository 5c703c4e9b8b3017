// A small plot without axes: how something went lately, beside its name in a list.
import { html } from "../lib.js";
import { number, total } from "./basic.js";

const WIDTH = 120;
const HEIGHT = 32;

/** `values` oldest first; `label` says in words what is seen. A line at the bottom is nothing at all. */
function Spark({ values, label }) {
  const most = Math.max(...values, 1);
  const step = WIDTH / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(HEIGHT - 1 - (value / most) * (HEIGHT - 3)).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  return html`<svg class=${values.some(Boolean) ? "spark" : "spark still"} viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img"
      aria-label=${label}>
    <path class="area" d=${`${line}L${WIDTH},${HEIGHT}L0,${HEIGHT}Z`} /><path d=${line} />
  </svg>`;
}

/** The last hour of a bucket, as GET /v1/status has it: a number a minute, and their sum beside the plot. */
export function Hour({ rate }) {
  const sum = total(rate);
  const label = sum ? `${number(sum)} events in the last hour, ${number(Math.max(...rate))} in its busiest minute` : "no events in the last hour";
  return html`<span class="hour" title=${label}><${Spark} values=${rate} label=${label} /><span class="num" aria-hidden="true">${number(sum)}</span>
    </span>`;
}
