"""Reads stretches of a log for the index: the texts of a bounded number of events, without those of ephemeral ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay_tornado.errors import CursorLost
from relay_tornado.log.contract import EventLog, Outline
from relay_tornado.model import MIB, BucketId
from relay_tornado.search.file import Row, Stretch
from relay_tornado.search.text import Turns, text_of

EVENTS: Final = 256
BYTES: Final = 2 * MIB
"""The most bytes of events in memory at once; a single event may have more."""


async def above(log: EventLog, bucket_id: BucketId, after: int, head: int) -> Stretch:
    """The first events after `after`, up to `head`. Raises BucketGone and Unavailable."""
    last = min(after + EVENTS, head)
    outlines = await log.outline(bucket_id, after + 1, last)
    surplus = _surplus(outlines)
    return await _read(log, bucket_id, after + 1, last if surplus is None else surplus - 1, outlines)


async def below(log: EventLog, bucket_id: BucketId, before: int, first: int) -> Stretch:
    """The last events before `before`, down to `first`. Raises BucketGone and Unavailable."""
    start = max(before - EVENTS, first)
    outlines = await log.outline(bucket_id, start, before - 1)
    surplus = _surplus(outlines[::-1])
    return await _read(log, bucket_id, start if surplus is None else surplus + 1, before - 1, outlines)


def _surplus(outlines: Sequence[Outline]) -> int | None:
    """The seq of the first event, after the very first, with which these have more than `BYTES`; None if all fit."""
    size = 0
    for number, outline in enumerate(outlines):
        size += outline.size
        if size > BYTES and number:
            return outline.seq
    return None


async def _read(log: EventLog, bucket_id: BucketId, first: int, last: int, outlines: Sequence[Outline]) -> Stretch:
    rows: list[Row] = []
    turns = Turns()
    stubs = {each.seq for each in outlines if each.stub}
    after = first - 1
    while after < last:
        try:
            events = await log.read(bucket_id, after, last - after, BYTES)
        except CursorLost as lost:
            after = lost.first - 1
            continue
        if not events:
            break
        # The content of ephemeral events is kept in memory only.
        rows += [Row(event.seq, await text_of(event, turns)) for event in events if event.seq not in stubs]
        after = events[-1].seq
    newest = max((each.received_at for each in outlines if first <= each.seq <= last), default=0.0)
    return Stretch(first, last, rows, newest)
