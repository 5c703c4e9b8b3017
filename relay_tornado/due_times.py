"""The due times of a consumer's parked events, in order.

They are a heap. An entry is out of date if its event is no longer parked, is due at another time, or is out. It is
dropped when it comes first, or when there are many.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Mapping
from typing import Final

from relay_tornado.consumer_changes import Parked

_SURPLUS: Final = 1000
"""Entries, beyond two for each parked event, from which those that are out of date are dropped: such a time would stay
until it comes, perhaps for a day."""


class DueTimes:
    """The due times of the events in `parked` that are not in `out`. The owner changes these two, and says what it has
    added or changed."""

    __slots__ = ("_beyond", "_heap", "_last", "_out", "_parked")

    def __init__(self, parked: Mapping[int, Parked], out: Container[int]) -> None:
        self._parked = parked
        self._out = out
        self._heap: list[tuple[float, int]] = []
        self._beyond: list[tuple[float, int]] = []
        """Entries that were due and are beyond `_last`."""
        self._last: int | None = None
        """The `last` of the last `first`."""
        self.order()

    def __len__(self) -> int:
        return len(self._heap) + len(self._beyond)

    def add(self, seq: int) -> None:
        """The event was parked, or is no longer out."""
        heapq.heappush(self._heap, (self._parked[seq].due, seq))
        if len(self) > 2 * len(self._parked) + _SURPLUS:
            self.order()

    def order(self) -> None:
        """All due times may have changed."""
        self._heap = [(one.due, seq) for seq, one in self._parked.items()]
        heapq.heapify(self._heap)
        self._beyond.clear()

    def clear(self) -> None:
        self._heap.clear()
        self._beyond.clear()

    def first(self, now: float, last: int | None) -> int | None:
        """The event that has been due longest, of those up to the seq `last` (None: of all); None if none is due."""
        if last != self._last:
            self._heap += self._beyond
            heapq.heapify(self._heap)
            self._beyond.clear()
            self._last = last
        while (due := self.next()) is not None and due <= now:
            seq = self._heap[0][1]
            if last is None or seq <= last:
                return seq
            self._beyond.append((due, seq))
            self.pop()
        return None

    def pop(self) -> None:
        """The event that `first` returned is out. Without this, one that is given back with the same due time, again
        and again, would have many entries."""
        heapq.heappop(self._heap)

    def next(self) -> float | None:
        """When the next event is due, apart from those that `first` found to be beyond its `last`; None if there is
        none."""
        while self._heap:
            due, seq = self._heap[0]
            one = self._parked.get(seq)
            if one is not None and one.due == due and seq not in self._out:
                return due
            self.pop()
        return None
