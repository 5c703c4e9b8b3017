"""Limits how many clients are let through per turn of the loop, so that thousands at once do not delay senders."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from typing import Final

from relay_tornado.low_memory import Timer

_LOOK: Final = 200
"""The garbage collector runs once for this many clients. By itself it would run late, over all the objects that a crowd
has made, for 0.1 s if it is 10,000: it counts allocations less deallocations, and the objects of handshakes are freed
as fast as lasting ones are made. This way each run covers the objects made since the last (`garbage_collection.py`)."""


class Admission:
    """Lets through at most `most` per turn, first come, first served. Nobody waits while fewer come. `stay` says that
    most of them leave objects that last, as clients that connect do, and requests do not."""

    def __init__(self, most: int, *, stay: bool = True) -> None:
        self._most = self._left = most
        self._stay = stay
        self._passed = 0
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = Timer(self._next)

    async def turn(self) -> None:
        """Returns when the caller may proceed."""
        future = self.enter()
        if future is not None:
            await future

    def enter(self) -> asyncio.Future[None] | None:
        """None if the caller may proceed, else what is done when it may. Who makes that done itself has left, and takes
        nobody's turn."""
        if self._timer.at is None:
            self._timer.soon()
        if self._left:
            self._let_through()
            return None
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _next(self) -> None:
        self._left = self._most
        try:
            while self._waiting and self._left:
                future = self._waiting.popleft()
                if not future.done():
                    self._let_through()
                    future.set_result(None)
        finally:
            # Those who come later in this turn of the loop have what is left of it.
            if self._left < self._most:
                self._timer.soon()

    def _let_through(self) -> None:
        self._left -= 1
        self._passed += 1
        if self._stay and self._passed % _LOOK == 0:
            gc.collect()
