"""When old events may leave by age: not soon after a start, and not while the wall clock is in doubt.

A clock that was set wrong, or that jumps, makes young events look old. Deleting can't be taken back, waiting can.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

JUMP = 3600.0
"""Seconds by which wall clock and boot clock may drift apart between two looks."""

WAIT = 3600.0
"""Seconds for which a jump puts removal by age off."""

_log = structlog.get_logger(__name__)


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class RetentionClock:
    """Asked once before each pass over the buckets."""

    def __init__(
        self, grace: float, wall: Callable[[], float] = time.time, boot: Callable[[], float] = _boot_time
    ) -> None:
        self._wall = wall
        self._boot = boot
        self._offset = wall() - boot()
        self._not_before = boot() + grace

    def by_age(self) -> bool:
        """Whether this pass may remove events because they are old."""
        now = self._boot()
        offset = self._wall() - now
        jump = offset - self._offset
        self._offset = offset
        if abs(jump) > JUMP:
            self._not_before = max(self._not_before, now + WAIT)
            _log.warning("clock_jumped", seconds=round(jump), consequence="nothing is removed by age for an hour")
        return now >= self._not_before
