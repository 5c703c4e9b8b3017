"""The pace of indexing: after each piece of work it rests, the longer the busier the relay is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_RESTS: Final = (0.25, 20.0)
"""The length of a rest as a multiple of the work before it: while the relay is idle, and at most."""

_EASY: Final = 150.0
"""The events per second that add one to the multiple. On a free core, the index keeps up with some 700 a second."""

_LONGEST: Final = 0.5
"""The longest rest in seconds: the machine may have been suspended during the work."""

_WINDOW: Final = 0.01
"""The shortest time, in seconds, over which the rate of events is measured."""


class Pacing:
    """Used in turn in the event loop and on a thread. `begin` and `rest` are called around work that waits for nothing
    else; `end` may be called anywhere, and ends all rests for good."""

    def __init__(self, events: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """`events` returns the number of events ever received."""
        self._events = events
        self._clock = clock
        self._known = (clock(), events())
        self._rate = 0.0
        self._since = clock()
        self._working = threading.Lock()
        """Held until the end. (An event's own lock may stay held if memory is short, and `end` would wait for ever.)"""
        self._working.acquire()

    def begin(self) -> None:
        """Work begins."""
        self._since = self._clock()

    def rest(self) -> None:
        """Rests for the work since `begin`, or since the last rest."""
        if self._working.acquire(timeout=self.due()):
            self.end()
        self._since = self._clock()

    def due(self) -> float:
        """The seconds of rest that are due for that work."""
        now, (at, before) = self._clock(), self._known
        if now - at >= _WINDOW:
            events = self._events()
            self._known, self._rate = (now, events), (events - before) / (now - at)
        quiet, most = _RESTS
        return min((now - self._since) * min(quiet + self._rate / _EASY, most), _LONGEST)

    def end(self) -> None:
        with suppress(RuntimeError):  # it has ended
            self._working.release()
