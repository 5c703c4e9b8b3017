"""The clock of retention by age: nothing leaves soon after a start, nor while the wall clock is in doubt.

A clock that was set wrong, or that jumps, makes young events look old. Deleting can't be taken back, waiting can.
What came in before a clock was put right has the time that the clock showed then, so after a jump it is not told from
the old ones by its time: all that this process may have taken stays for as long again as its bucket's limit says.
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
        self._looked = boot()
        self._begun = wall()
        self._offset = self._begun - self._looked
        self._not_before = self._looked + grace
        self._jumped: float | None = None

    def by_age(self) -> bool:
        """Whether this pass may remove events because they are old."""
        now, wall = self._boot(), self._wall()
        jump = wall - now - self._offset
        if abs(jump) > JUMP:
            self._not_before = max(self._not_before, now + WAIT)
            self._jumped = now
            self._begun = min(self._begun, wall - (now - self._looked))
            _log.warning("clock_jumped", seconds=round(jump), consequence="nothing is removed by age for an hour")
        self._looked, self._offset = now, wall - now
        return now >= self._not_before

    def age(self, limit: float | None) -> float | None:
        """How old by their times, in seconds, events have to be to leave a bucket whose limit is `limit`."""
        if limit is None or self._jumped is None or self._boot() - self._jumped >= limit:
            return limit
        return max(limit, self._wall() - self._begun + JUMP)
