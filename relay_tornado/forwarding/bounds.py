"""Limits shared by all outputs: the memory of requests being sent, and the number of requests in flight.

Each output has one request of its own, however many others are stuck, and small events do not count as memory. So no
destination delays another one. Everything beyond that is shared.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay_tornado.low_memory import Timer
from relay_tornado.model import KIB

SMALL_EVENT: Final = 64 * KIB
"""Events of up to this many bytes do not count."""
_SHARE: Final = 8
"""No output may use more than the memory divided by this, except for a single event."""


class Memory:
    """Bytes of large events that are held for requests, in all and by output."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self._by: dict[object, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = Timer(self._wake)

    def take(self, owner: object, size: int) -> bool:
        """Takes memory if there is room, and returns whether there was; it must be given back. If nothing is held, one
        event always fits."""
        if size <= SMALL_EVENT:
            return True
        mine = self._by.get(owner, 0)
        if (self.used and self.used + size > self._most) or (mine and mine + size > self._most // _SHARE):
            return False
        self.used += size
        self._by[owner] = mine + size
        return True

    def give_back(self, owner: object, size: int) -> None:
        if size <= SMALL_EVENT:
            return
        self.used -= size
        left = self._by[owner] - size
        if left:
            self._by[owner] = left
        else:
            del self._by[owner]
        if self._waiting:
            self._timer.soon()

    def _wake(self) -> None:
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)

    async def room(self) -> None:
        """Returns when it is worth trying again. The caller holds nothing meanwhile."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        await woken


class Slots:
    """Requests in flight beyond the one that each output has of its own."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: dict[object, Callable[[], None]] = {}
        self._timer = Timer(self._wake)

    def take(self, owner: object, wake: Callable[[], None]) -> bool:
        """Takes a slot and returns True. If there is none, returns False and calls `wake` when there may be one again;
        `wake` must leave its work to the next turn of the loop."""
        if self._free > 0:
            self._free -= 1
            self._waiting.pop(owner, None)
            return True
        self._waiting.setdefault(owner, wake)
        return False

    def give_back(self) -> None:
        self._free += 1
        self._wake()

    def _wake(self) -> None:
        """Wakes those who wait, one per turn of the loop, as long as slots are free: one that is woken may not need a
        slot any more."""
        if self._free > 0 and self._waiting:
            self._waiting.pop(next(iter(self._waiting)))()
            self._timer.soon()

    def leave(self, owner: object) -> None:
        """Stops waiting for a slot."""
        self._waiting.pop(owner, None)
