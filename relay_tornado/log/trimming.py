"""Removes events and their results from a log on SQLite, in small steps between which appends continue.

A dropped log is gone at once, and its rows are removed in the background. Nothing is removed while that would only use
up the disk's reserve, which is kept for urgent writes (`Database.squeezed`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import structlog

from relay_tornado.counters import Counters
from relay_tornado.errors import RelayError
from relay_tornado.log import consumer_rows, reclaim, size_check
from relay_tornado.log.pages import Pages
from relay_tornado.log.state import LogState, age_limit, excess_bytes, keep_from_count
from relay_tornado.log.tail import Tail
from relay_tornado.low_memory import Lock as LoopLock
from relay_tornado.model import Retention
from relay_tornado.storage.database import Database

T = TypeVar("T")

_Look: TypeAlias = Callable[[sqlite3.Connection], bool]

_AGAIN = 60.0
"""Seconds until the removal of rows is tried again after it failed or was postponed."""

_log = structlog.get_logger(__name__)


class Trimming:
    """Removes events from the file, and from `tail` and `pages`."""

    def __init__(self, database: Database, tail: Tail, pages: Pages, counters: Counters) -> None:
        self._database = database
        self._tail = tail
        self._pages = pages
        self._counters = counters
        self._purges: dict[int, asyncio.Task[None]] = {}
        self._purging = LoopLock()
        """One step at a time: whoever has something to commit would wait for one of every purge."""
        self._closed = False

    async def trim(self, state: LogState, keep: Retention, floor: int | None) -> int:
        """See `log.contract.EventLog.trim`."""
        oldest = await self._oldest_by_age(state, keep)
        keep = await size_check.without_missing(state, keep, self._read)
        left = 0
        while not state.gone and (
            state.first < max(oldest, keep_from_count(state.head, keep)) or excess_bytes(state.bytes, keep)
        ):
            if not state.bytes_checked and size_check.is_due(state, keep):
                await self._check_bytes(state)
            if self._database.squeezed:
                break
            step = await self._database.write(
                lambda raw: reclaim.delete_oldest(raw, state.key, keep, oldest, floor),
                lambda step: self._trimmed(state, step),
            )
            if step is None:
                break
            left += step.events
            if step.done:
                break
        key, now = state.key, time.time()
        await self._forget(
            lambda raw: reclaim.has_old_deliveries(raw, key), lambda raw: reclaim.forget_deliveries(raw, key)
        )
        await self._forget(
            lambda raw: consumer_rows.has_old(raw, key), lambda raw: consumer_rows.forget_old(raw, key, now)
        )
        return left

    async def _oldest_by_age(self, state: LogState, keep: Retention) -> int:
        limit, key, first, head = age_limit(keep, time.time()), state.key, state.first, state.head
        if limit is None or first > head:
            return 1
        return await self._read(lambda raw: reclaim.seek(raw, key, first, head, limit)) + 1

    async def _check_bytes(self, state: LogState) -> None:
        """Corrects the log's `bytes`, once in a process, before much is removed by size."""
        difference = await size_check.difference(state, self._read)

        def corrected(_: object) -> None:
            state.bytes += difference

        if difference:
            sql = "UPDATE log SET bytes = bytes + ? WHERE id = ?"
            await self._database.write(lambda raw: raw.execute(sql, (difference, state.key)), corrected)
        state.bytes_checked = True

    def _trimmed(self, state: LogState, step: reclaim.Step | None) -> None:
        if step is not None:
            state.first = step.first
            state.bytes -= step.bytes
            self._counters.retention_events += step.events
            self._tail.trim(state.recent, step.first)
            self._pages.trim(state.key, step.first)

    async def forget_repeats(self, state: LogState) -> None:
        """See `log.contract.EventLog.forget_repeats`."""
        key, now = state.key, time.time()
        await self._forget(
            lambda raw: reclaim.has_old_digests(raw, key, now), lambda raw: reclaim.forget_digests(raw, key, now)
        )

    async def _forget(self, old: _Look, forget: _Look) -> None:
        """If something is `old`, has it removed in steps, until `forget` returns that nothing is left."""
        if await self._read(old):
            while not self._database.squeezed and not await self._database.write(forget):
                pass

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(job, "the log")

    def purge(self, key: int) -> None:
        """Deletes the rows of a dropped log in the background. What is left at a stop is deleted after the next
        start."""
        if key in self._purges or self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._delete_dropped(key), name=f"relay-purge-{key}")
        self._purges[key] = task
        task.add_done_callback(lambda done: self._purges.pop(key, None))

    async def _delete_dropped(self, key: int) -> None:
        while True:
            try:
                while not self._database.squeezed:
                    async with self._purging:
                        done = await self._database.write(lambda raw: reclaim.delete_dropped(raw, key))
                    if done:
                        return
            except (RelayError, sqlite3.Error) as error:
                _log.warning("purge_waits", error=str(error))
            await asyncio.sleep(_AGAIN)

    async def close(self) -> None:
        """Ends all purges."""
        self._closed = True
        purges = list(self._purges.values())
        for task in purges:
            task.cancel()
        if purges:
            await asyncio.wait(purges)
