"""Lines of the log that anybody can cause: thousands a second would fill the disk that the events need."""

from __future__ import annotations

import math
import time
from typing import Final

_PAUSE: Final = 1.0
"""Seconds between two such lines."""


class LogLimit:
    """When one of them may be written: at most once a second."""

    __slots__ = ("_at", "_left_out")

    def __init__(self) -> None:
        self._at = -math.inf
        self._left_out = 0

    def due(self) -> int | None:
        """How many were left out since the last one; None where this one is left out, too."""
        now = time.monotonic()
        if now - self._at < _PAUSE:
            self._left_out += 1
            return None
        left_out, self._at, self._left_out = self._left_out, now, 0
        return left_out
