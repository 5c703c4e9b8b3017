"""What bounds delivery: the bytes on their way out over all sockets, and how long one delivery may keep the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from relay_tornado.model import KIB

CHUNK: Final = 256 * KIB
"""Most bytes in one write, or one event."""

LEAST_CHUNK: Final = 16 * KIB

SLICE: Final = 0.003
"""Seconds after which delivery gives the loop back."""


class WriteBudget:
    """Bytes that were given to sockets and that their kernels have not taken yet.

    Where much is outstanding the chunks get smaller, and nobody waits for anybody else.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.outstanding = 0

    def chunk(self) -> int:
        """How many bytes the next write may have: all of `CHUNK` up to half of the budget, then less and less."""
        left = 2 * (self._most - self.outstanding)
        if left >= self._most:
            return CHUNK
        return max(LEAST_CHUNK, CHUNK * left // self._most)

    def take(self, size: int) -> None:
        self.outstanding += size

    def give_back(self, size: int) -> None:
        self.outstanding -= size


class PendingWrite:
    """A write that has begun, to be awaited once, or dropped, or `ended`. Its bytes are of the budget until one of
    these is so."""

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
        """It has ended. May be repeated."""
        self._budget.give_back(self._size)
        self._size = 0


class Pace:
    """Gives the loop back every `SLICE` seconds, also where nothing has to be waited for; and for as long as `rest`
    says."""

    __slots__ = ("_rest", "_since")

    def __init__(self, rest: Callable[[], float]) -> None:
        """`rest` is asked each time, and gives seconds."""
        self._rest = rest
        self._since = time.perf_counter()

    async def keep(self) -> None:
        rest = self._rest()
        if rest or time.perf_counter() - self._since > SLICE:
            await asyncio.sleep(rest)
            self._since = time.perf_counter()
