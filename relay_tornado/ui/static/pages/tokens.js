// Tokens: who may connect to this relay and what each may do. For administrators.
import { html, useState } from "../lib.js";
import { ahead, get, remove, session, v1 } from "../api.js";
import { Badge, Button, Confirm, Empty, Loading, Problem, Time, number, tell, useLoaded } from "../parts/basic.js";
import { unsaved } from "../parts/form.js";
import { bucketLink } from "../parts/names.js";
import { shownOnce } from "../parts/secret.js";
import { Table } from "../parts/table.js";
import { link } from "../router.js";
import { RotateDialog, TokenDialog, tokenKey } from "./tokenform.js";

const MANY = 8;
const SHOWN = 3;

/** What a token may do, in two words or three. */
export function role({ scopes, api_access: api }) {
  if (api !== "enabled") return "connect only";
  return scopes.buckets.length ? "manage these" : "administrator";
}

function Scope({ ids, buckets }) {
  if (!ids.length) return html`<span>every bucket</span>`;
  const found = ids.map((id) => buckets.find((bucket) => bucket.id === id)).filter(Boolean);
  const gone = ids.length - found.length;
  const rest = found.slice(SHOWN).map(({ name }) => name);
  return html`${found.slice(0, SHOWN).map((bucket, index) => html`${index > 0 && ", "}<a key=${bucket.id}
      href=${bucketLink(bucket)}>${bucket.name}</a>`)}
    ${rest.length > 0 && html`<span class="soft" title=${rest.join(", ")}> and ${number(rest.length)} more</span>`}
    ${gone > 0 && html`<span class="soft">${found.length ? ", " : ""}${number(gone)} deleted</span>`}`;
}

function Expiry({ at }) {
  if (!at) return html`<span class="soft">never</span>`;
  return at * 1000 <= Date.now() + ahead.value ? html`<${Badge} kind="bad">expired <${Time} at=${at} /><//>` : html`<${Time} at=${at} />`;
}

function Row({ token, buckets, used, act }) {
  const name = token.description || token.key;
  return html`<tr>
    <td class="name"><b>${token.description || html`<span class="soft">no description</span>`}</b>${token.key === session.value.key && html` <${Badge}
        kind="accent">yours<//>`}
      ${unsaved(tokenKey(token)) && html` <${Badge} kind="warn">not saved<//>`}<span class="soft small about mono">${token.key}</span></td>
    <td data-label="Buckets"><${Scope} ids=${token.scopes.buckets} buckets=${buckets} /></td>
    <td data-label="May"><${Badge} kind=${role(token) === "administrator" ? "accent" : ""}>${role(token)}<//>${token.durable && html` <${Badge}>durable<//>`}</td>
    <td data-label="Made"><${Time} at=${token.created_at} /></td>
    ${used && html`<td data-label="Last used"><${Time} at=${token.last_used_at} /></td>`}
    <td data-label="Expires"><${Expiry} at=${token.expires_at} /></td>
    <td class="acts"><div class="row"><${Button} kind="tiny" aria-label=${`Edit ${name}`} onPress=${() => act("edit")}>Edit<//>
      <${Button} kind="tiny" aria-label=${`Rotate ${name}`} onPress=${() => act("rotate")}>Rotate<//>
      <${Button} kind="tiny danger" aria-label=${`Revoke ${name}`} onPress=${() => act("revoke")}>Revoke<//></div></td>
  </tr>`;
}

function Revoke({ token, changed, onClose }) {
  const own = token.key === session.value.key;
  const revoke = async () => {
    await remove(v1("tokens", token.key));
    tell(`${token.description || token.key} revoked`);
    changed();
  };
  return html`<${Confirm} title=${`Revoke ${token.description || token.key}?`} action="Revoke" typed=${own ? "revoke" : undefined} onConfirm=${revoke}
      onClose=${onClose}>
    Its connections are closed, and its secret opens nothing any more.
    ${token.durable ? " Its positions in the buckets are forgotten. " : " "}It can't be taken back.
    ${own && html`<p class="note warn">You are signed in with this token: you are signed out at once.</p>`}<//>`;
}

function Tokens({ query }) {
  const [[tokens, buckets] = [], error, again] = useLoaded(
    (abort) => Promise.all([get("/v1/tokens", {}, abort), get("/v1/buckets", {}, abort)]), { every: 15 },
  );
  const wanted = query?.get("bucket");
  const [action, setAction] = useState(wanted ? { what: "edit", token: null } : null);
  const [text, setText] = useState("");
  const close = () => setAction(null);
  const { what, token } = action ?? {};
  const saved = (document) => {
    again();
    if (document.secret) shownOnce.value = document;
    else tell(`${document.description || document.key} saved`);
  };
  const used = (tokens ?? []).some((each) => each.last_used_at !== undefined);
  const columns = [["Token"], ["Buckets"], ["May"], ["Made"], used && ["Last used"], ["Expires"], ["Actions", "acts"]];
  const found = (tokens ?? []).filter(({ description, key }) => `${description}\n${key}`.toLowerCase().includes(text.trim().toLowerCase()));
  return html`<div class="head"><h1>Tokens ${tokens?.length > 1 && html`<span class="soft count">${number(tokens.length)}</span>`}</h1>
      ${tokens?.length > MANY && html`<input type="search" aria-label="Find a token" placeholder="Find a token" value=${text}
          onInput=${(event) => setText(event.target.value)} />`}
      <${Button} kind="first" onPress=${() => setAction({ what: "edit", token: null })}>New token<//></div>
    <${Problem} error=${error} retry=${again} />
    ${!tokens && !error && html`<${Loading} />`}
    ${tokens && (found.length ? html`<${Table} label="Tokens" kind="tokens stacks" columns=${columns}>${found.map((each) => html`<${Row}
        key=${each.key} token=${each} buckets=${buckets} used=${used} act=${(name) => setAction({ what: name, token: each })} />`)}<//>` : html`<${Empty}
        title="No token like that"><p>None has “${text.trim()}” in its description or key.</p><//>`)}
    ${what === "edit" && buckets && html`<${TokenDialog} token=${token} buckets=${buckets} wanted=${token ? null : wanted} onSaved=${saved}
        onClose=${close} />`}
    ${what === "rotate" && html`<${RotateDialog} token=${token} onRotated=${saved} onClose=${close} />`}
    ${what === "revoke" && html`<${Revoke} token=${token} changed=${again} onClose=${close} />`}`;
}

export default function TokensPage({ query }) {
  if (session.value.administrator) return html`<${Tokens} query=${query} />`;
  return html`<${Empty} as="h1"
      title="Tokens are made by administrators"><p>Your token has some buckets only. Ask whoever has a token with every bucket and API access.</p><p>
    <a class="button" href=${link("/")}>Your buckets</a></p><//>`;
}
