// What the list knows of an event: a few values of its frame or of its log, and whether a filter wants it.
import { encode } from "./bytes.js";

/** The usual methods, as a form offers them. */
export const METHODS = ["POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

const one = (headers, name) => {
  for (const key of [name, name.toLowerCase()]) if (Object.hasOwn(headers ?? {}, key)) return [headers[key]].flat()[0] ?? "";
  return "";
};

/** The bytes of a body: as the sender told, else as they are, else what remains of the event's size. */
function sizeOf(frame, all) {
  const told = one(frame.headers, "Content-Length");
  if (/^\d{1,12}$/.test(told)) return Number(told);
  if (all != null && frame.body === undefined) return Math.max(0, all - Math.floor(((frame.headers_base64?.replace(/=+$/, "").length ?? 0) * 3) / 4));
  if (frame.truncated) return null;
  return frame.body_base64 ? Math.floor((frame.body_base64.replace(/=+$/, "").length * 3) / 4) : encode(frame.body ?? "").length;
}

/** The record of a frame of the stream. Its delivery's status is not known yet. */
export function fromFrame(frame) {
  const { meta } = frame;
  return {
    id: meta.id, seq: meta.seq, at: meta.received_at, method: frame.method, path: meta.path, query: frame.query, sender: meta.remote_ip,
    input: meta.input_id, type: one(frame.headers, "Content-Type"), size: sizeOf(frame), verified: meta.verified ?? null, status: "", code: 0,
    resent: false, edited: false,
  };
}

/** The record of a log. */
export function fromLog(log) {
  return {
    id: log.id, seq: log.seq, at: log.received_at, method: log.method, path: log.extra_path, query: log.raw_query, sender: log.ip_address,
    input: log.input_id, type: one(log.headers, "Content-Type"), size: sizeOf(log, log.size),
    verified: log.verified ?? null, status: log.status, code: log.status_code ?? 0, resent: Boolean(log.resend_of), edited: Boolean(log.edited),
  };
}

/** The place of gap in the list: events that a position should have met, and that are not kept any more. */
export const fromGap = (gap, at) => ({ id: `gap-${gap.from}-${gap.to}-${at}`, seq: Infinity, at, gap });

/** The filter's names, as they stand in the page's address and in GET /v1/search. */
export const FILTERS = ["q", "method", "path", "header", "verified", "delivery", "from", "to"];

/** The filter of an address: only what is set. */
export function filterOf(query) {
  const filter = {};
  for (const name of FILTERS) if (query.get(name)) filter[name] = query.get(name);
  return filter;
}

/** A header's filter in its parts: "X-Kind: order" is [name, value], "X-Kind" alone has no value. */
function headerParts(text) {
  const colon = text.indexOf(":");
  return colon < 0 ? [text.trim(), ""] : [text.slice(0, colon).trim(), text.slice(colon + 1).trim()];
}

const escaped = (text) => text.replace(/[\\^$.|?*+()[\]{}]/g, "\\$&");

const rule = (source, name, text) => ({ match: { type: "regex", regex: `(?i)${escaped(text)}`, parameter: { source, name } } });

/** The part of a filter that the stream can do for us, as its rules; null where there is none. */
export function streamFilter(filter) {
  const nodes = [];
  if (filter.header) nodes.push(rule("header", ...headerParts(filter.header)));
  return nodes.length ? { and: nodes } : null;
}

/** Whether a live event is one that the rest of the filter wants, where that can be seen from its record. */
export function wants(filter, record) {
  if (filter.method && record.method.toUpperCase() !== filter.method.toUpperCase()) return false;
  if (filter.path && !record.path.toLowerCase().includes(filter.path.toLowerCase())) return false;
  if (filter.verified && String(record.verified ?? "none") !== filter.verified) return false;
  if (filter.from && record.at < Number(filter.from)) return false;
  return !(filter.to && record.at >= Number(filter.to));
}

/** Whether only a search can tell what is new for a filter: it reads bodies, or what became of events. */
export const needsSearch = (filter) => Boolean(filter.q || filter.delivery);
