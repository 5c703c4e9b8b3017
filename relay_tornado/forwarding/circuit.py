"""A circuit breaker: a destination that keeps failing gets no requests for a while; then one attempt probes it.

While the circuit is open no event is attempted, so none uses up its attempts; they wait in the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

FAILURES: Final = 10
"""The number of consecutive failures that opens the circuit."""
FIRST: Final = 15.0
LONGEST: Final = 300.0
"""Seconds for which the circuit is open at first, and at most; each failed probe doubles them."""


class Circuit:
    """Times are monotonic seconds. Each attempt calls `begin` first, and then one of `succeeded`, `failed` and
    `cancelled`. The last two get the result of `begin`: an attempt from before the circuit opened is not a probe, but
    its success closes the circuit, too."""

    __slots__ = ("_failures", "_held", "_open_for", "_probing", "_spread", "_until", "opened")

    def __init__(self, spread: Callable[[], float] = lambda: 1.0) -> None:
        """`spread` returns a factor from 0.8 to 1.2 for times."""
        self._spread = spread
        self._failures = 0
        self._open_for = 0.0
        self._until = 0.0
        self._held = 0.0
        self._probing = False
        self.opened = False

    def wait(self, now: float) -> float:
        """In how many seconds an attempt may begin; infinity while a probe is in flight."""
        held = max(self._held - now, 0.0)
        if not self.opened:
            return held
        return math.inf if self._probing else max(self._until - now, held)

    def begin(self) -> bool:
        """Begins an attempt, after `wait` returned 0. Returns whether it is the probe."""
        self._probing = self.opened
        return self.opened

    def allows(self, now: float, probe: bool) -> bool:
        """Whether an attempt that began here, and of which nothing was sent yet, may still be made. `probe` is what
        `begin` returned."""
        return self._held <= now and (probe or not self.opened)

    def succeeded(self) -> bool:
        """Returns whether this closed the circuit."""
        closed = self.opened
        self._failures = 0
        self._open_for = 0.0
        self.opened = self._probing = False
        return closed

    def failed(self, now: float, probe: bool) -> bool:
        """Returns whether this opened the circuit."""
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
        """The attempt was not made, or was cut off."""
        if probe:
            self._probing = False

    def hold(self, until: float) -> None:
        """Allows no attempt until then, as the destination asked (Retry-After)."""
        self._held = max(self._held, until)

    def _open(self, now: float) -> None:
        self.opened = True
        self._open_for = min(self._open_for * 2 or FIRST, LONGEST)
        self._until = now + self._open_for * self._spread()
