"""The newest events of all logs in memory, within one budget of bytes; the oldest are dropped first, whatever their
log.

Invariant: a log's events in the tail are consecutive and end at its published head, except that ephemeral events are
never in the tail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

from relay_tornado.model import Event

EVENT_OVERHEAD = 512
"""Bytes of memory that an event takes besides its content."""


class Recent:
    """One log's events in memory: by seq, oldest first."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}

    def read(self, after: int, limit: int, max_bytes: int) -> Sequence[Event] | None:
        """Events after + 1, … as far as they are here, at least one; None if the first of them is not here."""
        events = self.events
        event = events.get(after + 1)
        if event is None:
            return None
        found = [event]
        if limit == 1 or after + 2 not in events:
            return found
        room = max_bytes - event.size
        for seq in range(after + 2, after + 1 + limit):
            event = events.get(seq)
            if event is None:
                break
            room -= event.size
            if room < 0:
                break
            found.append(event)
        return found


class Tail:
    """The budget over all logs. Events that were added together are dropped together."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.used = 0
        """Bytes in use."""
        self._order: deque[tuple[Recent, int, int, int]] = deque()

    def add(self, recent: Recent, events: Sequence[Event], size: int) -> None:
        """Adds the next events of a log; `size` is their bytes together."""
        cost = size + EVENT_OVERHEAD * len(events)
        if cost > self._budget:
            # Keep the newest that fit. Older events would no longer be consecutive with them.
            while self._order:
                self._evict()
            start = 0
            while cost > self._budget:
                cost -= events[start].size + EVENT_OVERHEAD
                start += 1
            events = events[start:]
            if not events:
                return
        first, last = events[0].seq, events[-1].seq
        self._order.append((recent, first, last, cost))
        self.used += cost
        recent.events.update(zip([event.seq for event in events], events, strict=True))
        while self.used > self._budget:
            self._evict()

    def _evict(self) -> None:
        recent, first, last, cost = self._order.popleft()
        self.used -= cost
        for seq in range(first, last + 1):
            recent.events.pop(seq, None)

    def trim(self, recent: Recent, first: int) -> None:
        """Drops a log's events below `first`. The budget gets their bytes back when their turn to be dropped comes."""
        events = recent.events
        # One pass: each look begins at the front of the dict, and passes every entry deleted there.
        for seq in list(takewhile(lambda seq: seq < first, events)):
            del events[seq]
