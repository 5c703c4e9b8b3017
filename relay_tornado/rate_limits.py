"""Rate limits: of incoming events (a token bucket that is filled evenly), of failed attempts, and of log lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from relay_tornado.model import RateLimit

_ONE_A_SECOND: Final = RateLimit(1, 1.0)
SAY_EVERY: Final = 60.0
"""Seconds after which an error that continues is logged again."""
_MOST_SAID: Final = 16
"""The number of different errors that are remembered."""


class Limiter:
    """One rate limit: `events` tokens at first, and as many again in each `interval`. Times are seconds of a monotonic
    clock."""

    __slots__ = ("_at", "_left", "limit")

    def __init__(self, limit: RateLimit, now: float) -> None:
        self.limit = limit
        self._left = float(limit.events)
        self._at = now

    def wait(self, now: float) -> float:
        """The seconds until there is a token; 0 if there is one now."""
        limit = self.limit
        self._left = min(float(limit.events), self._left + (now - self._at) * limit.events / limit.interval)
        self._at = now
        # A tiny part missing from a whole token is a rounding error.
        missing = 1.0 - self._left
        return 0.0 if missing < 1e-6 else missing * limit.interval / limit.events

    def take(self) -> None:
        """Takes a token, right after `wait` returned 0."""
        self._left -= 1.0

    def give_back(self) -> None:
        """Returns a token: the event did not come in."""
        self._left += 1.0


class Attempts:
    """Limits failed attempts, with one rate limit for each client. At most `most` clients are remembered; the one whose
    last failure is the oldest is forgotten first."""

    def __init__(self, limit: RateLimit, most: int) -> None:
        self._limit = limit
        self._most = most
        self._limiters: dict[str, Limiter] = {}

    def wait(self, who: str, now: float) -> float:
        """The seconds until the client may try again; 0 if it may now."""
        limiter = self._limiters.get(who)
        return 0.0 if limiter is None else limiter.wait(now)

    def failed(self, who: str, now: float) -> None:
        """The client's attempt failed."""
        limiter = self._limiters.pop(who, None) or Limiter(self._limit, now)
        self._limiters[who] = limiter
        if limiter.wait(now) == 0:
            limiter.take()
        if len(self._limiters) > self._most:
            del self._limiters[next(iter(self._limiters))]


class LogLimit:
    """Limits log lines that anybody can cause, since thousands would fill the disk that the events need."""

    __slots__ = ("_clock", "_left_out", "_limiter")

    def __init__(self, limit: RateLimit = _ONE_A_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._limiter = Limiter(limit, 0.0)
        self._clock = clock
        self._left_out = 0

    def due(self) -> int | None:
        """How many lines were left out since the last one; None if this one is to be left out, too."""
        if self._limiter.wait(self._clock()):
            self._left_out += 1
            return None
        self._limiter.take()
        left_out, self._left_out = self._left_out, 0
        return left_out

    def tell(self, log: Callable[..., object], event: str, **what: object) -> None:
        """Logs the line if it is due, with the number of lines left out before."""
        left_out = self.due()
        if left_out is not None:
            log(event, **what, **({"left_out": left_out} if left_out else {}))


class RepeatLimit:
    """Limits log lines about errors that continue: one with other words is due at once, one with the same words only
    after a minute, also if two come in turn."""

    __slots__ = ("_again", "_clock")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._again: dict[str, float] = {}
        """By what was said, when it is due again."""

    def due(self, why: str) -> bool:
        """Whether the line about this error is to be logged now."""
        now = self._clock()
        if now < self._again.get(why, now):
            return False
        self._again.pop(why, None)
        self._again[why] = now + SAY_EVERY
        if len(self._again) > _MOST_SAID:
            del self._again[next(iter(self._again))]
        return True
