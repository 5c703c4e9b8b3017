"""Wakes many, each at a time of its own, by one timer of the loop: a timer for each takes half a kilobyte."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Protocol

import structlog

from relay_tornado.low_memory import Timer

_GRAINS: Final = ((2.0, 0.01), (math.inf, 0.25))
"""How late one may be woken: times less than so many seconds ahead are rounded up to so many seconds."""

_SLICE: Final = 0.001
"""Seconds of a turn of the loop that those who are woken have: thousands that came at once sleep until one time."""

_log = structlog.get_logger(__name__)


class Sleeper(Protocol):
    """Who is woken. It is its own key, so two are never equal."""

    def wake(self) -> None:
        """Its time has come. Quick."""


class Alarms:
    """Those who sleep, by when they are woken, in seconds of the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sleepers: dict[float, dict[Sleeper, None]] = {}
        self._timer = Timer(self._look)

    def set(self, sleeper: Sleeper, due: float) -> float:
        """Wakes somebody, once, at this time or a little later; returns what `cancel` wants."""
        ahead = due - self._loop.time()
        grain = next(grain for limit, grain in _GRAINS if ahead < limit)
        at = math.ceil(due / grain) * grain
        self._sleepers.setdefault(at, {})[sleeper] = None
        if self._timer.at is None or at < self._timer.at:
            self._timer.set(at)
        return at

    def cancel(self, sleeper: Sleeper, at: float) -> None:
        """It is not woken; nothing happens where it has been."""
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
                # Whoever is left of those that are due has the next turn of the loop.
                self._timer.set(min(self._sleepers))

    def _wake_those_due(self) -> None:
        now, end = self._loop.time(), time.perf_counter() + _SLICE
        for at in sorted(at for at in self._sleepers if at <= now):
            # Who is woken may cancel others, and with the last of them their time.
            while (sleepers := self._sleepers.get(at)) and time.perf_counter() < end:
                sleeper, _ = sleepers.popitem()
                try:
                    sleeper.wake()
                except Exception:
                    _log.exception("alarm_failed")
            if not self._sleepers.get(at):
                self._sleepers.pop(at, None)
