"""How fast events are sent to an output: its `throttle`, or one event after the other.

`rate`: a maximum number of attempts in any interval, one after the other (or `max_concurrent` at once, if given).
`concurrency`: `max_concurrent` at once. `max_queue_depth`: the number of events that may wait before senders get a 429.
`deadline`, in nanoseconds from when an event was received: after it the event is not attempted any more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from relay_tornado.forwarding.schedule import seconds
from relay_tornado.wire.rest import MOST_AT_ONCE

_INTERVALS: Final = {"": 1.0, "second": 1.0, "minute": 60.0, "hour": 3600.0}
_PARTS: Final = 1_000
"""Parts of an interval: attempts that begin within the same part are stored as one entry."""


class Throttle:
    """Times are monotonic seconds. Each attempt calls `take` first, and then `begin` or `give_back`."""

    __slots__ = ("_window", "at_once", "deadline", "depth")

    def __init__(self, document: Any) -> None:
        """`document` is an output's `throttle`."""
        found = document if isinstance(document, Mapping) and document.get("enabled") else {}
        rated = found.get("mode") != "concurrency"
        self.at_once = min(max(int(found.get("max_concurrent") or 1), 1), MOST_AT_ONCE)
        self.depth: int | None = int(found.get("max_queue_depth") or 0) or None
        self.deadline = seconds(found.get("deadline"))
        """In seconds; None for none."""
        rate = int(found.get("rate") or 0) if rated else 0
        self._window: _Window | None = None
        if rate:
            self._window = _Window(rate, _INTERVALS.get(found.get("interval") or "", 1.0))

    @property
    def rated(self) -> bool:
        return self._window is not None

    def wait(self, now: float) -> float:
        """In how many seconds the rate allows another attempt; infinity while that depends on attempts that are taken
        but have not begun."""
        return 0.0 if self._window is None else self._window.wait(now)

    def take(self) -> None:
        """Reserves an attempt, right after `wait` returned 0."""
        if self._window is not None:
            self._window.taken += 1

    def begin(self, now: float) -> None:
        """The reserved attempt begins; it counts from now on for one interval."""
        if self._window is not None:
            self._window.begin(now)

    def give_back(self) -> None:
        """The reserved attempt does not begin after all."""
        if self._window is not None:
            self._window.taken -= 1

    def take_back(self, begun: float) -> None:
        """The attempt that began then was not made: it does not count."""
        if self._window is not None:
            self._window.take_back(begun)


class _Window:
    """When the last attempts began: at most `most` in any `seconds`. `taken` counts reserved ones."""

    __slots__ = ("_begun", "_entries", "_most", "_seconds", "taken")

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._entries: deque[_Entry] = deque()
        self._begun = 0
        self.taken = 0

    def wait(self, now: float) -> float:
        entries = self._entries
        while entries and entries[0].last + self._seconds <= now:
            self._begun -= entries.popleft().count
        if self._begun + self.taken < self._most:
            return 0.0
        return entries[0].last + self._seconds - now if entries else math.inf

    def begin(self, now: float) -> None:
        self.taken -= 1
        self._begun += 1
        if self._entries and now - self._entries[-1].first < self._seconds / _PARTS:
            self._entries[-1].last = now
            self._entries[-1].count += 1
        else:
            self._entries.append(_Entry(now))

    def take_back(self, begun: float) -> None:
        for entry in reversed(self._entries):  # none holds it if it is out of the window
            if entry.first <= begun:
                entry.count -= 1
                self._begun -= 1
                if not entry.count:
                    self._entries.remove(entry)
                return


class _Entry:
    """Attempts that began from `first` to `last`: all count until the last one is out of the window."""

    __slots__ = ("count", "first", "last")

    def __init__(self, now: float) -> None:
        self.first = self.last = now
        self.count = 1
