// How fast a public output is fed and how long it tries: the documents `throttle` and `durability`, in nanoseconds there, here in seconds.
import { html } from "../lib.js";
import { Field } from "../parts/basic.js";
import { Amount, Choice, TIMES } from "../parts/fields.js";

const NANO = 1e9;
const seconds = (nanoseconds) => (nanoseconds ? nanoseconds / NANO : null);
const nanoseconds = (value) => Math.round((value ?? 0) * NANO);

const UNITS = { ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400 };

/** "10s, 1m, 2h" for nanoseconds, and back. What is no time stays the text that it is: the relay refuses it, and names the field. */
const delaysText = (delays) => (delays ?? []).map((each) => {
  const [name, size] = Object.entries(UNITS).findLast(([, unit]) => each / NANO >= unit && Number.isInteger(each / NANO / unit)) ?? ["s", 1];
  return `${each / NANO / size}${name}`;
}).join(", ");

function readDelay(text) {
  const [, count, unit = "s"] = /^([\d.]+)\s*(ms|s|m|h|d)?$/.exec(text) ?? [];
  return count ? nanoseconds(Number(count) * UNITS[unit]) : text;
}

const readDelays = (text) => text.split(/[\s,;]+/).filter(Boolean).map(readDelay);

export const throttleValues = (throttle) => ({
  "throttle.mode": throttle?.enabled ? throttle.mode || "rate" : "", "throttle.rate": throttle?.rate || null,
  "throttle.interval": throttle?.interval || "second", "throttle.max_concurrent": throttle?.max_concurrent || null,
  "throttle.max_queue_depth": throttle?.max_queue_depth || null, "throttle.deadline": seconds(throttle?.deadline),
});

/** `before` is the document as it was: what this form does not know of it stays. */
export function throttleDocument(values, before) {
  const mode = values["throttle.mode"];
  if (!mode) return before ? { ...before, enabled: false } : null;
  return {
    ...before, enabled: true, mode, rate: values["throttle.rate"] ?? 0, interval: values["throttle.interval"],
    max_concurrent: values["throttle.max_concurrent"] ?? 0, max_queue_depth: values["throttle.max_queue_depth"] ?? 0,
    deadline: nanoseconds(values["throttle.deadline"]),
  };
}

export const durabilityValues = (durability) => ({
  "durability.schedule": durability?.enabled ? durability.schedule || "long" : "",
  "durability.custom_delays": delaysText(durability?.custom_delays), "durability.deadline": seconds(durability?.deadline),
});

export function durabilityDocument(values, before) {
  const schedule = values["durability.schedule"];
  if (!schedule) return before ? { ...before, enabled: false } : null;
  const delays = schedule === "custom" ? { custom_delays: readDelays(values["durability.custom_delays"]) } : {};
  return { ...before, enabled: true, schedule, deadline: nanoseconds(values["durability.deadline"]), ...delays };
}

export function Throttle({ form }) {
  const mode = form.values["throttle.mode"];
  return html`<${Choice} label="Requests" value=${mode} onValue=${(value) => form.set("throttle.mode", value)} wrong=${form.wrong("throttle.mode")}
      options=${[
      ["", "One after the other", "in order"], ["concurrency", "Several at once", "in no order"],
      ["rate", "No more than so many in a time", "in order"]]} />
    ${mode === "concurrency" && html`<${Amount} label="At once" placeholder="1" ...${form.part("throttle.max_concurrent")} min="1" max="100" />`}
    ${mode === "rate" && html`<div class="duo"><${Amount} label="At most" required placeholder="10" ...${form.part("throttle.rate")} min="1" />
      <${Field} label="In a" as="select" ...${form.bind("throttle.interval")}><option value="second">second</option>
        <option value="minute">minute</option><option value="hour">hour</option><//></div>`}
    ${mode && html`<div class="duo"><${Amount} label="Longest queue" placeholder="no limit" hint="Over it senders to the bucket get a 429."
        ...${form.part("throttle.max_queue_depth")} />
      <${Amount} label="Sent within" units=${TIMES} usual=${1} placeholder="no limit" hint="An event that waits for longer is marked failed."
          ...${form.part("throttle.deadline")} /></div>`}`;
}

export function Durability({ form }) {
  const schedule = form.values["durability.schedule"];
  return html`<${Field} label="Then" as="select" ...${form.bind("durability.schedule")}><option value="">So many more tries</option>
    <option value="seconds">For 25 minutes</option>
      <option value="medium">For 16 hours</option><option value="long">For 30 days</option><option value="custom">At times of your own</option><//>
    ${schedule && html`<div class="duo">${schedule === "custom" && html`<${Field} label="Waits between tries" required autocomplete="off"
        spellcheck=${false} placeholder="10s, 1m, 10m" hint="ms, s, m, h or d; with a deadline the last one again and again."
        ...${form.bind("durability.custom_delays")} />`}
      <${Amount} label="Given up after" units=${TIMES} usual=${2} placeholder="as above" ...${form.part("durability.deadline")} /></div>`}`;
}
