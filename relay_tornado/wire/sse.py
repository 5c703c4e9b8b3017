"""Server-sent events as bytes, and the ids by which a client of several buckets resumes (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relay_tornado.errors import Invalid
from relay_tornado.ids import parse_id
from relay_tornado.model import Cursor


def event(kind: str, data: bytes, id: str | None = None, retry: int | None = None) -> bytes:
    """One event. `data` has no line break (JSON as the relay writes it has none); `retry` is in milliseconds."""
    head = f"event: {kind}\n"
    if id is not None:
        head += f"id: {id}\n"
    if retry is not None:
        head += f"retry: {retry}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


class Reached(NamedTuple):
    """The position of a client that reconnects: it has everything up to these ids, each in its own bucket. `opened` is
    when the stream of several buckets began, in unix seconds; None for the id of a single bucket."""

    cursors: tuple[Cursor, ...]
    opened: int | None = None


def several(ids: Iterable[str], opened: int) -> str:
    """The id of an event in a stream of several buckets: the position in each, and when the stream began, which tells
    whether a bucket that is not listed is new."""
    return f"{','.join(ids)}@{opened}"


def reached(text: str) -> Reached:
    """Reads a Last-Event-ID. Raises Invalid if it was not made here."""
    listed, at, opened = text.strip().partition("@")
    if at and not (opened.isascii() and opened.isdigit() and len(opened) < 16):
        raise _foreign()
    if not at and "," in listed:
        raise _foreign()
    try:
        cursors = tuple(parse_id(each) for each in listed.split(",") if each)
    except Invalid:
        raise _foreign() from None
    if not cursors and not at:
        raise _foreign()
    return Reached(cursors, int(opened) if at else None)


def _foreign() -> Invalid:
    return Invalid(
        "this is no event id of this stream: send the last one that was received, or leave it out", "Last-Event-ID"
    )
