"""Reads what was taken of a consumer with explicit acks, and says why what the log does not give any more is not there.

What was never tried is a gap then, which the consumer meets once, however many reads it takes to get over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay_tornado.errors import CursorLost
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledger
from relay_tornado.model import Event, Gap, GapReason
from relay_tornado.progress import RETENTION, Taken

DAMAGED: Final = "damaged"
"""Why an event is dead that the log can't read."""
EPHEMERAL: Final = "ephemeral"
"""Why an event is dead whose content was in memory only, and has left it since it was tried."""


async def fetch(log: EventLog, ledger: Ledger, taken: Sequence[Taken], size: int, now: float) -> list[Event | str]:
    """The events of the first of these, as many as fit in the size but at least one; in the place of one that is not
    there why, as its dead letter says it. `now` is unix seconds. Raises BucketGone, Unavailable.

    Where there is such a one, the consumer may have met a gap: whoever delivers looks at it.
    """
    bucket_id = ledger.key.bucket_id
    found: list[Event | str] = []
    while len(found) < len(taken) and size > 0:
        run = _run(taken[len(found) :])
        first = run[0].seq
        try:
            events = log.peek(bucket_id, first - 1, len(run), size)
            if events is None:
                events = await log.read(bucket_id, first - 1, len(run), size)
        except CursorLost as lost:
            bounds = await log.bounds(bucket_id)
            if run[0].generation != ledger.progress.generation:
                break
            gone = [one for one in run if one.seq < max(bounds.first, lost.first)] or run[:1]
            # What retention removed lies below the log's first event; within the log it is damage, or was never stored.
            if bounds.first > first:
                ledger.trim(bounds.first)
                found += [RETENTION] * len(gone)
            elif lost.reason == "ephemeral":
                _meet(ledger, gone, lost, "ephemeral", now)
                found += [EPHEMERAL] * len(gone)
            else:
                _meet(ledger, gone, lost, "reset", now)
                found += [DAMAGED] * len(gone)
        else:
            if not events:
                break
            found += events
            size -= sum(event.size for event in events)
    return found


def _run(taken: Sequence[Taken]) -> Sequence[Taken]:
    """As many of the first of these as follow one another."""
    count = 1
    while count < len(taken) and taken[count].seq == taken[0].seq + count:
        count += 1
    return taken[:count]


def _meet(ledger: Ledger, gone: Sequence[Taken], lost: CursorLost, reason: GapReason, now: float) -> None:
    """The consumer meets a gap where one of these was never tried, unless that is in the one that it met last."""
    fresh = next((one.seq for one in gone if one.seq not in ledger.progress.parked), None)
    last = ledger.gap or Gap(reason)
    if fresh is None or (last.reason == reason and fresh in range(last.from_seq or 0, (last.to_seq or -1) + 1)):
        return
    ledger.met(Gap(reason, fresh, max(lost.first - 1, fresh)), now)
