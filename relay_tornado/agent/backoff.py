"""When a try is repeated: which answers may be better next time, and how long to wait for that."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST: Final = 0.5
"""Seconds before the second try, before it is spread."""
FACTOR: Final = 2.0

_TRANSIENT: Final = frozenset({408, 425, 429})


def is_transient(status: int) -> bool:
    """Whether the same request may be answered better later: 408, 425, 429 and 5xx."""
    return status in _TRANSIENT or 500 <= status <= 599


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double, up to `longest` seconds, each spread over its upper half so that many agents don't come back
    in step. `spread` is a number of [0, 1)."""

    longest: float = 30.0
    spread: Callable[[], float] = random.random

    def wait(self, tries: int, retry_after: float = 0.0) -> float:
        """Seconds to wait after this many tries (1, 2, …); never less than the target asked for."""
        full = min(self.longest, FIRST * FACTOR ** min(tries - 1, 32))
        return max(full * (0.5 + self.spread() / 2), retry_after)
