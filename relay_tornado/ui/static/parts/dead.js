// What a consumer gave up: its dead letters with their reasons, sent again or forgotten.
import { html, useEffect, useState } from "../lib.js";
import { get, post, remove } from "../api.js";
import { link } from "../router.js";
import { Badge, Button, Confirm, Dialog, Loading, Problem, Time, number, tell } from "./basic.js";
import { consumerPath } from "./called.js";
import { Table } from "./table.js";

const PAGE = 100;
/** As many ids as fit a URL well. */
const AT_ONCE = 100;

const REASONS = {
  max_deliver: "It was tried the most times allowed (max_deliver)",
  given_up: "It was given up by an administrator (given_up)",
  retention: "It left the log before it was done (retention)",
};

function Letter({ letter, chosen, choose, again, forget }) {
  const gone = letter.reason === "retention";
  return html`<tr>
    <td><label class="hit"><input type="checkbox" aria-label=${`Choose ${letter.id}`} checked=${chosen} onChange=${choose} /></label></td>
    <td class="value"><a href=${link("/events", letter.id)}>${letter.id}</a><div class="under">${letter.reason}, tries: ${number(letter.attempts)}, <${
      Time} at=${letter.at} /></div></td>
    <td class="wide"><${Badge} kind="bad">${letter.reason}<//></td>
    <td class="num wide">${number(letter.attempts)}</td>
    <td class="wide"><${Time} at=${letter.at} /></td>
    <td class="acts"><div class="row"><${Button} kind="tiny" disabled=${gone} title=${gone ? "The event is not kept any more" : undefined}
        aria-label=${`Send again ${letter.id}`} onPress=${again}>Send again<//>
      <${Button} kind="tiny" aria-label=${`Forget ${letter.id}`} onPress=${forget}>Forget<//></div></td>
  </tr>`;
}

/** A dialog with the dead letters of a consumer. `onChanged` is called whenever some were sent or forgotten. */
export function DeadLetters({ consumer, title, onChanged, onClose }) {
  const [letters, setLetters] = useState(null);
  const [next, setNext] = useState(null);
  const [error, setError] = useState(null);
  const [chosen, setChosen] = useState(new Set());
  const [asking, setAsking] = useState(null);
  const path = consumerPath(consumer, "dead");
  const load = async (cursor) => {
    try {
      const page = await get(path, { limit: PAGE, cursor });
      setLetters((before) => (cursor ? [...before, ...page.data] : page.data));
      setNext(page.next_cursor ?? null);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => {
    load();
  }, []);
  const changed = async () => {
    setChosen(new Set());
    onChanged();
    await load();
  };
  const again = async (ids) => {
    const { scheduled, left, gone } = await post(`${path}/resend`, ids ? { ids } : { all: true });
    const not = [left && `${number(left)} stay, as too many wait already`, gone && `${number(gone)} can't be, as retention removed them`].filter(Boolean);
    tell([`${number(scheduled)} will be delivered again`, ...not].join("; "), not.length ? "bad" : "");
    await changed();
  };
  const forget = async (ids) => {
    let forgotten = 0;
    if (!ids) forgotten = (await remove(path, { all: true })).forgotten;
    for (let at = 0; at < (ids?.length ?? 0); at += AT_ONCE) {
      forgotten += (await remove(path, { ids: ids.slice(at, at + AT_ONCE).join(",") })).forgotten;
    }
    tell(`${number(forgotten)} forgotten`);
    await changed();
  };
  const toggle = (id) => {
    const after = new Set(chosen);
    if (!after.delete(id)) after.add(id);
    setChosen(after);
  };
  const all = letters?.length > 0 && chosen.size === letters.length;
  const chooseAll = html`<label class="hit"><input type="checkbox" aria-label="Choose all that are shown" checked=${all}
    onChange=${() => setChosen(new Set(all ? [] : letters.map(({ id }) => id)))} /></label>`;
  const ids = chosen.size ? [...chosen] : null;
  const which = ids ? `${number(ids.length)} chosen` : "all";
  return html`<${Dialog} title=${`Dead letters of ${title}`} onClose=${onClose} wide>
    <p class="soft">Events that it gave up. Sent again, they are given to it at once as if they had never been tried.
      Forgotten, they stay in the bucket.</p>
    <${Problem} error=${error} retry=${() => load()} />
    ${!letters && !error && html`<${Loading} />`}
    ${letters?.length === 0 && html`<p class="note">There are none.</p>`}
    ${letters?.length > 0 && html`<div class="row"><span class="grow soft">${number(letters.length)}${next ? " of more" : ""}</span>
        <${Button} onPress=${() => again(ids)}>Send ${which} again<//>
        <${Button} kind="danger" onPress=${() => setAsking({ ids })}>Forget ${which}<//></div>
      <${Table} label="Dead letters" kind="consumers dead" columns=${[[chooseAll], ["Event"], ["Reason", "wide"], ["Tries", "num wide"], ["Given up", "wide"],
        ["Actions", "acts"]]}>${letters.map((letter) => html`<${Letter} key=${letter.id} letter=${letter} chosen=${chosen.has(letter.id)}
          choose=${() => toggle(letter.id)} again=${() => again([letter.id])} forget=${() => setAsking({ ids: [letter.id] })} />`)}<//>
      <dl class="facts small">${[...new Set(letters.map(({ reason }) => reason))].filter((reason) => REASONS[reason]).map(
        (reason) => html`<dt key=${reason}>${reason}</dt><dd>${REASONS[reason]}</dd>`)}</dl>`}
    ${next && html`<div><${Button} onPress=${() => load(next)}>Show more<//></div>`}
    ${asking && html`<${Confirm} title=${asking.ids ? `Forget ${number(asking.ids.length)} dead letters?` : "Forget all dead letters?"}
      action="Forget"
      onConfirm=${() => forget(asking.ids)} onClose=${() => setAsking(null)}>${
        title} will not be given these events again by itself. They stay in the bucket.<//>`}
  <//>`;
}
