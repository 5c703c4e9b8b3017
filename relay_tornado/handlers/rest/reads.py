"""How many large answers, as pages of events, one token has at once. Each may take 16 MiB and a tenth of a second, and
stays in memory until its client has read it: a client that asks for thousands, or reads none, waits for itself alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from relay_tornado.errors import Overloaded
from relay_tornado.low_memory import wake

AT_ONCE: Final = 4
WAITING: Final = 1_000
"""Requests of one token that may wait for their turn; over it 503."""


class Reads:
    """By tokens' keys. Who has entered leaves once the answer has left."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def enter(self, key: str) -> bool:
        """Returns when it is one's turn, first come, first served: whether one had to wait. Raises Overloaded."""
        running = self._running.get(key, 0)
        if running < AT_ONCE:
            self._running[key] = running + 1
            return False
        waiting = self._waiting.setdefault(key, deque())
        if len(waiting) >= WAITING:
            raise Overloaded(f"{WAITING} requests with this token wait already: send this one again later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        await turn
        return True

    def leave(self, key: str) -> None:
        """Whoever waits longest has the place from now on."""
        waiting = self._waiting.get(key)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[key]
            if not turn.done():  # who was cancelled has no use for it
                wake(turn, None)
                return
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
