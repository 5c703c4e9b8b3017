"""Delays between attempts to connect: exponential with jitter, starting again after a long connection."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits at most `first` seconds, then up to `factor` times as long each time, up to `longest`. Each delay is a
    random part of that, so that clients do not all return at once after an outage."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    good: float = 30.0
    """After a connection that was subscribed for this many seconds, the delays start again."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many consecutive failures (1: the first): from a fifth of the step to all of
        it."""
        step = self.longest
        if failures <= 64:
            step = min(self.longest, self.first * self.factor ** (failures - 1))
        return step * random.uniform(0.2, 1.0)  # noqa: S311  # nothing is kept secret by it
