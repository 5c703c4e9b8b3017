"""Decides when events may be removed by age: not soon after a start, nor while the wall clock is in doubt.

A clock that is wrong or jumps makes young events look old. A deletion can't be undone; a delay does no harm. Events
that came in before the clock was corrected keep the wrong time and can't be told from old ones. So after a jump,
everything that this process may have stored stays for as long again as its bucket's limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

JUMP = 3600.0
"""Seconds by which wall clock and boot clock may diverge between two checks."""

WAIT = 3600.0
"""Seconds for which a jump suspends removal by age."""

_log = structlog.get_logger(__name__)


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class RetentionClock:
    """Watches the clocks; asked once before each pass over the buckets."""

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
        """The age in seconds, by their times, from which events may be removed in a bucket with this limit."""
        if limit is None or self._jumped is None or self._boot() - self._jumped >= limit:
            return limit
        return max(limit, self._wall() - self._begun + JUMP)
