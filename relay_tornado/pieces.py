"""Splits long loops over objects in memory into pieces, between which the event loop gets a turn."""

from __future__ import annotations

import asyncio
from typing import Final

PIECE_SIZE: Final = 64
"""Objects in a piece, which takes a millisecond or two: each takes 10 to 30 µs, as for a bucket's whole document."""


class Pieces:
    """Counts the objects that a loop has processed."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done = 0

    async def done(self, count: int = 1) -> None:
        """Counts `count` more objects, and gives the event loop a turn after each piece."""
        self._done += count
        if self._done >= PIECE_SIZE:
            self._done = 0
            await asyncio.sleep(0)
