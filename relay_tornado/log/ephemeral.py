"""The content of ephemeral events, which is in memory for a while and nowhere else.

It leaves when it is 60 s old, and earlier, oldest first, where all of it would be more than 64 MiB. Of the event only
its stub is in the log then, and whoever comes to it is told of a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from relay_tornado.log.tail import EVENT_OVERHEAD, Recent
from relay_tornado.low_memory import Timer
from relay_tornado.model import MIB, Event

AGE = 60.0
BUDGET = 64 * MIB


class Fleeting(Recent):
    """One log's content, by seq, oldest first, and its newest run of ephemeral events: `start` to `end`."""

    __slots__ = ("end", "start")

    def __init__(self) -> None:
        super().__init__()
        self.start = 1
        self.end = 0

    def beyond(self, seq: int) -> int | None:
        """Where reading goes on after the stub `seq`: the next event with content, or the end of the run; None where
        the stub is not of the newest run."""
        if not self.start <= seq <= self.end:
            return None
        return next((each for each in self.events if each > seq), self.end + 1)


class Ephemeral:
    """The budget over all logs, and the clock."""

    def __init__(self, age: float = AGE, budget: int = BUDGET) -> None:
        """`age` in seconds, `budget` in bytes."""
        self._age = age
        self._budget = budget
        self._order: deque[tuple[float, Fleeting, int, int]] = deque()
        self._timer = Timer(self._expire)
        self.used = 0
        """Bytes in use."""

    def add(self, fleeting: Fleeting, events: Sequence[Event]) -> None:
        """Takes over events that were appended to a log just now, in order."""
        now = asyncio.get_running_loop().time()
        for event in events:
            if event.seq != fleeting.end + 1:
                fleeting.start = event.seq
            fleeting.end = event.seq
            cost = event.size + EVENT_OVERHEAD
            self._order.append((now + self._age, fleeting, event.seq, cost))
            self.used += cost
            fleeting.events[event.seq] = event
        while self.used > self._budget:
            self._evict()
        if self._timer.at is None and self._order:
            self._timer.set(now + self._age)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._order and self._order[0][0] <= now:
            self._evict()
        if self._order:
            self._timer.set(self._order[0][0])

    def _evict(self) -> None:
        _, fleeting, seq, cost = self._order.popleft()
        fleeting.events.pop(seq, None)
        self.used -= cost

    def close(self) -> None:
        """Lets go of everything."""
        self._timer.cancel()
        while self._order:
            self._evict()
