"""Going through thousands of things in memory piece by piece, so that others have their turn of the loop between."""

from __future__ import annotations

import asyncio
from typing import Final

PIECE_SIZE: Final = 64
"""Things of a piece, which takes a millisecond or two: each takes 10 to 30 µs, as all of a bucket's document."""


class Pieces:
    """Counts what one who goes through many is done with."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done = 0

    async def done(self, count: int = 1) -> None:
        """So many more are. Lets the loop go round behind each piece."""
        self._done += count
        if self._done >= PIECE_SIZE:
            self._done = 0
            await asyncio.sleep(0)
