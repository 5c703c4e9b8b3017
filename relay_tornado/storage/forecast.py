"""Forecasts when the disk will reach its reserve, by how its free space has shrunk so far, in time to act on it."""

from __future__ import annotations

from collections import deque
from typing import Final

from relay_tornado.model import DAY

WINDOW: Final = DAY
"""Seconds over which the rate is taken: a day, so that what is written and removed once a day evens out."""

LEAST: Final = 3600.0
"""Seconds of readings before there is a forecast."""

INTERVAL: Final = 600.0
"""Seconds between two readings that are kept."""

WARN: Final = 7 * DAY
"""Seconds left at which the relay begins to warn."""


class Forecast:
    """Readings of one disk. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque()
        self._last: tuple[float, int] | None = None

    def add(self, now: float, available: int) -> None:
        """Adds a reading: how many bytes may still be stored before webhooks are refused."""
        self._last = (now, available)
        readings = self._readings
        if not readings or now - readings[-1][0] >= INTERVAL:
            readings.append(self._last)
        while now - readings[0][0] > WINDOW:
            readings.popleft()

    @property
    def rate(self) -> float | None:
        """Bytes a second by which the space shrinks (negative: grows); None while that is not known."""
        if self._last is None:
            return None
        (then, before), (now, available) = self._readings[0], self._last
        return (before - available) / (now - then) if now - then >= LEAST else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until webhooks are refused, at the rate so far; None while that is not known, or if the space
        lasts."""
        rate = self.rate
        if rate is None or rate <= 0 or self._last is None:
            return None
        return max(self._last[1], 0) / rate
