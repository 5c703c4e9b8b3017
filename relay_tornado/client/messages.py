"""Messages on the socket: builds documents to send, and reads events and gaps from received ones (docs/protocol.md)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from relay_tornado.client.event import EventData, Gap, Headers

Document: TypeAlias = dict[str, Any]

_ID = re.compile(r"([a-z0-9]{12})-(0|[1-9][0-9]{0,18})(?:-([1-9][0-9]{0,9}))?")


@dataclass(frozen=True, slots=True)
class Position:
    """The position that an id names; `output` is infinite for a position after all copies of the event."""

    epoch: str
    seq: int
    output: float

    @property
    def order(self) -> tuple[int, float]:
        """The sort key of positions in one epoch."""
        return self.seq, self.output

    def __str__(self) -> str:
        """The id of this position."""
        return f"{self.epoch}-{self.seq}" + ("" if self.output == float("inf") else f"-{self.output:.0f}")


def parse_position(id: str) -> Position | None:
    """The position that an event's id names; None if the id does not have the form of this relay's."""
    match = _ID.fullmatch(id)
    if match is None:
        return None
    return Position(match[1], int(match[2]), float("inf") if match[3] is None else float(match[3]))


def encode(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


class Malformed(Exception):
    """A message that can't be read; the text says which part, for people."""


def decode(text: str | bytes) -> Document:
    """The object that a message holds. Raises Malformed."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("a message that is no JSON") from None
    if not isinstance(document, dict):
        raise Malformed("a message that is no JSON object")
    return document


def auth(key: str, secret: str) -> Document:
    return {"action": "auth", "key": key, "secret": secret}


PONG = encode({"action": "pong"})
"""A heartbeat."""


def respond(id: str, status: int, body: bytes, headers: Mapping[str, list[str]]) -> Document:
    document: Document = {"action": "respond", "id": id, "status": status, "headers": dict(headers)}
    if body:
        document["body_base64"] = base64.b64encode(body).decode()
    return document


def put_log(id: str, status: int, body: bytes, headers: Mapping[str, list[str]]) -> Document:
    """The same for `PUT /v1/logs/{id}`, in the form of stock clients."""
    return {
        "id": id,
        "status": "sent" if status else "failed",
        "status_code": status,
        "response_headers": dict(headers) if status else None,
        "response_body": base64.b64encode(body).decode(),
        "retries": 0,
    }


def read_event(document: Document) -> EventData:
    """A webhook frame as an event. Raises Malformed, also if it has no id to tell it from others."""
    meta = document.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("id"), str) or not meta["id"]:
        raise Malformed("an event without an id")
    position = parse_position(meta["id"])
    encoded = document.get("body_base64")
    if isinstance(encoded, str):
        try:
            body = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise Malformed(f"a body that is no base64, of the event {meta['id']}") from None
    else:
        # A lone surrogate is not valid UTF-8; the original service may send one if the sender's body was not.
        body = _text(document, "body").encode("utf-8", "surrogatepass")
    attempt = meta.get("attempt")
    verified = meta.get("verified")
    return EventData(
        id=meta["id"],
        seq=position.seq if position else 0,
        epoch=position.epoch if position else "",
        bucket=_text(meta, "bucket_name"),
        # Some services send only the misspelt name.
        bucket_id=_text(meta, "bucket_id") or _text(meta, "bucked_id"),
        input_id=_text(meta, "input_id"),
        input_name=_text(meta, "input_name"),
        output=_text(meta, "output_name"),
        destination=_text(meta, "output_destination"),
        method=_text(document, "method") or "POST",
        path=_text(meta, "path"),
        query=_text(document, "query"),
        headers=Headers(_lists(document.get("headers"))),
        body=body,
        truncated=document.get("truncated") is True,
        received_at=_number(meta, "received_at"),
        attempt=attempt if isinstance(attempt, int) else 1,
        verified=verified if isinstance(verified, bool) else None,
        host=_text(meta, "host"),
        remote_ip=_text(meta, "remote_ip"),
        meta=meta,
    )


def read_gap(bucket: str, gap: Any) -> Gap:
    """Raises Malformed."""
    if not isinstance(gap, dict) or not all(_is_count(gap.get(name)) for name in ("from", "to", "count")):
        raise Malformed("a gap without its numbers")
    return Gap(bucket, gap.get("from"), gap.get("to"), gap.get("count"), _text(gap, "reason"))


def read_entries(answer: Document) -> list[Document]:
    """The entries of the buckets in the answer to a subscribe. Raises Malformed."""
    entries = answer.get("buckets") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Malformed("an answer to the subscribe that lists no buckets")
    if not all("error" in entry or _begins(entry) for entry in entries):
        raise Malformed("an answer to the subscribe that does not say where it begins")
    return entries


def _begins(entry: Document) -> bool:
    """Whether a bucket's entry has the position at which delivery begins."""
    start = entry.get("start", 1)
    return isinstance(start, int) and parse_position(f"{entry.get('epoch')}-{start - 1}") is not None


def read_positions(ping: Document) -> dict[str, str]:
    """The positions in a ping, by the buckets' names. Raises Malformed."""
    told = ping.get("positions") or {}
    if not isinstance(told, dict):
        raise Malformed("positions without names")
    return {name: read_position(position) for name, position in told.items()}


def read_position(value: Any) -> str:
    """Raises Malformed."""
    if not isinstance(value, str) or parse_position(value) is None:
        raise Malformed("a position that is none")
    return value


def _is_count(value: Any) -> bool:
    return value is None or isinstance(value, int)


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _lists(headers: Any) -> dict[str, list[str]]:
    if not isinstance(headers, dict):
        return {}
    return {
        name: [str(each) for each in value] if isinstance(value, list) else [str(value)]
        for name, value in headers.items()
        if value is not None
    }


def _number(document: Mapping[str, Any], name: str) -> float | None:
    value = document.get(name)
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None
