"""Thousands that come back at once are let through a few a turn of the loop, so that senders keep their place."""

from __future__ import annotations

import asyncio
from collections import deque


class Crowd:
    """At most `most` a turn, first come, first served. Where fewer come nobody waits."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def turn(self) -> None:
        """Returns when it is one's turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)
        if self._left and not self._waiting:
            self._left -= 1
            return
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    def _next(self) -> None:
        self._left = self._most
        while self._waiting and self._left:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._left -= 1
        # Who comes in this turn of the loop, behind those, has what is left of it.
        self._scheduled = self._left < self._most
        if self._scheduled:
            self._loop.call_soon(self._next)
