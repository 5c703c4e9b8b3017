"""Reads the log for one subscriber, a page at a time, and writes what it gets of that, as its socket takes it."""

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
    """A delivery, as its reader sees it."""

    @property
    def over(self) -> bool:
        """Nothing more is written."""

    def write(self, data: Sequence[Frames]) -> Awaitable[None]:
        """Begins to write frames; awaiting it is the backpressure. Raises OutletClosed."""


class Reader:
    """Its methods raise BucketGone, and CursorLost where the next event is not there any more."""

    __slots__ = ("_selection", "_shared", "_writer")

    def __init__(self, shared: Shared, selection: Selection, writer: Writer) -> None:
        self._shared = shared
        self._selection = selection
        self._writer = writer

    async def page(self, place: Place, pace: Pace) -> bool:
        """Reads and writes one page of one bucket. False where there is none: the place is at the head."""
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
        """Whether what was read for the place may still be written."""
        return place.open and place.lost is None and not self._writer.over

    def _behind(self, place: Place) -> int:
        """How many events a place is behind the head."""
        return self._shared.dispatcher.head(place.bucket_id) - place.seq

    def _peek(self, place: Place, chunk: int) -> Sequence[Event] | None:
        """A page, None where it has to be read."""
        shared = self._shared
        events = shared.log.peek(place.bucket_id, place.seq, PAGE, chunk)
        if events is None:
            shared.pacing.charge(READ_SECONDS)
        return events

    async def _part(self, place: Place, events: Sequence[Event], at: int) -> int:
        """Writes or passes over as many of the events from `at` on as one write may have, and returns the index
        behind them."""
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
        """Begins to write, and returns the index behind the last of these events that this is about, and the write."""
        shared = self._shared
        if not self._goes_on(place):
            return at, None
        # What others read at the same time is kept for them. One reader of old events alone would only drive out new.
        keep = len(shared.tasks) > 1 or place.seq + PAGE > shared.dispatcher.head(place.bucket_id)
        # Others have begun to write since these were read.
        data, taken, at = self._selection.run(place, events, at, shared.budget.chunk(), keep=keep)
        shared.counters.deliveries += taken
        shared.counters.delivered_bytes += len(data)
        place.given, place.given_epoch = events[at - 1].seq, events[at - 1].epoch
        return at, self._writer.write((data,)) if data else None
