"""Reads the log for one subscriber, a page at a time, and writes its part of that as fast as its socket takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Protocol

from relay_tornado.delivery.bounds import Pace
from relay_tornado.delivery.dispatch import PAGE, Place
from relay_tornado.delivery.outlet import Frames
from relay_tornado.delivery.replay_pacing import READ_SECONDS
from relay_tornado.delivery.selection import Selection
from relay_tornado.delivery.shared import Shared
from relay_tornado.model import Event


class Writer(Protocol):
    """A delivery, as seen by what writes for it."""

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""

    def write(self, data: Sequence[Frames]) -> Awaitable[None]:
        """Begins to write frames; awaiting the result is the backpressure. Raises OutletClosed."""


class Reader:
    """Reads and writes pages. Its methods raise BucketGone, and CursorLost if the next event is no longer there."""

    __slots__ = ("_selection", "_shared", "_writer")

    def __init__(self, shared: Shared, selection: Selection, writer: Writer) -> None:
        self._shared = shared
        self._selection = selection
        self._writer = writer

    async def page(self, place: Place, pace: Pace) -> bool:
        """Reads and writes one page of one bucket. Returns False if the place is at the head."""
        shared = self._shared
        if place.seq == shared.dispatcher.head(place.bucket_id):
            return False
        chunk = shared.budget.chunk()
        events = await shared.pacing.run(lambda: self._peek(place, chunk), self._behind(place))
        if events is None:
            events = await shared.log.read(place.bucket_id, place.seq, PAGE, chunk)
        at = 0
        while at < len(events) and self._goes_on(place):
            at = await self._part(place, events, at)
            await pace.keep()
        return True

    def _goes_on(self, place: Place) -> bool:
        """Whether events that were read for the place may still be written."""
        return place.open and place.lost is None and not self._writer.over

    def _behind(self, place: Place) -> int:
        """How many events a place is behind the head."""
        return self._shared.dispatcher.head(place.bucket_id) - place.seq

    def _peek(self, place: Place, chunk: int) -> Sequence[Event] | None:
        """A page from memory; None if it has to be read from the file."""
        shared = self._shared
        events = shared.log.peek(place.bucket_id, place.seq, PAGE, chunk)
        if events is None:
            shared.pacing.charge(READ_SECONDS)
        return events

    async def _part(self, place: Place, events: Sequence[Event], at: int) -> int:
        """Writes or passes over the events from index `at` that fit in one write, and returns the index after them."""
        section = partial(self._begin, place, events, at)
        at, written = await self._shared.pacing.run(section, self._behind(place))
        if written is not None:
            await written
        if at:
            place.seq = events[at - 1].seq
            place.epoch = events[at - 1].epoch
            place.output = 0
        return at

    def _begin(self, place: Place, events: Sequence[Event], at: int) -> tuple[int, Awaitable[None] | None]:
        """Begins to write. Returns the index after the last event that this is about, and the write."""
        shared = self._shared
        if not self._goes_on(place) or self._selection.rest():
            return at, None
        # Frames that others are reading at the same time are kept. A single reader of old events would only evict new
        # ones.
        keep = len(shared.tasks) > 1 or place.seq + PAGE > shared.dispatcher.head(place.bucket_id)
        # The chunk is asked for anew: others have begun to write since these events were read.
        data, taken, at = self._selection.run(place, events, at, shared.budget.chunk(), keep=keep)
        shared.counters.deliveries += taken
        shared.counters.delivered_bytes += len(data)
        place.given, place.given_epoch = events[at - 1].seq, events[at - 1].epoch
        return at, self._writer.write((data,)) if data else None
