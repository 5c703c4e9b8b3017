"""A destination that fails again and again is left alone for a while: then one try finds out whether it is back.

While the circuit is open no event is tried, so none uses up its tries; they wait in the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

FAILURES: Final = 10
"""Tries in vain, one after the other, that open it."""
FIRST: Final = 15.0
LONGEST: Final = 300.0
"""Seconds for which it is open at first, and at most: each try that finds the destination still down doubles them."""


class Circuit:
    """Times are seconds of a clock that never goes back. Whoever tries calls `begin` first, and then one of
    `succeeded`, `failed` and `cancelled`, with what `begin` said: a try from before it opened finds nothing out."""

    __slots__ = ("_failures", "_held", "_open_for", "_probing", "_spread", "_until", "opened")

    def __init__(self, spread: Callable[[], float] = lambda: 1.0) -> None:
        """`spread` gives a number from 0.8 to 1.2 that times are multiplied by."""
        self._spread = spread
        self._failures = 0
        self._open_for = 0.0
        self._until = 0.0
        self._held = 0.0
        self._probing = False
        self.opened = False

    def wait(self, now: float) -> float:
        """In how many seconds a try may begin; infinity while one is out that finds out."""
        held = max(self._held - now, 0.0)
        if not self.opened:
            return held
        return math.inf if self._probing else max(self._until - now, held, 0.0)

    def begin(self) -> bool:
        """A try begins, after `wait` said 0. Whether it is the one that finds out."""
        self._probing = self.opened
        return self.opened

    def succeeded(self) -> bool:
        """Whether that closed it."""
        closed = self.opened
        self._failures = 0
        self._open_for = 0.0
        self.opened = self._probing = False
        return closed

    def failed(self, now: float, probe: bool) -> bool:
        """Whether that opened it."""
        if self.opened:
            if probe:
                self._probing = False
                self._open(now)
            return False
        self._failures += 1
        if self._failures < FAILURES:
            return False
        self._open(now)
        return True

    def cancelled(self, probe: bool) -> None:
        """The try was none."""
        if probe:
            self._probing = False

    def hold(self, until: float) -> None:
        """The destination asked for so much time (Retry-After)."""
        self._held = max(self._held, until)

    def _open(self, now: float) -> None:
        self.opened = True
        self._open_for = min(self._open_for * 2 or FIRST, LONGEST)
        self._until = now + self._open_for * self._spread()
