"""Events for clients that poll: a stable page behind a cursor, or the queue that drains.

The queue's state is a consumer with only a floor, for a bucket and an output or none. The floor is moved by the writer,
in the transaction that marks what is given out, before the answer: two pollers never share an event, and an answer that
is lost on its way is not given again. Everything up to the floor is done with for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from relay_tornado.admin.parts import output_of
from relay_tornado.admin.stored import MOST_SCANNED, Found, Judging, Stored, cursor_of, document_of
from relay_tornado.copies import Goes
from relay_tornado.errors import CursorLost, Invalid
from relay_tornado.log.lineage import Placed, gap_behind, gap_within, place_cursor, position_id
from relay_tornado.log.results import DONE, Latest, sent
from relay_tornado.low_memory import Lock
from relay_tornado.model import MIB, Bucket, Event, Gap, Output, Token
from relay_tornado.wire.fields import Document
from relay_tornado.wire.frames import gap_fields

LIMIT: Final = 1
MOST: Final = 100
PAGE_BYTES: Final = 8 * MIB
"""Bytes of an answer; one event may have more."""

_READ: Final = 256
_ATTEMPTS: Final = 10


class Polling:
    """Makes the answers."""

    def __init__(self, stored: Stored, clock: Callable[[], float]) -> None:
        """`clock` gives unix seconds."""
        self._stored = stored
        self._clock = clock
        self._locks: WeakValueDictionary[tuple[str, int], Lock] = WeakValueDictionary()

    async def page(
        self,
        token: Token,
        bucket: str,
        *,
        output: str = "",
        limit: int = 0,
        max_age: float | None = None,
        cursor: str = "",
    ) -> Document:
        """Events behind an id, in order, as often as one likes; "" is the earliest. Nothing is marked.

        `limit`: 0 is 1, at most 100, and 8 MiB. With `output` only what goes there now. Those older than `max_age`
        seconds are passed over; 0 is as None. `gap`, where there is one, are events that the cursor should have met and
        that are not there any more; a page tells of one, and ends before another.
        """
        found = self._stored.bucket(token, bucket)
        chosen = output_of(found, output) if output else None
        placed = await self._place(found, chosen, cursor)
        window = _Window(self._stored, found, chosen, placed.after, _limit(limit), self._oldest(max_age))
        gap = await window.read_to_gap(placed.gap)
        newest = await self._latest(window)
        bounds = await self._stored.log.bounds(found.id)
        page: Document = {
            "logs": [self._document(window, event, newest.get(event.seq)) for event in window.taken],
            "has_more": window.after < bounds.head,
            "next_cursor": position_id(bounds, window.after),
        }
        return page if gap is None else {**page, "gap": gap_fields(gap)}

    async def drain(
        self, token: Token, bucket: str, *, output: str = "", limit: int = 0, max_age: float | None = None
    ) -> Document:
        """The next events of a bucket's queue, or of an output's: marked as `sent`, and never given out again.

        It begins with the earliest event. What is sent or failed already, does not go there, or is older than `max_age`
        seconds is passed over for good. Raises Invalid for an ephemeral bucket.
        """
        found = self._stored.bucket(token, bucket)
        if found.ephemeral:
            raise Invalid(
                f"{found.name!r} is ephemeral, and keeps nothing that could be fetched: subscribe to it over "
                "the socket",
                "bucket",
            )
        chosen = output_of(found, output) if output else None
        number = 0 if chosen is None else chosen.n
        if chosen is not None and chosen.disabled:
            return {"logs": [], "has_more": False}
        lock = self._locks.setdefault((found.id, number), Lock())
        async with lock:
            for _ in range(_ATTEMPTS):
                page = await self._claim(found, chosen, number, _limit(limit), self._oldest(max_age))
                if page is not None:
                    return page
        raise Invalid("the position of this queue is being changed from elsewhere all the time: try again")

    async def _claim(
        self, bucket: Bucket, output: Output | None, number: int, limit: int, oldest: float | None
    ) -> Document | None:
        """What is next, marked as sent; None where somebody else was faster."""
        floor = await self._stored.results.floor(bucket.id, number)
        first = (await self._stored.log.bounds(bucket.id)).first
        window = _Window(self._stored, bucket, output, max(floor, first - 1), limit, oldest)
        await window.read(DONE)
        claimed: set[int] = set()
        now = self._clock()
        if window.after > floor:
            seqs = [event.seq for event in window.taken]
            given = await self._stored.results.claim(bucket.id, number, floor, seqs, window.after, now)
            if given is None:
                return None
            claimed.update(given)
        head = (await self._stored.log.bounds(bucket.id)).head
        latest = Latest(number, sent(now))
        logs = [self._document(window, event, latest) for event in window.taken if event.seq in claimed]
        return {"logs": logs, "has_more": window.after < head}

    async def _place(self, bucket: Bucket, output: Output | None, cursor: str) -> Placed:
        bounds = await self._stored.log.bounds(bucket.id)
        if not cursor:
            return Placed(bounds.head if bucket.ephemeral else bounds.first - 1)
        parsed = cursor_of(cursor)
        placed = place_cursor(bounds, parsed, bucket.ephemeral)
        if not parsed.seq or parsed.output is None or output is None or output.n <= parsed.output:
            return placed
        # Of the event that the cursor names, this copy was not had.
        return Placed(placed.after - (placed.gap is None), gap_within(parsed, placed.gap))

    async def _latest(self, window: _Window) -> dict[int, Latest]:
        copy = None if window.output is None else window.output.n
        seqs = [event.seq for event in window.taken]
        return dict(await self._stored.results.latest(window.bucket.id, seqs, copy))

    def _document(self, window: _Window, event: Event, latest: Latest | None) -> Document:
        copy = None if window.output is None else window.output.n
        return document_of(window.bucket, Found(event, False, window.bucket.ephemeral), copy, latest)

    def _oldest(self, max_age: float | None) -> float | None:
        return self._clock() - max_age if max_age else None


class _Window:
    """Events from a position on, as many as an answer may have; `after` is the position behind what was looked at."""

    def __init__(
        self, stored: Stored, bucket: Bucket, output: Output | None, after: int, limit: int, oldest: float | None
    ) -> None:
        self._stored = stored
        self._goes = Goes(bucket, output)
        self._limit = limit
        self._oldest = oldest
        self.bucket = bucket
        self.output = output
        self.after = after
        self.taken: list[Event] = []
        self._gap: Gap | None = None
        self._tells = False

    async def read_to_gap(self, gap: Gap | None) -> Gap | None:
        """Fills the window behind a gap that was met already, and returns the one to tell: it ends before another one.
        Raises BucketGone."""
        self._gap, self._tells = gap, True
        await self.read(frozenset())
        return self._gap

    async def read(self, done: frozenset[str]) -> None:
        """Fills the window; copies whose newest status is one of `done` are passed over, and so is what is not there.
        Raises BucketGone."""
        copy = None if self.output is None else self.output.n
        room, left = PAGE_BYTES, MOST_SCANNED
        judging = Judging()
        while left > 0:
            try:
                events = await self._stored.log.read(self.bucket.id, self.after, min(_READ, left), MIB)
            except CursorLost as lost:
                left -= 1
                if self._tells:
                    bounds = await self._stored.log.bounds(self.bucket.id)
                    gap = gap_behind(bounds, self.after, lost)
                    if gap is not None and not self._joins(gap):
                        return
                self.after = lost.first - 1
                continue
            if not events:
                return
            left -= len(events)
            statuses = (
                await self._stored.results.statuses(self.bucket.id, events[0].seq, events[-1].seq, copy) if done else {}
            )
            for event in events:
                if await judging.fits(event, self._wants) and statuses.get(event.seq) not in done:
                    room -= event.size
                    if self.taken and room < 0:
                        return
                    self.taken.append(event)
                self.after = event.seq
                if len(self.taken) == self._limit:
                    return

    def _joins(self, gap: Gap) -> bool:
        """Whether a gap is the first one, or goes on with the one before."""
        joined = gap if self._gap is None else self._gap.joined(gap)
        self._gap = joined or self._gap
        return joined is not None

    def _wants(self, event: Event) -> bool:
        return (self._oldest is None or event.received_at >= self._oldest) and self._goes.there(event)


def _limit(limit: int) -> int:
    return min(limit, MOST) if limit > 0 else LIMIT
