"""The frames that the relay sends over a WebSocket, as JSON bytes: status frames and webhook frames.

The stock forms are those of "Server to client" in docs/protocol.md; msgspec writes them without white space.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from relay_tornado.model import Bucket, BucketId, Event, Gap, Output
from relay_tornado.wire.destination import climbs
from relay_tornado.wire.headers import canonical, decode, is_shown, is_utf8, latin1
from relay_tornado.wire.shapes import render

_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, Any]).decode


_HEAD: Final = (
    b'{"type":"webhook","meta":{"id":"%(epoch)b-%%d%%b",%(place)b,"output_name":%%b,"output_destination":%%b,"seq":%%d,'
    b'"epoch":"%(epoch)b","received_at":%%b,"path":%%b,"host":%%b,"remote_ip":%%b%%b},"headers":%%b,"query":%%b,'
)
_FRAME: Final = _HEAD + b'"body":%%b,"method":%%b%%b}'
_TRUNCATED: Final = _HEAD + b'%%b"method":%%b%%b,"truncated":true}'
"""The frame of one event, with and without its body. The values are inserted as JSON, first those that are the same for
many events: an encoder takes twice as long for a record of so many fields."""

_EMPTY: Final = b'""'


class Copy(NamedTuple):
    """The output that a copy of an event goes to, as its frame shows it. `headers` replace the sender's, by canonical
    name; with `extend`, the path behind the input's URL is appended to the destination."""

    n: int
    name: str
    destination: str
    headers: Mapping[str, tuple[str, ...]]
    extend: bool


def copy_to(output: Output) -> Copy:
    """An output as frames show it. Headers that frames never show are left out."""
    headers = {canonical(name): tuple(values) for name, values in output.headers.items()}
    shown = {name: values for name, values in headers.items() if is_shown(name)}
    return Copy(output.n, output.name, output.destination, shown, not output.lock_path)


def webhook(event: Event, bucket: Bucket, input_name: str, *, truncate: bool = False, attempt: int = 1) -> bytes:
    """The frame of an event that goes to no output. With `truncate` the body is left out, and the frame says so; from
    the second `attempt` on, the frame gives its number.

    A body that is not UTF-8 is in `body` with replacement characters, and exactly in `body_base64`.
    """
    headers, host = render(event.input_id, event.headers)
    path, query = event.path, event.query
    latin1 = () if event.headers.isascii() and query.isascii() and path.isascii() else _latin1(event)
    more = _more(event, latin1, attempt) if latin1 or attempt > 1 or event.verified is not None else b""
    body = None if truncate else _body(event.body)
    return _frame(event, bucket, input_name, b"", _EMPTY, _EMPTY, headers, host, more, body)


def webhooks(
    event: Event, bucket: Bucket, input_name: str, copies: Sequence[Copy], truncate: bool, attempt: int = 1
) -> list[bytes]:
    """The frames of an event's copies, in the order of `copies`; otherwise as `webhook`."""
    headers, host = render(event.input_id, event.headers)
    path, latin1 = decode(event.path), _latin1(event)
    if climbs(event.path):
        # Clients call the URL that a frame gives, and many servers resolve a path that climbs.
        path = ""
    body = None if truncate else _body(event.body)
    made = []
    for copy in copies:
        destination = _extended(copy.destination, path) if copy.extend else copy.destination
        shown = _overwritten(headers, copy.headers) if copy.headers else headers
        # The output's headers are text, so those that they replace are never Latin-1.
        more = _more(event, [each for each in latin1 if each.partition(":")[0] not in copy.headers], attempt)
        ends = b"-%d" % copy.n, _encode(copy.name), _encode(destination)
        made.append(_frame(event, bucket, input_name, *ends, shown, host, more, body))
    return made


def _frame(
    event: Event,
    bucket: Bucket,
    input_name: str,
    copy: bytes,
    output_name: bytes,
    destination: bytes,
    headers: bytes,
    host: bytes,
    more: bytes,
    body: tuple[bytes, bytes] | None,
) -> bytes:
    """The frame of an event or of its copy. `copy` is the suffix of a copy's id; the values after it are JSON. Without
    a `body` the frame says that it is truncated."""
    whole, truncated = _forms(event.epoch, bucket.id, bucket.name, event.input_id, input_name)
    seq, path, query = event.seq, event.path, event.query
    text, exact = body or (b"", b"")
    return (truncated if body is None else whole) % (
        seq, copy, output_name, destination, seq, _encode(event.received_at),
        _encode(decode(path)) if path else _EMPTY, host, _encode(event.remote_ip), more, headers,
        _encode(decode(query)) if query else _EMPTY, text, _encode(event.method), exact,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _forms(epoch: str, bucket_id: str, bucket_name: str, input_id: str, input_name: str) -> tuple[bytes, bytes]:
    """The templates for the frames of an input's events in one epoch, with a body and without."""
    names = {
        "bucked_id": bucket_id,
        "bucket_id": bucket_id,
        "bucket_name": bucket_name,
        "input_id": input_id,
        "input_name": input_name,
    }
    same = {b"epoch": _encode(epoch)[1:-1], b"place": _encode(names)[1:-1]}
    same = {name: value.replace(b"%", b"%%") for name, value in same.items()}
    return _FRAME % same, _TRUNCATED % same


def _body(body: bytes) -> tuple[bytes, bytes]:
    """A body as a JSON string, and the field with the exact bytes if it is not UTF-8."""
    try:
        return _encode(body.decode()), b""
    except UnicodeDecodeError:
        return _encode(body.decode(errors="replace")), b',"body_base64":"%b"' % b64encode(body)


def _more(event: Event, latin1: Sequence[str], attempt: int) -> bytes:
    """The fields of meta that few frames have."""
    fields: dict[str, Any] = {}
    if event.verified is not None:
        fields["verified"] = event.verified
    if attempt > 1:
        fields["attempt"] = attempt
    if latin1:
        fields["latin1"] = latin1
    return b"," + _encode(fields)[1:-1] if fields else b""


def _latin1(event: Event) -> list[str]:
    """The parts that are not UTF-8, so that a frame shows them as Latin-1."""
    parts = [name for name, raw in (("path", event.path), ("query", event.query)) if not is_utf8(raw)]
    return parts if event.headers.isascii() else parts + latin1(event.headers)


def _extended(destination: str, path: str) -> str:
    """A destination with the path behind the input's URL appended to its own, before its query."""
    if not path or not destination:
        return destination
    end = min((at for at in map(destination.find, "?#") if at >= 0), default=len(destination))
    return destination[:end].removesuffix("/") + path + destination[end:]


def _overwritten(headers: bytes, ours: Mapping[str, tuple[str, ...]]) -> bytes:
    """Headers as JSON, with an output's headers in place of the sender's."""
    return _encode(_decode_headers(headers) | dict(ours))


def _status(status: str, **fields: Any) -> bytes:
    return _encode({"type": "status", "status": status, **fields})


AUTHENTICATED: Final = _status("authenticated", message="connected successfully, subscribe to buckets")
PING: Final = _status("ping", message="")


def unauthorized(message: str) -> bytes:
    return _status("unauthorized", message=message)


def subscribed(names: Sequence[str], answers: Sequence[Mapping[str, Any]] | None = None) -> bytes:
    """`names` as requested; none means every bucket. `answers`: one per bucket, for a client that uses the
    extensions."""
    message = f"subscribed to buckets: {', '.join(names) or 'all'}"
    if answers is None:
        return _status("subscribed", message=message)
    return _status("subscribed", message=message, buckets=answers)


def unsubscribed(names: Sequence[str]) -> bytes:
    return _status("unsubscribed", message=f"unsubscribed from buckets: {', '.join(names) or 'all'}")


def responded(id: str) -> bytes:
    """Confirms that an answer to this event or copy was stored."""
    return _status("responded", id=id)


def error(code: str, message: str) -> bytes:
    return _status("error", code=code, message=message)


def ping(positions: Mapping[str, str]) -> bytes:
    """The ping for a client that uses the extensions; `positions` maps bucket names to the last id written."""
    return _status("ping", message="", positions=positions)


def caught_up(bucket_name: str, position: str) -> bytes:
    return _status("caught_up", bucket_name=bucket_name, id=position)


def gap(bucket_name: str, gap: Gap) -> bytes:
    return _status("gap", bucket_name=bucket_name, gap=gap_fields(gap))


def bucket_deleted(bucket_name: str, bucket_id: BucketId) -> bytes:
    return _status("bucket_deleted", bucket_name=bucket_name, bucket_id=bucket_id)


def consumer_deleted(bucket_name: str, consumer: str) -> bytes:
    return _status("consumer_deleted", bucket_name=bucket_name, consumer=consumer)


def gap_fields(gap: Gap) -> dict[str, Any]:
    """A gap's fields in the answer to subscribe and in the gap frame."""
    return {"from": gap.from_seq, "to": gap.to_seq, "count": gap.count, "reason": gap.reason}


class Told(NamedTuple):
    """What a frame is about. `kind` is `webhook` or a status frame's status; a webhook frame also has the id of the
    event or copy, and of its bucket."""

    kind: str
    id: str = ""
    bucket_id: str = ""


_BEGINNING: Final = 512
"""The kind and the ids are within this many bytes of a frame's beginning."""


def told(payload: bytes) -> Told:
    """What a frame made by this module is about, read from its beginning only, since a body may be long."""
    words = payload[:_BEGINNING].split(b'"')
    if words[3] == b"webhook":
        return Told("webhook", words[9].decode(), words[13].decode())
    return Told(words[7].decode())
