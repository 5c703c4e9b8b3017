"""A queue of received items that is bounded in bytes, with one reader and one writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Intake(Generic[T]):
    """Items with their sizes. `limit` is in bytes; one item always fits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[T, int]] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.size = 0

    def put(self, item: T, size: int) -> None:
        """Adds an item without waiting: the writer awaits `room` before it reads more."""
        self._items.append((item, size))
        self.size += size
        self._ready.set()
        if self.size >= self._limit:
            self._room.clear()

    async def room(self) -> None:
        """Returns once there is room."""
        await self._room.wait()

    @property
    def full(self) -> bool:
        return not self._room.is_set()

    def __len__(self) -> int:
        return len(self._items)

    async def first(self) -> T:
        """The oldest item, which stays until `take`, so that cancelling the reader loses nothing."""
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self._items[0][0]

    def take(self, item: T) -> bool:
        """Removes the oldest item, if it is still this one. Returns False if it was dropped meanwhile."""
        if not self._items or self._items[0][0] is not item:
            return False
        _, size = self._items.popleft()
        self._shrink(size)
        return True

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Removes all items that are unwanted."""
        kept = deque((item, size) for item, size in self._items if not unwanted(item))
        self._shrink(self.size - sum(size for _, size in kept))
        self._items = kept

    def _shrink(self, size: int) -> None:
        self.size -= size
        if self.size < self._limit:
            self._room.set()
