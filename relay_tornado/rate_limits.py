"""Rate limits: for events that come in, by a bucket of tokens that fills up evenly; for who fails; and for lines of the
log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from relay_tornado.model import RateLimit

_PAUSE: Final = 1.0
"""Seconds between two lines of the log that anybody can cause."""


class Limiter:
    """One rate limit: `events` tokens at first, and so many again in each `interval`. Times are seconds of a clock
    that never goes back."""

    __slots__ = ("_at", "_left", "limit")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self.limit = limit
        self._left = float(limit.events)
        self._at = now

    def wait(self, now: float) -> float:
        """In how many seconds there is a token; 0 where there is one now."""
        limit = self.limit
        self._left = min(float(limit.events), self._left + (now - self._at) * limit.events / limit.interval)
        self._at = now
        # What is missing for a whole token may be an error of rounding.
        missing = 1.0 - self._left
        return 0.0 if missing < 1e-6 else missing * limit.interval / limit.events

    def take(self) -> None:
        """Takes a token, right after `wait` said that there is one."""
        self._left -= 1.0

    def give_back(self) -> None:
        """What the token was taken for has not come in."""
        self._left += 1.0


class Attempts:
    """How often somebody may fail: a rate limit for each of them. At most `most` are known at a time; who failed
    longest ago is forgotten first."""

    def __init__(self, limit: RateLimit, most: int) -> None:
        self._limit = limit
        self._most = most
        self._limiters: dict[str, Limiter] = {}

    def wait(self, who: str, now: float) -> float:
        """In how many seconds they may try again; 0 where they may now."""
        limiter = self._limiters.get(who)
        return 0.0 if limiter is None else limiter.wait(now)

    def failed(self, who: str, now: float) -> None:
        """They tried, and failed."""
        limiter = self._limiters.pop(who, None) or Limiter(self._limit, now)
        self._limiters[who] = limiter
        if limiter.wait(now) == 0:
            limiter.take()
        if len(self._limiters) > self._most:
            del self._limiters[next(iter(self._limiters))]


class LogLimit:
    """When a line of the log may be written that anybody can cause: at most once a second, since thousands would fill
    the disk that the events need."""

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

    def tell(self, log: Callable[..., object], event: str, **what: object) -> None:
        """Logs it where that may be, with how many lines were left out before."""
        left_out = self.due()
        if left_out is not None:
            log(event, **what, **({"left_out": left_out} if left_out else {}))
