"""Wakes many objects, each at its own time, with one timer of the loop: a timer for each would take 0.5 KB."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Protocol

import structlog

from relay_tornado.low_memory import Timer

_GRAINS: Final = ((2.0, 0.01), (math.inf, 0.25))
"""Pairs of seconds: a wake-up less than the first ahead is rounded up to a multiple of the second, its grain."""

_SLICE: Final = 0.001
"""Seconds of one turn of the loop to spend on waking: thousands that came at once are due at the same time."""

_log = structlog.get_logger(__name__)


class Sleeper(Protocol):
    """An object to wake. It serves as its own key, so no two may be equal."""

    def wake(self) -> None:
        """Called when its time has come; must be quick."""


class Alarms:
    """The sleepers by the time at which they are woken, in seconds of the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sleepers: dict[float, dict[Sleeper, None]] = {}
        self._timer = Timer(self._look)

    def set(self, sleeper: Sleeper, due: float) -> float:
        """Wakes a sleeper once, at this time or a little later; returns the `at` that `cancel` takes."""
        ahead = due - self._loop.time()
        grain = next(grain for limit, grain in _GRAINS if ahead < limit)
        at = math.ceil(due / grain) * grain
        self._sleepers.setdefault(at, {})[sleeper] = None
        if self._timer.at is None or at < self._timer.at:
            self._timer.set(at)
        return at

    def cancel(self, sleeper: Sleeper, at: float) -> None:
        """Cancels a wake-up; without effect if it has happened."""
        sleepers = self._sleepers.get(at)
        if sleepers is not None:
            sleepers.pop(sleeper, None)
            if not sleepers:
                del self._sleepers[at]
                if not self._sleepers:
                    self._timer.cancel()

    def _look(self) -> None:
        try:
            self._wake_those_due()
        finally:
            if self._sleepers:
                # Sleepers that are due but were not reached are woken in the next turn of the loop.
                self._timer.set(min(self._sleepers))

    def _wake_those_due(self) -> None:
        now, end = self._loop.time(), time.perf_counter() + _SLICE
        for at in sorted(at for at in self._sleepers if at <= now):
            # A sleeper may cancel others when it wakes, and with the last of them the entry of their time.
            while (sleepers := self._sleepers.get(at)) and time.perf_counter() < end:
                sleeper, _ = sleepers.popitem()
                try:
                    sleeper.wake()
                except Exception:
                    _log.exception("alarm_failed")
            if not self._sleepers.get(at):
                self._sleepers.pop(at, None)
