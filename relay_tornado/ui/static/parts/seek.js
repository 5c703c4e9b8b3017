// Moving a consumer: where to, and before it is done what it will repeat or skip.
import { html, useEffect, useState } from "../lib.js";
import { ask, away, post } from "../api.js";
import { link } from "../router.js";
import { Button, Dialog, Problem, number, tell, useOpen } from "./basic.js";
import { consumerPath } from "./called.js";
import { isPast, triesOf } from "./oldest.js";
import { local, zone } from "./zone.js";

const PAUSE = 250;

const CHOICES = [
  ["next", "The event after the next one, which is skipped"],
  ["past", "What comes after its position: events that wait for another try are skipped"],
  ["latest", "Only what comes in from now on"],
  ["earliest", "The oldest event that is kept"],
  ["last", "The newest events, so many:"],
  ["time", "What came in since:"],
  ["id", "What comes after the event:"],
];

/** Those that there are for a consumer as it stands. */
function choicesOf(consumer) {
  const past = isPast(consumer);
  return CHOICES.filter(([name]) => (name === "next" ? consumer.oldest && !past : name === "past" ? past : true));
}

/** `to` of a seek, or null while what was entered is no position. */
function position(choice, { floor, oldest }, { last, time, id }) {
  if (choice === "next") return oldest.id;
  if (choice === "past") return floor;
  if (choice === "last") return Number.isInteger(Number(last)) && Number(last) >= 1 ? { last: Number(last) } : null;
  if (choice === "time") return time && !Number.isNaN(Date.parse(time)) ? { time: Math.floor(Date.parse(time) / 1000) } : null;
  if (choice === "id") return id.trim() || null;
  return choice;
}

function Preview({ seeked }) {
  const parts = [];
  if (seeked.repeats) parts.push(html`<b>repeats ${number(seeked.repeats)}</b> events that it was done with`);
  if (seeked.skips) parts.push(html`<b>skips ${number(seeked.skips)}</b> events that it has not done`);
  const what = parts.length === 2 ? [parts[0], ", and ", parts[1]] : parts;
  return html`<span>From <code>${seeked.from}</code> to <code>${seeked.to}</code>: it ${
    parts.length ? what : "repeats nothing, and skips nothing"}.</span>`;
}

/** Asks where to move a consumer, which may go on meanwhile: then what the move would do is looked at anew. `onMoved` is called once it is done. */
export function Seek({ consumer, title, onMoved, onClose }) {
  const [entered, setChoice] = useState(null);
  const [given, setGiven] = useState({ last: "100", time: local(Date.now() / 1000 - 3600), id: "" });
  const [seen, setSeen] = useState({});
  const [turn, setTurn] = useState(0);
  const open = useOpen();
  const choices = choicesOf(consumer);
  const choice = choices.some(([name]) => name === entered) ? entered : null;
  const to = position(choice, consumer, given);
  const key = JSON.stringify(to);
  useEffect(() => {
    if (to === null) return undefined;
    let ended = false;
    const timer = setTimeout(() => {
      ask("POST", consumerPath(consumer, "seek"), { body: { to, preview: true }, changes: false, unreached: "" }).then(
        (seeked) => ended || setSeen({ key, seeked }),
        (error) => ended || setSeen({ key, error }),
      );
    }, PAUSE);
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [key, turn, consumer.floor, consumer.pending]);
  const move = async () => {
    const seeked = await post(consumerPath(consumer, "seek"), { to });
    tell(`Moved to ${seeked.to}: ${number(seeked.repeats)} repeated, ${number(seeked.skips)} skipped`);
    onMoved();
    if (open.current) onClose();
  };
  const current = seen.key === key ? seen : {};
  const again = () => {
    setSeen({});
    setTurn(turn + 1);
  };
  const enter = (name) => (event) => {
    setChoice(name);
    setGiven((before) => ({ ...before, [name]: event.target.value }));
  };
  const fields = {
    last: html`<input type="number" min="1" max="1000000000" aria-label="How many events" value=${given.last} onInput=${enter("last")} />`,
    time: html`<input type="datetime-local" step="1" max="9999-12-31T23:59" aria-label="Since when" value=${given.time} onInput=${enter("time")} /> <span class="soft">${
      zone(given.time)}</span>`,
    id: html`<input class="mono" spellcheck=${false} aria-label="The event's id" placeholder=${consumer.head} value=${given.id} onInput=${
      enter("id")} />`,
  };
  const { oldest } = consumer;
  const past = isPast(consumer);
  const tries = triesOf(consumer);
  return html`<${Dialog} title=${`Move ${title}`} onClose=${onClose}>
    ${oldest && html`<p>${past ? "The oldest event that it is not done with" : "The next event"} is <a href=${link("/events", oldest.id)}>${
      oldest.id}</a>${tries && `, ${tries}`}.</p>`}
    <p class="soft">Clients that are connected go on at the new place at once.</p>
    <fieldset class="seek-choices"><legend class="label">Go on with</legend>${choices.map(([name, text]) => html`<div class="row" key=${name}>
      <label><input type="radio" name="to" checked=${choice === name} onChange=${() => setChoice(name)} />${text}</label>${fields[name]}</div>`)}
        </fieldset>
    <div class=${`note ${current.seeked?.skips ? "warn" : ""}`} role="status">
      ${to === null ? (choice ? "Enter where it goes on." : "Choose where it goes on.") : current.seeked ? html`<${Preview} seeked=${
        current.seeked} />` : current.error ? (away(current.error) ? "What this would do is not known." : "It can't go there.") : "Looking at what this would do…"}</div>
    <${Problem} error=${current.error} retry=${current.error && away(current.error) && again} />
    <div class="row"><span class="grow"></span><${Button} onPress=${onClose}>Cancel<//>
      <${Button} kind=${current.seeked?.skips ? "danger" : "first"} disabled=${!current.seeked} onPress=${move}>Move<//></div>
  <//>`;
}
