"""Limits of delivery: the bytes in flight over all sockets, and how long one delivery may keep the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from relay_tornado.model import KIB

CHUNK: Final = 256 * KIB
"""The most bytes in one write, unless one event is larger."""

LEAST_CHUNK: Final = 16 * KIB

SLICE: Final = 0.003
"""Seconds after which a delivery gives the event loop a turn."""


class WriteBudget:
    """Counts the bytes that were passed to sockets and not yet taken by the kernel.

    The more bytes are outstanding, the smaller the chunks get; nobody waits for anybody else.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.outstanding = 0

    def chunk(self) -> int:
        """The size of the next write in bytes: `CHUNK` up to half of the budget, then less and less."""
        left = 2 * (self._most - self.outstanding)
        if left >= self._most:
            return CHUNK
        return max(LEAST_CHUNK, CHUNK * left // self._most)

    def take(self, size: int) -> None:
        self.outstanding += size

    def give_back(self, size: int) -> None:
        self.outstanding -= size


class PendingWrite:
    """A write that has begun. It counts as in flight until it is awaited (once), dropped, or `ended` is called."""

    __slots__ = ("_budget", "_size", "_written")

    def __init__(self, budget: WriteBudget, written: Awaitable[None], size: int) -> None:
        self._budget = budget
        self._written = written
        self._size = 0
        budget.take(size)
        self._size = size

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield from self._written.__await__()
        finally:
            self.ended()

    def __del__(self) -> None:
        self.ended()

    def ended(self, _: object = None) -> None:
        """The write has ended. May be repeated."""
        self._budget.give_back(self._size)
        self._size = 0


class Pace:
    """Gives the event loop a turn every `SLICE` seconds, also if there is nothing to wait for, and pauses for `rest`
    seconds."""

    __slots__ = ("_rest", "_since")

    def __init__(self, rest: Callable[[], float]) -> None:
        """`rest` is called each time, and returns seconds."""
        self._rest = rest
        self._since = time.perf_counter()

    async def keep(self) -> None:
        rest = self._rest()
        if rest or time.perf_counter() - self._since > SLICE:
            await asyncio.sleep(rest)
            self._since = time.perf_counter()
