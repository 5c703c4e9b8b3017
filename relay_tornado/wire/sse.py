"""Server-sent events as bytes, and the ids by which a client of several buckets goes on (WHATWG HTML, section 9.2)."""

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
    """What a client that comes back has had: up to these ids, each about its own bucket. `opened`: when the stream of
    several buckets that gave them began, in unix seconds; None for an id of one bucket alone."""

    cursors: tuple[Cursor, ...]
    opened: int | None = None


def several(ids: Iterable[str], opened: int) -> str:
    """The id of an event in a stream of several buckets: how far it is in each, and when it began, by which a bucket
    that is not among them is known to be new or not."""
    return f"{','.join(ids)}@{opened}"


def reached(text: str) -> Reached:
    """What a Last-Event-ID says. Raises Invalid where it is none of ours."""
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
    return Invalid("this is no id of an event here: send the one that came last, or leave it out", "Last-Event-ID")
