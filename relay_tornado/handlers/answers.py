"""A client's answers that are being stored: those that come in a row at the same time, so that they share a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from relay_tornado.low_memory import try_log
from relay_tornado.protocol import Effects, Respond

MOST: Final = 64
"""The most answers of one client that are being stored."""

_log = structlog.get_logger(__name__)


class Answers:
    """Each answer has a task, which stores it and tells its outcome after those of the answers before it."""

    __slots__ = ("_fail", "_most_bytes", "_sizes", "_store", "_tell", "last")

    def __init__(
        self,
        store: Callable[[Respond], Awaitable[Effects]],
        tell: Callable[[Effects], Awaitable[None]],
        fail: Callable[[], None],
        most_bytes: int,
    ) -> None:
        """`store` returns the effects that `tell` performs; `fail` ends the connection if either raises an error.
        `most_bytes`: what the messages may have in all."""
        self._store = store
        self._tell = tell
        self._fail = fail
        self._most_bytes = most_bytes
        self._sizes: dict[tuple[str, int], int] = {}
        self.last: asyncio.Task[None] | None = None
        """Ends, without an error, once all are told; None if there are none."""

    def has_room(self, size: int) -> bool:
        """Whether an answer of this size, in bytes, may be stored beside the others."""
        return len(self._sizes) < MOST and sum(self._sizes.values()) + size <= self._most_bytes

    def concerns(self, answer: Respond) -> bool:
        """Whether one to the same event is being stored, so that this has to wait: it is the first that counts."""
        return _event(answer) in self._sizes

    def take(self, answer: Respond, size: int) -> None:
        """Starts to store an answer for which there is room, or the first."""
        self._sizes[_event(answer)] = size
        self.last = asyncio.get_running_loop().create_task(self._work(answer, self.last), name="relay-answer")

    async def _work(self, answer: Respond, before: asyncio.Task[None] | None) -> None:
        try:
            effects = await self._store(answer)
            if before is not None:
                await before
            await self._tell(effects)
        except Exception:
            self._fail()
            try_log(_log.exception, "respond_failed")
        finally:
            del self._sizes[_event(answer)]
            if not self._sizes:
                self.last = None


def _event(answer: Respond) -> tuple[str, int]:
    return answer.request.id.epoch, answer.request.id.seq
