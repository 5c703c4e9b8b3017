// What a person calls a consumer, and what REST does.
import { get, session, v1 } from "../api.js";
import { useLoaded } from "./basic.js";

const KIND = /^(client|token|output):(.*)$/s;

/** Names that a browser removes from a URL, with the part before: without a kind, what is meant for the consumer would be done to its bucket. */
const DOTS = [".", ".."];

/** What REST calls a consumer ({kind, name}) in its bucket. */
export const reference = ({ kind, name }) => (kind === "client" && !KIND.test(name) && !DOTS.includes(name) ? name : `${kind}:${name}`);

/** The consumer that REST calls so: {kind, name}. */
export function referred(text) {
  const [, kind, name] = KIND.exec(text) ?? [null, "client", text];
  return { kind, name };
}

/** The place of a consumer in REST. */
export const consumerPath = (consumer, ...rest) => v1("buckets", consumer.bucket_id, "consumers", reference(consumer), ...rest);

/** The output that a consumer of that kind is of, where its bucket's document is known. */
export const outputOf = ({ name }, bucket) => bucket?.outputs.find(({ number: n }) => String(n) === name);

/** What a person calls a consumer ({kind, name}): an output and a token by their own names, where `bucket`, its bucket's document, and `tokens` are
 *  known. */
export function called(consumer, bucket, tokens) {
  const { kind, name } = consumer;
  if (kind === "output") return outputOf(consumer, bucket)?.name || `output ${name}`;
  if (kind === "token") return tokens?.find(({ key }) => key === name)?.description || `token ${name}`;
  return name;
}

/** Loads what `called` has names from, as far as these consumers need it and whoever is signed in may see it: [buckets, tokens]. */
export function useNames(consumers = []) {
  const has = (wanted) => consumers.some(({ kind }) => kind === wanted);
  const [outputs, others] = [has("output"), has("token") && session.value.administrator];
  const [buckets] = useLoaded((abort) => (outputs ? get(v1("buckets"), {}, abort) : []), { on: [outputs] });
  const [tokens] = useLoaded((abort) => (others ? get(v1("tokens"), {}, abort) : []), { on: [others] });
  return [buckets ?? [], [...(tokens ?? []), session.value]];
}

/** The consumers that are behind, of what GET /v1/status says of buckets. */
export const behind = (buckets = []) => buckets.filter(({ lag }) => lag?.events).map(({ lag }) => referred(lag.consumer));
