// A token's secret, which nobody can show again. It stays until it is said to be copied, wherever the page goes meanwhile, and though nobody is signed
// in any more, as behind a new secret for one's own token.
import { html, signal, useEffect, useState } from "../lib.js";
import { Button, Copy, Dialog } from "./basic.js";
import { socketUrl } from "./names.js";

/** The document of the token whose secret is shown, with that; null for none. */
export const shownOnce = signal(null);

const stay = (event) => event.preventDefault();

function Secret({ token }) {
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    window.addEventListener("beforeunload", stay);
    return () => window.removeEventListener("beforeunload", stay);
  }, []);
  const close = () => {
    shownOnce.value = null;
  };
  return html`<${Dialog} title="The secret, this once" onClose=${() => setAsked(true)}>
    <p>This is the secret of <b>${token.description || token.key}</b>. The relay keeps a hash of it only: copy it now.</p>
    <dl class="addresses"><dt>Secret</dt><dd class="address"><code class="grow">${token.secret}</code>
      <${Copy} text=${token.secret} label="secret">Copy<//></dd>
      <dt>Key</dt><dd class="address"><code class="grow">${token.key}</code><${Copy} text=${token.key} label="key" /></dd>
      <dt>WebSocket</dt><dd class="address"><code class="grow">${socketUrl()}</code><${Copy} text=${socketUrl()} label="WebSocket URL" /></dd></dl>
    <p class="note warn" role="alert">${asked ? "Once this is closed, nobody can show it again. Is it copied?"
      : "Whoever has it may do what the token may. It goes into a password store or a file that only its user reads."}</p>
    <div class="row"><span class="grow"></span><${Button} kind="first" onPress=${close}>I have it<//></div>
  <//>`;
}

/** The dialog, while there is one to show. */
export const ShownOnce = () => shownOnce.value && html`<${Secret} key=${shownOnce.value.secret} token=${shownOnce.value} />`;
