"""The event loop's time for slow filters: all slow ones of a token together get a tenth of it to be applied, and a
tenth to be compiled.

A token may have thousands of connections. If each had a tenth for itself, nothing would be left for others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from relay_tornado.rules import rest


class FilterTime:
    """When the slow filters of each token may be applied again; or when its filters may be compiled, in another
    instance."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._again: dict[str, float] = {}

    def took(self, token: str, seconds: float) -> bool:
        """A filter of the token with this key took so long for an event. Returns whether that is slow."""
        pause = rest(seconds)
        if not pause:
            return False
        now = self._clock()
        self._again[token] = max(self._again.get(token, now), now) + pause
        return True

    def wait(self, token: str) -> float:
        """Seconds until the token's slow filters may be applied again; 0 if they may now."""
        again = self._again.get(token)
        if again is None:
            return 0.0
        left = again - self._clock()
        if left <= 0:
            del self._again[token]
            return 0.0
        return left

    async def turn(self, token: str) -> bool:
        """Returns when they may, and whether the caller had to wait."""
        waited = False
        while left := self.wait(token):
            waited = True
            await asyncio.sleep(left)
        return waited
