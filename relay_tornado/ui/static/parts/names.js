// Where things are: addresses within the page, and the relay's own that others use.
import { session } from "../api.js";
import { link } from "../router.js";

/** What names a bucket ({id, name}) in a path: its name, or its id where a path can't carry that. */
export const inPath = ({ id, name }) => (/^\.{1,2}$/.test(name) ? id : name);

/** The page of a bucket, or one of its tabs. */
export const bucketLink = (bucket, ...rest) => link("/buckets", inPath(bucket), ...rest);

/** The relay's URL as others know it, without a slash at its end. */
export const relayUrl = () => (session.value?.public_url || window.location.origin).replace(/\/+$/, "");

export const socketUrl = () => `${relayUrl().replace(/^http/, "ws")}/v1/socket`;

/** Where senders reach an input: its own URL first, then the one of its domain and prefix, where it has such. */
export function inputUrls(input) {
  const urls = [`${relayUrl()}/v1/webhooks/${input.id}`];
  const [domain, prefix] = [input.custom_domain.replace(/\.$/, ""), input.path_prefix.replace(/\/$/, "")];
  if (domain || prefix) {
    const relay = new URL(relayUrl());
    if (domain) relay.hostname = domain;
    urls.push(`${relay.origin}${prefix || "/"}`);
  }
  return urls;
}
