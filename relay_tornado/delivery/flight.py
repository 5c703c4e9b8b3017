"""What bounds delivery over all sockets: the bytes on their way out, and the time that a turn of the loop may take."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from relay_tornado.model import KIB

CHUNK: Final = 256 * KIB
"""Most bytes in one write, or one event."""

LEAST_CHUNK: Final = 16 * KIB

SLICE: Final = 0.003
"""Seconds after which delivery gives the loop back."""

_SECTIONS: Final = 4
"""How many deliveries may encode and send within one turn of the loop, while more wait."""


class Flight:
    """Bytes that were given to sockets and that their kernels have not taken yet.

    Where much is outstanding the chunks get smaller, and nobody waits for anybody else.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.outstanding = 0

    def chunk(self) -> int:
        """How many bytes the next write may have: all of `CHUNK` up to half of the budget, then less and less."""
        left = 2 * (self._budget - self.outstanding)
        if left >= self._budget:
            return CHUNK
        return max(LEAST_CHUNK, CHUNK * left // self._budget)

    def took_off(self, size: int) -> None:
        self.outstanding += size

    def landed(self, size: int) -> None:
        self.outstanding -= size


def turns() -> asyncio.Semaphore:
    """A few deliveries work in one turn of the loop while the others wait in a fair queue, so that a thousand clients
    that catch up at once leave the loop to everybody else between any few of them."""
    return asyncio.Semaphore(_SECTIONS)


class Pace:
    """Gives the loop back every `SLICE` seconds, also where nothing has to be waited for."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def keep(self) -> None:
        if time.perf_counter() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
