"""Limits how many clients are let through per turn of the loop, so that thousands at once do not delay senders."""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from relay_tornado.transport.turn_queue import TurnQueue

_LOOK: Final = 200
"""The garbage collector runs once for this many clients. By itself it would run late, over all the objects that a crowd
has made, for 0.1 s if it is 10,000: it counts allocations less deallocations, and the objects of handshakes are freed
as fast as lasting ones are made. This way each run covers the objects made since the last (`garbage_collection.py`)."""


class Admission(TurnQueue[asyncio.Future[None]]):
    """Lets through at most `most` per turn, first come, first served. Nobody waits while fewer come. `stay` says that
    most of them leave objects that last, as clients that connect do, and requests do not."""

    def __init__(self, most: int, *, stay: bool = True) -> None:
        super().__init__(most, self._wake)
        self._stay = stay
        self._passed = 0

    def enter(self) -> asyncio.Future[None] | None:
        """None if the caller may proceed, else what is done when it may. Who makes that done itself has left, and takes
        nobody's turn."""
        self.begin()
        if self.left:
            self.left -= 1
            self._let_through()
            return None
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def _wake(self, future: asyncio.Future[None]) -> bool:
        if future.done():
            return False
        self._let_through()
        future.set_result(None)
        return True

    def _let_through(self) -> None:
        self._passed += 1
        if self._stay and self._passed % _LOOK == 0:
            gc.collect()
