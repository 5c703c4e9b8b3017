"""The steps of a start: told by the code that does them, and read by the thread that reports a slow one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """What is being done, as "loading the logs"; since when (on the monotonic clock); and how much of it is `done`, of
    how much in all (0: unknown)."""

    name: str
    since: float
    done: int = 0
    total: int = 0


class Steps:
    """The current step, as one value, so that another thread can read it at any time."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = Step(name, clock())

    def begin(self, name: str) -> None:
        self.now = Step(name, self._clock())

    def advance(self, done: int, total: int) -> None:
        """So much of the current step is done."""
        self.now = self.now._replace(done=done, total=total)
