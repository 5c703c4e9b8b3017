// Signing in: a token's secret is pasted, or the one-time code of a link (in the address's fragment, so no log holds it).
import { html, useEffect, useRef, useState } from "../lib.js";
import { session, signIn, signedOut } from "../api.js";
import { Button, Field, focusField } from "../parts/basic.js";

let code = "";

/** Uses the code that the address has behind its #, and takes it out of the address. Throws ApiError(0) where nobody answered: then call it again. */
export async function withCode() {
  code = new URLSearchParams(window.location.hash.slice(1)).get("code") || code;
  if (!code) return;
  window.history.replaceState(window.history.state, "", window.location.pathname + window.location.search);
  try {
    await signIn({ code });
  } catch (error) {
    if (error.status === 0) throw error;
    signedOut.value = error.message;
  }
  code = "";
}

export function SignIn() {
  const [secret, setSecret] = useState("");
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  const form = useRef(null);
  useEffect(() => form.current && focusField(form.current), []);
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    try {
      await signIn({ secret: secret.trim() });
    } catch (error) {
      setWrong(error.message);
    }
    setBusy(false);
  };
  if (session.value) return null;
  return html`<form class="card stack signin" ref=${form} onSubmit=${submit}>
    <h1>Sign in to this relay</h1>
    ${signedOut.value && html`<p class="note warn" role="alert">${signedOut.value}</p>`}
    <${Field} label="A token's secret" type="password" autocomplete="current-password" required value=${secret} wrong=${wrong}
      hint="It is kept nowhere in the browser: a session cookie takes its place." onInput=${(event) => setSecret(event.target.value)} />
    <div><${Button} type="submit" kind="first" aria-disabled=${busy ? "true" : undefined}>Sign in<//></div>
    <p class="soft small">On the relay's machine, <code>relay ui</code> prints a link that signs you in. <code>relay token create</code> makes a token.</p>
  </form>`;
}
