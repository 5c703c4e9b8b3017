"""Jobs and events for a writer, and what they left."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from relay_tornado.errors import RelayError
from relay_tornado.storage.database import Database
from relay_tornado.storage.work import Work, again

Job = Callable[[sqlite3.Connection], Any]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n"


def put(name: str) -> Callable[[sqlite3.Connection], str]:
    """A job that leaves a row."""

    def job(raw: sqlite3.Connection) -> str:
        raw.execute("PRAGMA defer_foreign_keys = ON")
        raw.execute("INSERT INTO bucket VALUES (?, ?, 1, '{}')", (name, name))
        return name

    return job


def noted(name: str, order: list[str]) -> Callable[[sqlite3.Connection], str]:
    """A job that leaves a row, and notes `run NAME`."""

    def job(raw: sqlite3.Connection) -> str:
        order.append(f"run {name}")
        return put(name)(raw)

    return job


class Events:
    """A database's source: jobs in the place of events, all that wait in one batch."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: list[tuple[Job, asyncio.Future[Any]]] = []
        database.attach(self)

    async def append(self, job: Job) -> Any:
        """The job's result, once it is committed."""
        future = asyncio.get_running_loop().create_future()
        self._queue.append((job, future))
        self._database.notify()
        return await future

    def take(self) -> Work | None:
        taken, self._queue = self._queue, []
        return _Batch(taken) if taken else None

    def waiting(self) -> int:
        return len(self._queue)

    def reject(self, error: RelayError) -> None:
        taken, self._queue = self._queue, []
        _Batch(taken).failed(error)


class _Batch(Work):
    def __init__(self, taken: Sequence[tuple[Job, asyncio.Future[Any]]]) -> None:
        self._taken = taken
        self._results: list[Any] = []

    def run(self, raw: sqlite3.Connection) -> int:
        self._results = [job(raw) for job, _ in self._taken]
        return len(self._taken)

    def committed(self) -> None:
        for (_, future), result in zip(self._taken, self._results, strict=True):
            future.set_result(result)

    def failed(self, error: Exception) -> None:
        for _, future in self._taken:
            future.set_exception(again(error) if isinstance(error, RelayError) else error)


def names(raw: sqlite3.Connection) -> list[str]:
    return [name for (name,) in raw.execute("SELECT name FROM bucket ORDER BY rowid")]


def commits(raw: sqlite3.Connection) -> int:
    return int(raw.execute("SELECT commits FROM meta").fetchone()[0])


def count_for_ever(raw: sqlite3.Connection) -> Any:
    """A read that takes minutes."""
    return raw.execute(ENDLESS).fetchone()
