"""The JSON form of a Log: an event, or one copy of it, with what became of it.

The fields up to `updated_at` are those of Webhook Relay's REST interface; those behind it are this relay's own.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Protocol

from relay_tornado.ids import format_id
from relay_tornado.model import Bucket, Event
from relay_tornado.wire.fields import Document
from relay_tornado.wire.headers import decode, for_frame, is_utf8

RECEIVED = "received"
"""The status of what nobody has tried to deliver, or answered."""


class Outcome(Protocol):
    """What came of a try (`log.deliveries.Result`)."""

    @property
    def status(self) -> str: ...
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def duration_ms(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def at(self) -> float: ...


def log_document(
    bucket: Bucket, event: Event, copy: int | None, output: int, outcome: Outcome | None, *, ephemeral: bool
) -> Document:
    """The Log of an event of this bucket, or of its copy for output `copy`.

    `outcome` is its newest, None where there is none, and `output` the number of the output that it is about, 0 for
    none. A body that is not UTF-8 stands in `body` with replacement characters, and exactly in `body_base64`.
    """
    headers, _ = for_frame(event.headers)
    shown = next((each for each in bucket.outputs if each.n == output), None)
    document = {
        "id": format_id(event.epoch, event.seq, copy),
        "account_id": "",
        "bucket_id": bucket.id,
        "input_id": event.input_id,
        "output_id": "" if shown is None else shown.id,
        "method": event.method,
        "status": RECEIVED if outcome is None else outcome.status,
        "status_code": 0 if outcome is None else outcome.status_code,
        "body": event.body.decode(errors="replace"),
        "headers": {name: list(values) for name, values in headers.items()},
        "raw_query": decode(event.query),
        "extra_path": decode(event.path),
        "ip_address": event.remote_ip,
        "response_body": "" if outcome is None else b64encode(outcome.body).decode(),
        "response_headers": {} if outcome is None else {name: list(each) for name, each in outcome.headers.items()},
        "duration_ms": 0 if outcome is None else outcome.duration_ms,
        "retries": 0 if outcome is None else outcome.retries,
        "internal": shown is None or shown.internal,
        "ephemeral": ephemeral,
        "created_at": int(event.received_at),
        "updated_at": int(event.received_at if outcome is None else outcome.at),
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
    return document


def delivery_document(output: int, outcome: Outcome) -> Document:
    """What came of a try, or a client's answer; `output` is the number of the copy's, 0 for the event itself."""
    return {
        "output": output,
        "status": outcome.status,
        "status_code": outcome.status_code,
        "duration_ms": outcome.duration_ms,
        "retries": outcome.retries,
        "at": outcome.at,
        "response_headers": {name: list(each) for name, each in outcome.headers.items()},
        "response_body": b64encode(outcome.body).decode(),
    }
