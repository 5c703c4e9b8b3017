"""Reads the events that were taken from a consumer with explicit acks, and finds out why some are missing."""

from __future__ import annotations

from collections.abc import Sequence

from relay_tornado.consumer_changes import RETENTION
from relay_tornado.consumer_progress import Taken
from relay_tornado.errors import CursorLost
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledger
from relay_tornado.model import Event


async def fetch(log: EventLog, ledger: Ledger, taken: Sequence[Taken], size: int) -> list[Event | str]:
    """The first of the taken events, as many as fit in the size but at least one; for a missing event, the reason for
    its dead letter. Raises BucketGone and Unavailable.

    If one is missing, the consumer may have met a gap, which the caller has to look at.
    """
    bucket_id = ledger.key.bucket_id
    found: list[Event | str] = []
    while len(found) < len(taken) and size > 0:
        run = _run(taken[len(found) :])
        first = run[0].seq
        try:
            events = await log.read(bucket_id, first - 1, len(run), size)
        except CursorLost as lost:
            bounds = await log.bounds(bucket_id)
            if not ledger.live or run[0].generation != ledger.progress.generation:
                break
            gone = [one for one in run if one.seq < max(bounds.first, lost.first)] or run[:1]
            # Retention removes only events below the log's first one; within the log an event is damaged or ephemeral.
            if bounds.first > first:
                ledger.trim(bounds.first)
                found += [RETENTION] * len(gone)
            else:
                found += [ledger.miss(one.seq, lost) for one in gone]
        else:
            if not events:
                break
            found += events
            size -= sum(event.size for event in events)
    return found


def _run(taken: Sequence[Taken]) -> Sequence[Taken]:
    """The first of these whose seqs are consecutive."""
    count = 1
    while count < len(taken) and taken[count].seq == taken[0].seq + count:
        count += 1
    return taken[:count]
