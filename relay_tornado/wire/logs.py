"""The JSON form of a Log: an event, or one copy of it, with its outcome.

The fields up to `updated_at` are those of Webhook Relay's REST interface; those after it are this relay's own.
"""

from __future__ import annotations

from base64 import b64encode

from relay_tornado.ids import format_id
from relay_tornado.model import Bucket, Event, Result
from relay_tornado.wire.fields import Document
from relay_tornado.wire.headers import decode, for_frame, is_utf8

RECEIVED = "received"
"""The status of an event that has no delivery attempt and no answer."""


def log_document(
    bucket: Bucket,
    event: Event,
    copy: int | None,
    output: int | None,
    result: Result | None,
    *,
    ephemeral: bool,
    damaged: bool,
) -> Document:
    """The Log of an event of this bucket, or of its copy for output `copy`.

    `result` is the newest one, or None; `output` is the number of the output that it is about, 0 or None for none. A
    body that is not UTF-8 is in `body` with replacement characters, and exactly in `body_base64`. `response_truncated`
    is true if the answer's body is left out, and `damaged` if the event's content can't be read.
    """
    headers, _ = for_frame(event.headers)
    tried = result or Result(RECEIVED, 0, {}, b"", 0, 0, event.received_at)
    shown = bucket.output(output)
    document = {
        "id": format_id(event.epoch, event.seq, copy),
        "account_id": "",
        "bucket_id": bucket.id,
        "input_id": event.input_id,
        "output_id": "" if shown is None else shown.id,
        "method": event.method,
        "status": tried.status,
        "status_code": tried.status_code,
        "body": event.body.decode(errors="replace"),
        "headers": {name: list(values) for name, values in headers.items()},
        "raw_query": decode(event.query),
        "extra_path": decode(event.path),
        "ip_address": event.remote_ip,
        "response_body": b64encode(tried.body).decode(),
        "response_headers": {name: list(each) for name, each in tried.headers.items()},
        "duration_ms": tried.duration_ms,
        "retries": tried.retries,
        "internal": shown is None or shown.internal,
        "ephemeral": ephemeral,
        "created_at": int(event.received_at),
        "updated_at": int(tried.at),
        "seq": event.seq,
        "epoch": event.epoch,
        "received_at": event.received_at,
        "verified": event.verified,
        "verdict": event.verdict,
        "resend_of": event.resend_of,
        "target": event.target,
        "edited": event.edited,
        "size": event.size,
        "headers_base64": b64encode(event.headers).decode(),
    }
    if not is_utf8(event.body):
        document["body_base64"] = b64encode(event.body).decode()
    if tried.left_out:
        document["response_truncated"] = True
    if damaged:
        document["damaged"] = True
    return document


def delivery_document(output: int, result: Result) -> Document:
    """The result of an attempt, or a client's answer; `output` is the number of the copy's output, 0 for the event
    itself."""
    document = {
        "output": output,
        "status": result.status,
        "status_code": result.status_code,
        "duration_ms": result.duration_ms,
        "retries": result.retries,
        "at": result.at,
        "response_headers": {name: list(each) for name, each in result.headers.items()},
        "response_body": b64encode(result.body).decode(),
    }
    return {**document, "response_truncated": True} if result.left_out else document
