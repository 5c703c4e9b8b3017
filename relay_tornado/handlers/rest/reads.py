"""Limits how many large answers, such as pages of events, one token has at once.

Each may take 16 MiB and 0.1 s, and stays in memory until its client has read it. A client that asks for thousands, or
reads none, delays only itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from relay_tornado.errors import Overloaded
from relay_tornado.low_memory import wake

AT_ONCE: Final = 4
WAITING: Final = 1_000
"""Maximum number of one token's waiting requests; further ones get a 503."""


class Reads:
    """The large answers in progress, by token key. Each `enter` needs one `leave` once the answer has left."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def enter(self, key: str) -> bool:
        """Returns when the request may proceed, first come, first served, and whether it had to wait. Raises
        Overloaded."""
        running = self._running.get(key, 0)
        if running < AT_ONCE:
            self._running[key] = running + 1
            return False
        waiting = self._waiting.setdefault(key, deque())
        if len(waiting) >= WAITING:
            raise Overloaded(f"{WAITING} requests with this token wait already: send this one again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was granted a moment ago
                self.leave(key)
            raise
        return True

    def leave(self, key: str) -> None:
        """Passes the place to the request that has waited longest, if any."""
        waiting = self._waiting.get(key)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[key]
            if not turn.done():  # a cancelled request has no use for it
                wake(turn, None)
                return
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
