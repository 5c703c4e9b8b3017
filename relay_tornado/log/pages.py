"""Reads older events from SQLite, in aligned blocks, through a bounded cache.

A block is 256 aligned seqs, or the largest of 64, 16, 4 or 1 aligned seqs whose events fit in 1 MiB. So each stretch of
a log is read once, however many clients come back at the same time. Equal reads in flight are shared.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import accumulate, takewhile
from typing import TypeAlias, cast

from relay_tornado.log import rows
from relay_tornado.log.state import LogState
from relay_tornado.log.tail import EVENT_OVERHEAD
from relay_tornado.low_memory import RETRY_DELAY
from relay_tornado.model import MIB, Event

LEVELS = (256, 64, 16, 4, 1)
BLOCK_BYTES = 1 * MIB

_Key: TypeAlias = tuple[int, int, int]  # log, level, number at that level


class Block:
    """The events `start` to `end` of a log, with None for each that is missing, damaged or one of the `stubs`."""

    __slots__ = ("end", "events", "level", "start", "stubs", "sums", "whole")

    def __init__(
        self, start: int, events: list[Event | None], sizes: list[int], level: int, stubs: frozenset[int] = frozenset()
    ) -> None:
        self.start = start
        self.end = start + len(events) - 1
        self.level = level
        self.events = events
        self.stubs = stubs
        self.whole = None not in events
        self.sums = list(accumulate(sizes, initial=0))

    @property
    def cost(self) -> int:
        """Bytes in memory."""
        return self.sums[-1] + EVENT_OVERHEAD * len(self.events)

    def read(self, after: int, head: int, limit: int, max_bytes: int) -> list[Event]:
        """Events after + 1, …, at least one, none beyond `head`. The block must be `whole`."""
        return cast("list[Event]", self._slice(after, head, limit, max_bytes))

    def good(self, after: int, head: int, limit: int, max_bytes: int) -> list[Event]:
        """As `read`, of any block, up to the first event that is missing or damaged."""
        found = self._slice(after, head, limit, max_bytes)
        return [event for event in takewhile(lambda event: event is not None, found) if event is not None]

    def _slice(self, after: int, head: int, limit: int, max_bytes: int) -> list[Event | None]:
        index = after + 1 - self.start
        stop = min(index + limit, head - self.start + 1, len(self.events))
        sums = self.sums
        if sums[stop] - sums[index] > max_bytes:
            most = sums[index] + max_bytes
            stop = next((i for i in range(index + 1, stop) if sums[i + 1] > most), stop)
        return self.events[index:stop]


class Pages:
    """The cache."""

    def __init__(self, budget: int, read: Callable[[Callable[[sqlite3.Connection], Block]], Awaitable[Block]]) -> None:
        """`read` runs a job as `Database.read` does, and raises only Unavailable."""
        self._budget = budget
        self._read = read
        self.used = 0
        """Bytes in use."""
        self._blocks: OrderedDict[_Key, Block] = OrderedDict()
        self._levels: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._coming: dict[tuple[int, _Key], asyncio.Task[Block]] = {}
        """The reads in flight, by the number of `forget` calls before each, and by key."""
        self._forgotten = 0

    def peek(self, state: LogState, seq: int) -> Block | None:
        """The block with this seq, if it is in memory."""
        number = seq - 1
        for level in LEVELS:
            key = (state.key, level, number // level)
            block = self._blocks.get(key)
            if block is not None and block.start <= seq <= block.end:
                self._blocks.move_to_end(key)
                return block
        return None

    async def load(self, state: LogState, seq: int) -> Block:
        """The block with this seq (between the log's first and head), from memory or from the file.

        The result may lack the seq: after a trim, or if a shared read returned a smaller block at another place.
        Then the caller tries again. Raises Unavailable.
        """
        while True:
            block = self.peek(state, seq)
            if block is not None:
                return block
            level = self._levels.get((state.key, (seq - 1) // LEVELS[0]), LEVELS[0])
            key, times = (state.key, level, (seq - 1) // level), self._forgotten
            task = self._coming.get((times, key))
            if task is not None and task.done():
                # Its callback comes only later in this turn of the loop.
                self._arrived(times, key, state, task)
                block = self.peek(state, seq)
                if block is not None:
                    return block
                task = None
            if task is None:
                task = asyncio.get_running_loop().create_task(self._fetch(key, state, seq))
                self._coming[times, key] = task
                task.add_done_callback(partial(self._arrived, times, key, state))
            while not task.done():
                # Without memory, the wake-up may fail, hence the timeout. A cancelled caller leaves the read to the
                # others.
                await asyncio.wait((task,), timeout=RETRY_DELAY)
            block = task.result()
            if times == self._forgotten or state.gone or seq > state.head:
                return block

    async def _fetch(self, key: _Key, state: LogState, seq: int) -> Block:
        first, head, epochs, log, asked = state.first, state.head, state.epochs, state.key, key[1]

        def job(raw: sqlite3.Connection) -> Block:
            place, found = seq, rows.Found([], [])
            for level in LEVELS[LEVELS.index(asked) :]:
                start = max((seq - 1) // level * level + 1, first)
                end = min((seq - 1) // level * level + level, head)
                if not place <= start <= end < place + len(found.events):
                    place, found = start, rows.select(raw, log, start, end, epochs, BLOCK_BYTES)
                if end < place + len(found.events):
                    part = slice(start - place, end - place + 1)
                    return Block(start, found.events[part], found.sizes[part], level, found.stubs)
            raise AssertionError("the last level holds one event")

        return await self._read(job)

    def _arrived(self, times: int, key: _Key, state: LogState, task: asyncio.Task[Block]) -> None:
        if self._coming.get((times, key)) is not task:
            return
        del self._coming[times, key]
        if task.cancelled() or task.exception() is not None or state.gone or times != self._forgotten:
            return
        block = task.result()
        log, number = state.key, (block.start - 1) // LEVELS[0]
        if block.level < LEVELS[0]:
            self._levels[log, number] = block.level
            if len(self._levels) > 4096:
                self._levels.popitem(last=False)
        if block.events and block.whole and block.cost <= 2 * BLOCK_BYTES:
            self._put((log, block.level, (block.start - 1) // block.level), block)

    def _put(self, key: _Key, block: Block) -> None:
        old = self._blocks.pop(key, None)
        if old is not None:
            self.used -= old.cost
        self._blocks[key] = block
        self.used += block.cost
        while self.used > self._budget:
            self.used -= self._blocks.popitem(last=False)[1].cost

    def forget(self, log: int) -> None:
        """Drops all blocks of a log. Reads in flight are not kept: they may hold what the log has lost."""
        self._forgotten += 1
        for key in [key for key in self._blocks if key[0] == log]:
            self.used -= self._blocks.pop(key).cost

    def trim(self, log: int, first: int) -> None:
        """Drops a log's blocks that are completely below `first`."""
        for key in [key for key, block in self._blocks.items() if key[0] == log and block.end < first]:
            self.used -= self._blocks.pop(key).cost

    async def close(self) -> None:
        """Waits for the reads in flight."""
        while self._coming:
            await asyncio.wait(list(self._coming.values()))
