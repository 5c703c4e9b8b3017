"""Takes what waits a few at a time, in turns of the event loop, so that thousands at once do not delay senders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from relay_tornado.low_memory import Timer

T = TypeVar("T")


class TurnQueue(Generic[T]):
    """What waits, first come, first served: each turn of the loop takes at most `most`. `left` is how many more this
    turn may take."""

    def __init__(self, most: int, take: Callable[[T], bool]) -> None:
        """`take` returns whether what it takes counts: what has left by now does not."""
        self.waiting: deque[T] = deque()
        self.most = self.left = most
        self._take = take
        self._timer = Timer(self._turn)

    def add(self, one: T) -> None:
        """Has it taken in a later turn of the loop, after those that wait already."""
        self.waiting.append(one)
        self.begin()

    def begin(self) -> None:
        """Has the next turn of the loop begin with those that wait."""
        if self._timer.at is None:
            self._timer.soon()

    def cancel(self) -> None:
        """Takes nothing more, unless it is added. May be repeated."""
        self._timer.cancel()

    def _turn(self) -> None:
        self.left = self.most
        try:
            for _ in range(len(self.waiting)):  # without those that are added meanwhile
                if not self.left:
                    break
                self.left -= self._take(self.waiting.popleft())
        finally:
            # Who comes later in this turn of the loop has what is left of it.
            if self.waiting or self.left < self.most:
                self.begin()
