// The relay's public interface (docs/rest.md), with the session's cookie. Nothing here has a way of its own. The browser's other tabs have the same
// cookie: they are told who is signed in, and what was changed.
import { signal } from "./lib.js";

/** Who is signed in: undefined until it is known, null for nobody, else what GET /ui/session answered. */
export const session = signal(undefined);

/** Why nobody is signed in, where that is not by one's own doing; "" else. */
export const signedOut = signal("");

/** Grows when another tab made, changed or deleted a bucket, an input, an output or a token. */
export const changed = signal(0);

const SESSION = "/ui/session";
const CHANGES = /^\/v1\/(bins|buckets|tokens)(\/[^/]+(\/(inputs|outputs|rotate)(\/[^/]+)?)?)?$/;
const NO_COOKIE = "This browser keeps no cookie of this page, and without it nobody can be signed in: allow cookies here, and sign in again.";
const ENDED = "You were signed out: the session has ended, or its token was revoked or has expired.";
const AGAIN = 2_000;

/** What is said there: "in" where one signed in, "out" by one's own doing, "ended" where the relay said so, "changed". */
const tabs = channel();

/** The channel to the other tabs. A browser that was told to keep nothing for this page may have none: then a tab is alone. */
function channel() {
  try {
    return new BroadcastChannel("relay");
  } catch {
    return { postMessage() {} };
  }
}

function end(why) {
  signedOut.value = why;
  session.value = null;
}

const CLOCKS_AGREE = 60_000;
const SLACK = 3_000;

/** By how many milliseconds the relay's clock is ahead of the browser's; 0 where they agree within a minute. */
export const ahead = signal(0);

function compareClocks(date) {
  const differs = Date.parse(date) - Date.now();
  if (Math.abs(differs - ahead.peek()) > SLACK) ahead.value = Math.abs(differs) > CLOCKS_AGREE ? differs : 0;
}

export class ApiError extends Error {
  constructor(status, document) {
    super(document?.message ?? `The relay answered ${status}.`);
    this.status = status;
    this.code = document?.code ?? "";
    this.field = document?.field ?? "";
  }
}

/** Whether an error says that the relay is away for now: not reached, overloaded, or missed by a proxy. */
export const away = ({ status }) => [0, 502, 503, 504].includes(status);

const GOES_ON = " The page goes on by itself when it is back.";
const UNKNOWN = " Whether it did what was asked is not known: look before you do it again.";

/** Milliseconds without a byte after which no more are waited for: on a connection that is dead that may take a quarter of an hour. What changes something
 *  may wait for a destination, which has up to three minutes. */
const PATIENCE = 40_000;
const CHANGE_PATIENCE = 200_000;

/** Fetches, and gives up where no byte comes for `patience` milliseconds: {response, text}. Throws ApiError(0) with `unreached` at its end. */
export async function fetched(path, { signal: abort, ...options }, { patience = PATIENCE, unreached }) {
  const silence = new AbortController();
  let timer = 0;
  const listen = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), patience);
  };
  try {
    listen();
    const response = await fetch(path, { ...options, signal: AbortSignal.any([silence.signal, ...(abort ? [abort] : [])]) });
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part = await reader?.read(); part && !part.done; part = await reader.read()) {
      listen();
      text += part.value;
    }
    return { response, text };
  } catch (error) {
    if (abort?.aborted) throw error;
    throw new ApiError(0, { message: `The relay ${silence.signal.aborted ? "does not answer" : "can't be reached"}.${unreached}` });
  } finally {
    clearTimeout(timer);
  }
}

/** The document of an answer, null where the relay did not make it: its answers are JSON, and its errors have a code. */
function documentOf({ ok }, text) {
  try {
    const document = JSON.parse(text);
    return ok || document?.code ? document : null;
  } catch {
    return null;
  }
}

/** Asks the relay and returns its JSON. `path` begins with /; `query` drops what is empty. Throws ApiError, or ApiError(0) where the relay did not answer,
 *  which says `unreached`, too. `changes` is whether it may change something. */
export async function ask(method, path, { query, body, signal: abort, changes = method !== "GET", unreached = changes ? UNKNOWN : GOES_ON } = {}) {
  const kept = Object.entries(query ?? {}).filter(([, value]) => value != null && value !== "");
  const search = kept.length ? `?${new URLSearchParams(kept)}` : "";
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const { response, text } = await fetched(path + search, {
    method, headers, signal: abort, credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body),
  }, { patience: changes ? CHANGE_PATIENCE : PATIENCE, unreached });
  const document = documentOf(response, text);
  if (document === null) {
    const said = away(response) ? `a proxy answered ${response.status}.`
      : `something else answered ${response.status} in its place; reload the page to see what.`;
    throw new ApiError(0, { message: `The relay can't be reached: ${said}${unreached}` });
  }
  compareClocks(response.headers.get("Date"));
  if (response.ok) {
    if (method !== "GET" && CHANGES.test(path)) tabs.postMessage("changed");
    return document;
  }
  if (response.status === 401 && session.value) {
    end(ENDED);
    if (path !== SESSION) tabs.postMessage("ended");
  }
  throw new ApiError(response.status, document);
}

export const get = (path, query, abort) => ask("GET", path, { query, signal: abort });
export const post = (path, body = {}) => ask("POST", path, { body });
export const put = (path, body) => ask("PUT", path, { body });
export const remove = (path, query) => ask("DELETE", path, { query });

/** A path under /v1: v1("buckets", name) is /v1/buckets/NAME, each part encoded. */
export const v1 = (...parts) => `/v1/${parts.map(encodeURIComponent).join("/")}`;

/** Asks who is signed in. */
export async function who() {
  try {
    session.value = await get(SESSION);
  } catch (error) {
    if (error.status === 401 || error.status === 404) session.value = null;
    else throw error;
  }
}

/** Signs in with a token's secret or with a one-time code, and looks whether the browser kept the cookie. */
export async function signIn(credentials) {
  const answer = await ask("POST", SESSION, { body: credentials, changes: false, unreached: "" });
  await get(SESSION).catch(({ status }) => {
    if (status === 401) throw new ApiError(status, { message: NO_COOKIE });
  });
  session.value = answer;
  signedOut.value = "";
  tabs.postMessage("in");
}

export async function signOut() {
  await remove(SESSION);
  end("");
  tabs.postMessage("out");
}

/** Who is signed in by what another tab did; asked again while the relay does not say. */
async function whoNow() {
  try {
    await who();
    if (session.peek()) signedOut.value = "";
  } catch {
    setTimeout(whoNow, AGAIN);
  }
}

tabs.onmessage = ({ data }) => {
  if (data === "changed") changed.value += 1;
  else if (data === "in" && document.querySelector(".signin input")?.value) {
    // Whoever types a secret here goes on with that.
    signedOut.value = "You are signed in in another tab. Reload this page to go on as there, or sign in here for all tabs.";
  } else if (data === "in") whoNow();
  // The relay may have said before that the session has ended.
  else if (data === "out" && (session.peek() || signedOut.peek() === ENDED)) end("You signed out in another tab.");
  else if (session.peek()) whoNow();
};
