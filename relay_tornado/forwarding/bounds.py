"""What all outputs share: the memory of requests on their way out, and how many of them there may be.

Each output has one request of its own, however many others are stuck, and small events cost no memory that counts: so
no destination keeps another one waiting. Beyond that they share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay_tornado.low_memory import Timer
from relay_tornado.model import KIB

SMALL_EVENT: Final = 64 * KIB
"""Bytes up to which an event does not count."""
_SHARE: Final = 8
"""No output has more than this part of the memory."""


class Memory:
    """Bytes of large events that are held for requests, over all outputs and for one of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self._by: dict[object, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = Timer(self._wake)

    def take(self, owner: object, size: int) -> bool:
        """Whether there is room; what was taken is given back. One event always fits where nothing is held."""
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
        """Returns when it is worth trying again. Whoever waits holds nothing meanwhile."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        await woken


class Slots:
    """Requests at once beyond the one that each output has."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: dict[object, Callable[[], None]] = {}

    def take(self, owner: object, wake: Callable[[], None]) -> bool:
        """Whether there is one; else `wake` is called when there may be one again, and what it has to do it does in the
        next turn of the loop."""
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
        """Wakes those who wait one after the other, until one has taken what is free: others may have no use for it any
        more."""
        if self._free > 0 and self._waiting:
            self._waiting.pop(next(iter(self._waiting)))()
            asyncio.get_running_loop().call_soon(self._wake)

    def leave(self, owner: object) -> None:
        """It waits no longer."""
        self._waiting.pop(owner, None)
