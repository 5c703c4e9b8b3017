"""What the relay sends over a WebSocket, as JSON bytes: status frames and webhook frames.

The stock forms are those of "Server to client" in docs/protocol.md; msgspec writes them with no white space.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from relay_tornado.model import Bucket, Event, Gap, Output
from relay_tornado.wire.headers import canonical, decode, is_shown, is_utf8, latin1
from relay_tornado.wire.shapes import render

_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, Any]).decode


class _Meta(msgspec.Struct, gc=False):
    id: str
    bucked_id: str
    bucket_id: str
    bucket_name: str
    input_id: str
    input_name: str
    output_name: str
    output_destination: str
    seq: int
    epoch: str
    received_at: float
    path: str
    host: str
    remote_ip: str
    verified: bool | msgspec.UnsetType = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    latin1: list[str] | msgspec.UnsetType = msgspec.UNSET


class _Webhook(msgspec.Struct, gc=False, omit_defaults=True):
    type: str
    meta: _Meta
    headers: msgspec.Raw
    query: str
    body: str | msgspec.UnsetType
    method: str
    body_base64: str | None = None
    truncated: bool = False


class Copy(NamedTuple):
    """The output that a copy of an event goes to, as its frame shows it. `headers` overwrite the sender's, by their
    canonical names; with `extend` what follows the input in the URL is appended to the destination."""

    n: int
    name: str
    destination: str
    headers: Mapping[str, tuple[str, ...]]
    extend: bool


def copy_to(output: Output) -> Copy:
    """What frames show of an output. Headers that frames never show are left out."""
    headers = {canonical(name): tuple(values) for name, values in output.headers.items()}
    shown = {name: values for name, values in headers.items() if is_shown(name)}
    return Copy(output.n, output.name, output.destination, shown, not output.lock_path)


def webhook(event: Event, bucket: Bucket, input_name: str, *, truncate: bool = False, attempt: int = 1) -> bytes:
    """The frame of one event of this bucket that goes to no output; with `truncate`, without its body and saying so;
    from the second `attempt` on, saying which it is.

    A body that is not UTF-8 stands in `body` with replacement characters, and exactly in `body_base64`.
    """
    return _encode(_webhook(event, bucket, input_name, truncate, attempt))


def webhooks(
    event: Event, bucket: Bucket, input_name: str, copies: Sequence[Copy], truncate: bool, attempt: int = 1
) -> list[bytes]:
    """The frames of an event's copies, in their order; else as `webhook`."""
    frame = _webhook(event, bucket, input_name, truncate, attempt)
    meta, headers, marks = frame.meta, frame.headers, frame.meta.latin1
    made = []
    for copy in copies:
        meta.id = f"{event.epoch}-{event.seq}-{copy.n}"
        meta.output_name = copy.name
        meta.output_destination = _extended(copy.destination, meta.path) if copy.extend else copy.destination
        frame.headers = _overwritten(headers, copy.headers) if copy.headers else headers
        if marks is not msgspec.UNSET:
            # Those of the output are text.
            meta.latin1 = [each for each in marks if each.partition(":")[0] not in copy.headers] or msgspec.UNSET
        made.append(_encode(frame))
    return made


def _webhook(event: Event, bucket: Bucket, input_name: str, truncate: bool, attempt: int) -> _Webhook:
    headers, host = render(event.input_id, event.headers)
    exact: str | None = None
    body: str | msgspec.UnsetType
    if truncate:
        body = msgspec.UNSET
    else:
        try:
            body = event.body.decode()
        except UnicodeDecodeError:
            body = event.body.decode(errors="replace")
            exact = b64encode(event.body).decode("ascii")
    bucket_id = bucket.id
    epoch = event.epoch
    path, query = event.path, event.query
    meta = _Meta(
        f"{epoch}-{event.seq}",
        bucket_id,
        bucket_id,
        bucket.name,
        event.input_id,
        input_name,
        "",
        "",
        event.seq,
        epoch,
        event.received_at,
        decode(path) if path else "",
        host,
        event.remote_ip,
    )
    if event.verified is not None:
        meta.verified = event.verified
    if attempt > 1:
        meta.attempt = attempt
    if not (event.headers.isascii() and query.isascii() and path.isascii()):
        meta.latin1 = _latin1(event) or msgspec.UNSET
    text = decode(query) if query else ""
    return _Webhook("webhook", meta, msgspec.Raw(headers), text, body, event.method, exact, truncate)


def _latin1(event: Event) -> list[str]:
    """The parts that are no UTF-8, so that a frame shows them as Latin-1."""
    parts = [name for name, raw in (("path", event.path), ("query", event.query)) if not is_utf8(raw)]
    return parts if event.headers.isascii() else parts + latin1(event.headers)


def _extended(destination: str, path: str) -> str:
    """A destination with the path that follows the input in the URL appended to its own, before its query."""
    if not path or not destination:
        return destination
    end = min((at for at in map(destination.find, "?#") if at >= 0), default=len(destination))
    return destination[:end].removesuffix("/") + path + destination[end:]


def _overwritten(headers: msgspec.Raw, ours: Mapping[str, tuple[str, ...]]) -> msgspec.Raw:
    """Headers as JSON, with those of an output instead of the sender's."""
    return msgspec.Raw(_encode(_decode_headers(headers) | dict(ours)))


def _status(status: str, **fields: Any) -> bytes:
    return _encode({"type": "status", "status": status, **fields})


AUTHENTICATED: Final = _status("authenticated", message="connected successfully, subscribe to buckets")
PING: Final = _status("ping", message="")


def unauthorized(message: str) -> bytes:
    return _status("unauthorized", message=message)


def subscribed(names: Sequence[str], answers: Sequence[Mapping[str, Any]] | None = None) -> bytes:
    """`names` as they were requested, none: every bucket. `answers`: one a bucket, for who asked for our additions."""
    message = f"subscribed to buckets: {', '.join(names) or 'all'}"
    if answers is None:
        return _status("subscribed", message=message)
    return _status("subscribed", message=message, buckets=answers)


def unsubscribed(names: Sequence[str]) -> bytes:
    return _status("unsubscribed", message=f"unsubscribed from buckets: {', '.join(names) or 'all'}")


def responded(id: str) -> bytes:
    """An answer to this event or copy is kept."""
    return _status("responded", id=id)


def error(code: str, message: str) -> bytes:
    return _status("error", code=code, message=message)


def ping(positions: Mapping[str, str]) -> bytes:
    """The ping of who asked for our additions; `positions` goes from bucket name to the id last written."""
    return _status("ping", message="", positions=positions)


def caught_up(bucket_name: str, position: str) -> bytes:
    return _status("caught_up", bucket_name=bucket_name, id=position)


def gap(bucket_name: str, gap: Gap) -> bytes:
    return _status("gap", bucket_name=bucket_name, gap=gap_fields(gap))


def bucket_deleted(bucket_name: str) -> bytes:
    return _status("bucket_deleted", bucket_name=bucket_name)


def consumer_deleted(bucket_name: str, consumer: str) -> bytes:
    return _status("consumer_deleted", bucket_name=bucket_name, consumer=consumer)


def gap_fields(gap: Gap) -> dict[str, Any]:
    """A gap as the answer to subscribe and the gap frame have it."""
    return {"from": gap.from_seq, "to": gap.to_seq, "count": gap.count, "reason": gap.reason}


class Told(NamedTuple):
    """What a frame is about. `kind`: `webhook`, or a status frame's status; of a webhook frame also the event's (or
    copy's) id and its bucket's."""

    kind: str
    id: str = ""
    bucket_id: str = ""


_HEAD: Final = 512
"""Bytes of a frame in which its kind and its ids stand: they come first."""


def told(payload: bytes) -> Told:
    """What a frame that was made here is about, read off its beginning: a body may be long."""
    words = payload[:_HEAD].split(b'"')
    if words[3] == b"webhook":
        return Told("webhook", words[9].decode(), words[13].decode())
    return Told(words[7].decode())
