"""The content of ephemeral events, which is kept in memory for a while and stored nowhere.

Content is dropped after 60 s, or earlier, oldest first, when all of it exceeds 64 MiB. Then only the event's stub is
left in the log, and a reader that reaches it is told of a gap.
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


class EphemeralEvents(Recent):
    """One log's content by seq, oldest first. `start` to `end` is its newest run of ephemeral events."""

    __slots__ = ("end", "start")

    def __init__(self) -> None:
        super().__init__()
        self.start = 1
        self.end = 0

    def beyond(self, seq: int) -> int | None:
        """Where reading continues after the stub `seq`: at the next event with content, or after the run. None if the
        stub is not in the newest run."""
        if not self.start <= seq <= self.end:
            return None
        return next((each for each in self.events if each > seq), self.end + 1)


class Ephemeral:
    """The content of all logs, within one budget and one maximum age."""

    def __init__(self, age: float = AGE, budget: int = BUDGET) -> None:
        """`age` in seconds, `budget` in bytes."""
        self._age = age
        self._budget = budget
        self._order: deque[tuple[float, EphemeralEvents, int, int]] = deque()
        self._timer = Timer(self._expire)
        self.used = 0
        """Bytes in use."""

    def add(self, ephemeral: EphemeralEvents, events: Sequence[Event]) -> None:
        """Adds events that were appended to a log just now, in order."""
        now = asyncio.get_running_loop().time()
        for event in events:
            if event.seq != ephemeral.end + 1:
                ephemeral.start = event.seq
            ephemeral.end = event.seq
            cost = event.size + EVENT_OVERHEAD
            self._order.append((now + self._age, ephemeral, event.seq, cost))
            self.used += cost
            ephemeral.events[event.seq] = event
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
        _, ephemeral, seq, cost = self._order.popleft()
        ephemeral.events.pop(seq, None)
        self.used -= cost

    def close(self) -> None:
        """Drops all content."""
        self._timer.cancel()
        while self._order:
            self._evict()
