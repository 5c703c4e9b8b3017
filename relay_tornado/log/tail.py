"""The newest events of all logs in memory, within one budget of bytes: the oldest leaves first, whichever log's it is.

Invariant: what a log has in the tail is one run of seqs that ends at its published head, without a hole but for its
ephemeral events, which never are in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

from relay_tornado.model import Event

EVENT_OVERHEAD = 512
"""Bytes that an event costs in memory beside its content."""


class Recent:
    """What of one log is in memory: by seq, oldest first."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}

    def read(self, after: int, limit: int, max_bytes: int) -> Sequence[Event] | None:
        """Events after + 1, … as far as they are here, at least one; None where the first of them is not."""
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
    """The budget over all logs. What was added at once leaves at once."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.used = 0
        """Bytes in use."""
        self._order: deque[tuple[Recent, int, int, int]] = deque()

    def add(self, recent: Recent, events: Sequence[Event], size: int) -> None:
        """Adds the next events of a log, of `size` bytes together."""
        cost = size + EVENT_OVERHEAD * len(events)
        if cost > self._budget:
            # The newest of them, as many as fit; what was there before is behind a hole then.
            while self._order:
                self._evict()
            events, cost = self._newest(events)
            if not events:
                return
        first, last = events[0].seq, events[-1].seq
        self._order.append((recent, first, last, cost))
        self.used += cost
        recent.events.update(zip([event.seq for event in events], events, strict=True))
        while self.used > self._budget:
            self._evict()

    def _newest(self, events: Sequence[Event]) -> tuple[Sequence[Event], int]:
        cost = 0
        for index in range(len(events) - 1, -1, -1):
            more = events[index].size + EVENT_OVERHEAD
            if cost + more > self._budget:
                return events[index + 1 :], cost
            cost += more
        return events, cost

    def _evict(self) -> None:
        recent, first, last, cost = self._order.popleft()
        self.used -= cost
        for seq in range(first, last + 1):
            recent.events.pop(seq, None)

    def trim(self, recent: Recent, first: int) -> None:
        """Lets go of a log's events below `first`. Their share of the budget comes back when their turn comes."""
        events = recent.events
        # One look for all: each begins at the front of the dict, and goes over whatever was deleted there.
        for seq in list(takewhile(lambda seq: seq < first, events)):
            del events[seq]
