"""Fills a data directory past the relay, which must not run on it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import msgspec

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.consumer_changes import Changes, Dead, Parked
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Bucket, Gap, NewEvent
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.log.memory_consumers import MemoryConsumers

LOOSE = (
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_schema SET sql = replace(replace(sql, ' STRICT', ''), ' NOT NULL', '')",
    "PRAGMA writable_schema = RESET",
)
"""Changes after which a column takes anything, as damage does."""

ODD = b"\x00\xff\xfe caf\xe9 \r\n"


def event(bucket: Bucket, number: int, size: int = 100, **marks: object) -> NewEvent:
    """The event with this number: its body begins with it, and every third one is no UTF-8."""
    body = b"%d " % number + (ODD if number % 3 == 0 else "schön ".encode()) + b"x" * size
    head = b"Host: relay.test\r\nX-Odd: \xe9\r\n" if number % 2 else b"Host: relay.test\r\n"
    made = NewEvent(bucket.inputs[0].id, "POST", b"/p%C3", b"q=\xff", head, body, "192.0.2.1")
    return msgspec.structs.replace(made, **marks)


def quiet(what: str, done: int, total: int) -> None:
    """Takes the progress of an operation, and shows none."""


@asynccontextmanager
async def opened(database: Database, settings: Settings) -> AsyncIterator[tuple[SqliteEventLog, Administration]]:
    """The log of an open database, and who administers its buckets."""
    log = await SqliteEventLog.open(database, settings)
    registry = await SqliteRegistry.open(database)
    logs = Logs(log, SqliteResults(database, settings), registry)
    administration = Administration(log, registry, settings, Ledgers(MemoryConsumers(log), log), logs)
    await administration.reconcile()
    yield log, administration
    await log.close()


def fill(data: Path, name: str, events: int, size: int = 100, **marks: object) -> Bucket:
    """Appends so many events to the bucket, made where it is missing, in one run of the relay's log."""

    async def run() -> Bucket:
        settings = replace(Settings(), data=data)
        database = await Database.open(settings)
        try:
            async with opened(database, settings) as (log, administration):
                named = [bucket for bucket in administration.list_buckets() if bucket.name == name]
                bucket = named[0] if named else await administration.create_bucket(name)
                await asyncio.gather(
                    *(log.append(bucket.id, event(bucket, number, size, **marks)) for number in range(events))
                )
            return bucket
        finally:
            await database.close()

    return asyncio.run(run())


def consume(data: Path, bucket: Bucket) -> None:
    """A worker that is done with 1 to 4 and 6, tries 2 and 6 again, gave up 3, and has 6 out."""

    async def run() -> None:
        database = await Database.open(replace(Settings(), data=data))
        try:
            store = SqliteConsumers(database)
            key = Key(bucket.id, "client", "worker")
            await store.create(key, 0, Terms(), 1000.0)
            parked = {2: Parked(1, 5000.0, 1000.0), 6: Parked(2, 5000.0, 1000.0)}
            dead = {3: Dead(5, 2000.0, 1000.0, "max_deliver")}
            store.save(key, lambda: Changes(4, ((6, 6),), False, parked, set(), dead, tried=((6, 6),)))
            store.met(key, Gap("retention", 1, 1), 1500.0)
            await store.close()
        finally:
            await database.close()

    asyncio.run(run())


def rows(path: Path, sql: str, *values: object) -> Sequence[tuple[object, ...]]:
    """What a query finds in a file."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as raw:
        return raw.execute(sql, values).fetchall()


def change(path: Path, *statements: str) -> None:
    """Changes a file behind the relay's back, past the triggers that forbid it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            raw.execute(statement)
