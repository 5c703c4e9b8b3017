"""Admission of thousands that come back at once: a few a turn of the loop, so that senders keep their place."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from typing import Final

from relay_tornado.low_memory import Timer

_LOOK: Final = 200
"""Behind so many of them Python looks for garbage. Left to itself it looks at all that a crowd has brought at once, for
0.1 s where it is 10,000, and late: it counts what is made less what is freed, and the objects of handshakes go as fast
as those come that stay. Here each look finds what has come since the one before (`garbage.py`)."""


class Admission:
    """At most `most` a turn, first come, first served. Where fewer come nobody waits."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._passed = 0
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer = Timer(self._next)

    async def turn(self) -> None:
        """Returns when it is one's turn."""
        if self._timer.at is None:
            self._timer.soon()
        if self._left and not self._waiting:
            self._let_through()
            return
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    def _next(self) -> None:
        self._left = self._most
        try:
            while self._waiting and self._left:
                future = self._waiting.popleft()
                if not future.done():
                    self._let_through()
                    future.set_result(None)
        finally:
            # Who comes in this turn of the loop, behind those, has what is left of it.
            if self._left < self._most:
                self._timer.soon()

    def _let_through(self) -> None:
        self._left -= 1
        self._passed += 1
        if self._passed % _LOOK == 0:
            gc.collect()
