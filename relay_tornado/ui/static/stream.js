// Live events, over GET /v1/stream with the session's cookie. The position is ours to keep: a browser gives up for good on some errors, and
// while the page is hidden the stream rests, since a browser has few connections for one host. Either way it goes on where it was.
import { get, v1 } from "./api.js";

const MAX_WAIT = 30_000;
const HIDDEN_FOR = 20_000;
// The relay says something every 15 s; where it does not, the connection may be dead without the browser's knowing for hours.
const SILENT_FOR = 40_000;
// An event that comes so much later than it could: more comes in than the connection has room for.
const LATE = 30_000;

/** A function that says by how many milliseconds an event comes later than the soonest of its stream did; `at` is when the relay got it, in unix
 *  seconds. The clocks may differ; where the relay's was set back, all events have one time until then, which says nothing. */
function lateness() {
  let [soonest, newest] = [Infinity, 0];
  return (at) => {
    const took = performance.now() - at * 1000;
    soonest = Math.min(soonest, took);
    const known = at > newest;
    newest = at;
    return known ? took - soonest : 0;
  };
}

/** Follows a bucket from a position on. The callbacks: webhook(frame), late() behind an event that comes `LATE`, gap(gap), subscribed(bucket entry,
 *  whether all since the last event comes on the stream), and status(text): "connecting", "live", "away" (it comes back by itself), "resting"
 *  (the page is hidden), "gone" (the bucket is). Returns what ends it. */
export function follow(bucket, { since = "latest", ...query }, { webhook, late, gap, subscribed, status }) {
  let source = null;
  let last = "";
  let tries = 0;
  let timer = 0;
  let silence = 0;
  let ended = false;

  const close = () => {
    clearTimeout(timer);
    clearTimeout(silence);
    source?.close();
    source = null;
  };
  const end = () => {
    ended = true;
    close();
    document.removeEventListener("visibilitychange", looked);
    window.removeEventListener("online", online);
  };
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => {
      status("away");
      later();
    }, SILENT_FOR);
  };
  const heard = (event) => {
    listen();
    if (event.lastEventId) last = event.lastEventId;
    return JSON.parse(event.data);
  };
  const open = () => {
    close();
    const search = new URLSearchParams({ bucket, outputs: "none", ...query, since: last || since });
    const opened = new EventSource(`${v1("stream")}?${search}`);
    source = opened;
    const lateBy = lateness();
    listen();
    opened.addEventListener("subscribed", (event) => {
      const resumed = last !== "";
      const { buckets } = heard(event);
      tries = 0;
      status("live");
      subscribed?.(buckets?.[0] ?? {}, resumed);
    });
    opened.addEventListener("webhook", (event) => {
      const frame = heard(event);
      webhook(frame);
      if (lateBy(frame.meta.received_at) > LATE) late?.();
    });
    opened.addEventListener("gap", (event) => gap?.(heard(event).gap));
    opened.addEventListener("caught_up", heard);
    opened.addEventListener("ping", heard);
    opened.addEventListener("bucket_deleted", () => {
      status("gone");
      end();
    });
    // An event of the relay that is called "error" comes here, too; the stream ends behind it.
    opened.addEventListener("error", () => {
      if (opened !== source) return;
      status("away");
      if (opened.readyState === EventSource.CLOSED) later();
    });
  };
  const later = () => {
    close();
    timer = setTimeout(again, Math.min(MAX_WAIT, 500 * 2 ** tries) * (0.75 + Math.random() / 2));
    tries += 1;
  };
  const again = async () => {
    // An EventSource does not say why it was refused, so we ask: where nobody is signed in any more, that ends the page's session.
    try {
      await get(v1("buckets", bucket));
    } catch (error) {
      if (ended) return;
      if (error.status === 404) {
        status("gone");
        end();
        return;
      }
      if (error.status === 401) return;
      later();
      return;
    }
    if (!ended) open();
  };
  const looked = () => {
    clearTimeout(timer);
    if (document.hidden) {
      timer = setTimeout(() => {
        close();
        status("resting");
      }, HIDDEN_FOR);
    } else if (!source) {
      tries = 0;
      status("connecting");
      open();
    }
  };
  const online = () => {
    if (source?.readyState === EventSource.OPEN || document.hidden) return;
    tries = 0;
    open();
  };
  document.addEventListener("visibilitychange", looked);
  window.addEventListener("online", online);
  status("connecting");
  open();
  return end;
}
