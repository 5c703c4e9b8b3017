"""How long to wait before the next try: exponential, with jitter, from the beginning again after a good while."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits `first` seconds at most, then up to `factor` times as long each time, up to `longest`; each time a random
    part of that, so that the clients of a relay that was away do not come back all at once."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    good: float = 30.0
    """A connection that was subscribed for this many seconds starts the waits from the beginning."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (1: the first): a fifth of the step to the whole of it."""
        step = self.longest
        if failures <= 64:
            step = min(self.longest, self.first * self.factor ** (failures - 1))
        return step * random.uniform(0.2, 1.0)  # noqa: S311  # nothing is kept secret by it
