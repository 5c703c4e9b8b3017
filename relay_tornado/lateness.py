"""Time limits for others that a late event loop does not shorten.

The loop is late if the machine was suspended, the process was stopped, or there was no processor time. What others sent
in time is then still in the sockets, and would be taken for missing. So a limit that ends late by more than `LATE` is
extended, once: also a loop that is late every time comes to an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from relay_tornado.low_memory import Timer

LATE: Final = 0.1
"""Seconds by which a busy loop may be late. An extension costs little, as it is as long as the loop was late."""


def extension(late: float, limit: float) -> float:
    """By how many seconds a limit of `limit` seconds is extended whose end came so many seconds late; 0 if that was in
    time. As long as it was late, since other machines send again what a suspended one has missed; `limit` at most."""
    return min(late, limit) if late > LATE else 0.0


class Deadline:
    """When a limit ends: `at`, in seconds of a monotonic clock."""

    __slots__ = ("_limit", "at")

    def __init__(self, limit: float, now: float) -> None:
        self.at = now + limit
        self._limit = limit

    def extend(self, now: float) -> bool:
        """Called when it has come. Returns whether that was late for the first time: then `at` is the new end."""
        more = extension(now - self.at, self._limit)
        self.at, self._limit = now + more, 0.0
        return more > 0.0


def after(seconds: float, over: Callable[[], object]) -> Timer:
    """A timer that calls `over` after so many seconds, or at the extended end."""
    loop = asyncio.get_running_loop()
    deadline = Deadline(seconds, loop.time())

    def end() -> None:
        if deadline.extend(loop.time()):
            timer.set(deadline.at)
        else:
            over()

    timer = Timer(end)
    timer.set(deadline.at)
    return timer


class Timeout:
    """As `asyncio.timeout`: raises TimeoutError if the body takes longer, and the loop was not late."""

    __slots__ = ("_limit", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        # A limit with an end would be over at once if the loop is late.
        self._limit = limit = asyncio.timeout(None)
        await limit.__aenter__()
        self._timer = after(self._seconds, lambda: limit.reschedule(loop.time()))

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*error)
