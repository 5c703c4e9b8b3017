"""Events for polling clients: a stable page after a cursor, or a queue that drains.

The queue's state is a consumer with only a floor, for a bucket and an output or none. The writer moves the floor in the
transaction that marks the events given out, before the answer. So two pollers never share an event, and an answer that
is lost on its way is not repeated. Everything up to the floor is done for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from relay_tornado.admin.lookup import output_of
from relay_tornado.admin.stored import MOST_SCANNED, Found, Judging, Stored, cursor_of, document_of, page_size
from relay_tornado.copies import Goes
from relay_tornado.errors import CursorLost, Invalid
from relay_tornado.log.lineage import Placed, gap_behind, gap_within, place_cursor, position_id
from relay_tornado.log.results import DONE, Latest, sent
from relay_tornado.low_memory import Lock
from relay_tornado.model import MIB, Bucket, BucketId, Event, Gap, Output, Token
from relay_tornado.wire.fields import Document
from relay_tornado.wire.frames import gap_fields

LIMIT: Final = 1
MOST: Final = 100
PAGE_BYTES: Final = 8 * MIB
"""Maximum size of an answer in bytes; a single event may be larger."""

_READ: Final = 256
_ATTEMPTS: Final = 10


class Polling:
    """Builds the answers to polling clients."""

    def __init__(self, stored: Stored, clock: Callable[[], float]) -> None:
        """`clock` returns unix seconds."""
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
        """Events after an id, in order; "" is the earliest. Nothing is marked, so a page may be repeated.

        `limit`: 0 means 1, at most 100, and 8 MiB. With `output`, only events that go there now. Events older than
        `max_age` seconds are skipped; 0 means None. `gap` names events that the cursor should have met but that no
        longer exist; a page reports one gap, and ends before another.
        """
        found = self._stored.bucket(token, bucket)
        chosen = output_of(found, output) if output else None
        placed = await self._place(found, chosen, cursor)
        limit = page_size(limit, LIMIT, MOST)
        window = _Window(self._stored, found, chosen, placed.after, limit, self._oldest(max_age))
        gap = await window.read_to_gap(placed.gap)
        newest = await self._stored.results.latest(found.id, [event.seq for event in window.taken], window.copy)
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

        The queue begins with the earliest event. Events that are sent or failed already, do not go there, or are older
        than `max_age` seconds are skipped for good. Raises Invalid for an ephemeral bucket.
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
        limit = page_size(limit, LIMIT, MOST)
        async with self._locks.setdefault((found.id, number), Lock()):
            for _ in range(_ATTEMPTS):
                page = await self._claim(found, chosen, number, limit, self._oldest(max_age))
                if page is not None:
                    return page
        raise Invalid("the position of this queue is being changed from elsewhere all the time: try again")

    async def end(self, bucket_id: BucketId, output: int) -> None:
        """Forgets the queue of an output that is gone, by its number."""
        async with self._locks.setdefault((bucket_id, output), Lock()):
            await self._stored.results.end_queue(bucket_id, output)

    async def _claim(
        self, bucket: Bucket, output: Output | None, number: int, limit: int, oldest: float | None
    ) -> Document | None:
        """The next events, marked as sent; None if another change of the queue came first."""
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
        # The client has not had this output's copy of the event that the cursor names.
        return Placed(placed.after - (placed.gap is None), gap_within(parsed, placed.gap))

    def _document(self, window: _Window, event: Event, latest: Latest | None) -> Document:
        return document_of(window.bucket, Found(event, False, window.bucket.ephemeral), window.copy, latest)

    def _oldest(self, max_age: float | None) -> float | None:
        return self._clock() - max_age if max_age else None


class _Window:
    """Events after a position, as many as fit into an answer; `after` is the position behind the last event
    examined."""

    def __init__(
        self, stored: Stored, bucket: Bucket, output: Output | None, after: int, limit: int, oldest: float | None
    ) -> None:
        self._stored = stored
        self._goes = Goes(bucket, output)
        self._limit = limit
        self._oldest = oldest
        self.bucket = bucket
        self.copy = None if output is None else output.n
        self.after = after
        self.taken: list[Event] = []
        self._gap: Gap | None = None
        self._tells = False

    async def read_to_gap(self, gap: Gap | None) -> Gap | None:
        """Fills the window after a gap that was met already, and returns the gap to report; it ends before another one.
        Raises BucketGone."""
        self._gap, self._tells = gap, True
        await self.read(frozenset())
        return self._gap

    async def read(self, done: frozenset[str]) -> None:
        """Fills the window; skips copies whose newest status is one of `done`, and missing events. Raises
        BucketGone."""
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
            first, last = events[0].seq, events[-1].seq
            statuses = await self._stored.results.statuses(self.bucket.id, first, last, self.copy) if done else {}
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
        """Whether a gap is the first one, or continues the previous one."""
        joined = gap if self._gap is None else self._gap.joined(gap)
        self._gap = joined or self._gap
        return joined is not None

    def _wants(self, event: Event) -> bool:
        return (self._oldest is None or event.received_at >= self._oldest) and self._goes.there(event)
