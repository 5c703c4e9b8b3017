"""A subscriber's frames of events: those that pass its filter, in the form that it requested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from relay_tornado.delivery.bounds import SLICE
from relay_tornado.delivery.dispatch import Place
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.model import Event
from relay_tornado.rules import Rules
from relay_tornado.wire import control


class Copies(NamedTuple):
    """A subscriber's part of an event: the joined frames, and the numbers of the outputs that the copies are for (none
    for the event itself)."""

    frames: bytes
    numbers: Sequence[int]


class Run(NamedTuple):
    """A series of events: the joined frames, how many events have frames, and the index after the last event."""

    frames: bytearray
    events: int
    end: int


class Selection:
    """What one subscriber gets. `apart`: not the same as the others. Its methods raise BucketGone."""

    __slots__ = ("_cache", "_itself", "_max_body", "_quick", "_rules", "_time", "_token", "apart")

    def __init__(
        self, cache: FrameCache, request: control.Subscribe, filter: Rules | None, token: str, time: FilterTime
    ) -> None:
        """`token` is the key of the subscriber's token, `time` that of all filters."""
        self._cache = cache
        self._rules = filter
        self._token = token
        self._time = time
        self._quick = False
        self._max_body = request.max_body
        self._itself = request.outputs == "none"
        self.apart = filter is not None or self._itself

    def run(self, place: Place, events: Sequence[Event], at: int, chunk: int, *, keep: bool) -> Run:
        """The events from index `at`, within the chunk's size but at least one. `keep`: others may want the frames."""
        cache, bucket_id, rules = self._cache, place.bucket_id, self._rules
        end = time.perf_counter() + SLICE if rules is not None or cache.slow(bucket_id) else None
        own = self.apart or self._max_body is not None or place.output > 0
        data = bytearray()
        taken = 0
        for index in range(at, len(events)):
            event = events[index]
            if rules is None or self.passes(event):
                before = len(data)
                data += self._frame(place, event, keep) if own else cache.frame(bucket_id, event, keep=keep)
                size = len(data)
                if size > chunk and taken:
                    del data[before:]
                    return Run(data, taken, index)
                taken += size > before
            if end is not None and time.perf_counter() > end:
                return Run(data, taken, index + 1)
        return Run(data, taken, len(events))

    def copies(self, place: Place, event: Event, attempt: int, *, keep: bool) -> Copies | None:
        """Its copies of an event that a consumer hands out for the `attempt`th time; None if there are none."""
        if not self.passes(event):
            return None
        data = self._frame(place, event, keep, attempt)
        if not data:
            return None
        numbers = () if self._itself else self._cache.numbers(place.bucket_id, event)
        return Copies(data, [n for n in numbers if n])

    def rest(self) -> float:
        """How many seconds its filter has to wait, for the time that slow filters of its token have used: one that was
        quick for the last event waits for none."""
        return 0.0 if self._rules is None or self._quick else self._time.wait(self._token)

    def passes(self, event: Event) -> bool:
        """Whether the event passes the subscriber's filter."""
        rules = self._rules
        if rules is None:
            return True
        began = time.perf_counter()
        passed = self._cache.passes(event, rules)
        self._quick = not self._time.took(self._token, time.perf_counter() - began)
        return passed

    def _frame(self, place: Place, event: Event, keep: bool, attempt: int = 1) -> bytes:
        cache, bucket_id = self._cache, place.bucket_id
        after = place.output if event.seq == place.seq + 1 else 0
        truncate = self._max_body is not None and len(event.body) > self._max_body
        if truncate or after or attempt > 1:
            return cache.own(bucket_id, event, itself=self._itself, after=after, truncate=truncate, attempt=attempt)
        if self._itself:
            return cache.event(bucket_id, event, keep=keep)
        return cache.frame(bucket_id, event, keep=keep)
