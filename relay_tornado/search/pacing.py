"""How the index gives way: between two pieces of its work it rests, the longer the more the relay has to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_RESTS: Final = (0.25, 20.0)
"""How long it rests after a piece, in times that the piece took: where the relay is quiet, and at most."""

_EASY: Final = 150.0
"""Events a second that come in for each further multiple: up to some 700 a second the index keeps up on a free core."""

_LONGEST: Final = 0.5
"""Most seconds of a rest: the machine may have been away in the middle of a piece."""

_WINDOW: Final = 0.01
"""Seconds over which, at least, events are counted."""


class Pacing:
    """In turn for what is done in the loop and for what is done on a thread: `begin` and `rest` are called where work
    is done that waits for nothing else, `end` anywhere: after it there is no rest any more."""

    def __init__(self, events: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """`events` tells how many were ever taken in."""
        self._events = events
        self._clock = clock
        self._known = (clock(), events())
        self._rate = 0.0
        self._since = clock()
        self._ended = threading.Event()

    def begin(self) -> None:
        """Work begins."""
        self._since = self._clock()

    def rest(self) -> None:
        """Rests for the work since it began, or since the last rest."""
        self._ended.wait(self.due())
        self._since = self._clock()

    def due(self) -> float:
        """Seconds of rest for that work."""
        now, (at, before) = self._clock(), self._known
        if now - at >= _WINDOW:
            events = self._events()
            self._known, self._rate = (now, events), (events - before) / (now - at)
        quiet, most = _RESTS
        return min((now - self._since) * min(quiet + self._rate / _EASY, most), _LONGEST)

    def end(self) -> None:
        self._ended.set()
