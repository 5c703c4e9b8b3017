"""What happens in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self


class Turns:
    """Counts the turns of the loop while it is open. `of` has the number of the turn in which each thing happened."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.of: list[int] = []
        self._now = 0

    def __enter__(self) -> Self:
        self._step()
        return self

    def __exit__(self, *_: object) -> None:
        self._next.cancel()

    def _step(self) -> None:
        self._now += 1
        self._next = self.loop.call_soon(self._step)

    def note(self) -> None:
        self.of.append(self._now)

    @property
    def most(self) -> int:
        """How often it happened in one turn at most."""
        return max(Counter(self.of).values())
