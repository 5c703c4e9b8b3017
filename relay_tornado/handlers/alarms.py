"""Wakes many, each at a time of its own, by one timer of the loop: a timer for each takes half a kilobyte."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final, Protocol

import structlog

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
        self._timer: asyncio.TimerHandle | None = None
        # A handle itself does not know it where uvloop's timer is over at once.
        self._at = 0.0

    def set(self, sleeper: Sleeper, due: float) -> float:
        """Wakes somebody, once, at this time or a little later; returns what `cancel` wants."""
        ahead = due - self._loop.time()
        grain = next(grain for limit, grain in _GRAINS if ahead < limit)
        at = math.ceil(due / grain) * grain
        self._sleepers.setdefault(at, {})[sleeper] = None
        if self._timer is None or at < self._at:
            self._look_at(at)
        return at

    def cancel(self, sleeper: Sleeper, at: float) -> None:
        """It is not woken; nothing happens where it has been."""
        sleepers = self._sleepers.get(at)
        if sleepers is not None:
            sleepers.pop(sleeper, None)
            if not sleepers:
                del self._sleepers[at]
                if not self._sleepers and self._timer is not None:
                    self._timer.cancel()
                    self._timer = None

    def _look_at(self, at: float) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            self._wake_those_due()
        finally:
            if self._sleepers:
                # Whoever is left of those that are due has the next turn of the loop.
                self._look_at(min(self._sleepers))

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
