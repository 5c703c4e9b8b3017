"""Both engines behind one handle, so that one suite runs over them: opened again, and robbed of their last events."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay_tornado.errors import Unavailable
from relay_tornado.ids import new_epoch
from relay_tornado.log.contract import EventLog
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import Appended, Event, NewEvent, Result
from relay_tornado.settings import Settings
from relay_tornado.storage.connection import Factory
from relay_tornado.storage.database import Database
from tests.log.memory import MemoryEventLog
from tests.storage.faults import Faults, once
from tests.waiting import until

MANY = 1 << 40

_DEFAULT = NewEvent("input-1", "POST", b"/a", b"x=1", b"Host: h\r\n", b"body", "127.0.0.1")


def event(body: bytes = b"body", **changes: Any) -> NewEvent:
    """A webhook with this body."""
    return msgspec.structs.replace(_DEFAULT, body=body, **changes)


def stored(seq: int, size: int = 100) -> Event:
    """An event of a log, with a body of this size and nothing else."""
    return Event(seq, "e", 0.0, "i", "POST", b"", b"", b"", b"x" * size, "::1")


def result(status_code: int = 200, **changes: Any) -> Result:
    """What a client answered."""
    parts = {
        "status": "sent",
        "headers": {"X": ["1", "2"]},
        "body": b"\x00ok",
        "duration_ms": 5,
        "retries": 1,
        "at": 9.5,
    }
    return Result(status_code=status_code, **{**parts, **changes})


class MemoryWorld:
    """The engine in memory."""

    def __init__(self) -> None:
        self._log = MemoryEventLog(lambda: time.time())  # noqa: PLW0108 - a test may set another one

    @property
    def log(self) -> EventLog:
        return self._log

    async def reopen(self) -> None:
        self._log.reopen()

    async def lose(self, bucket_id: str, count: int) -> None:
        self._log.lose(bucket_id, count)

    async def close(self) -> None:
        await self._log.close()


@dataclass
class SqliteWorld:
    """The engine on SQLite, in a directory of its own."""

    settings: Settings
    factory: Factory
    database: Database
    log: SqliteEventLog

    @classmethod
    async def open(cls, path: Path, factory: Factory = sqlite3.Connection, **changes: Any) -> SqliteWorld:
        settings = Settings(data=path / "data", **changes)
        database = await Database.open(settings, factory=factory)
        return cls(settings, factory, database, await SqliteEventLog.open(database, settings))

    async def close(self) -> None:
        await self.log.close()
        await self.database.close()

    async def reopen(self) -> None:
        await self.close()
        self.database = await Database.open(self.settings, factory=self.factory)
        self.log = await SqliteEventLog.open(self.database, self.settings)

    async def lose(self, bucket_id: str, count: int) -> None:
        """Leaves the file as an older state of it would be: the last events and what came with them never were."""
        await self.close()
        with behind(self) as raw:
            key, first, head = raw.execute(
                "SELECT id, first, head FROM log WHERE bucket = ? AND dropped = 0", (bucket_id,)
            ).fetchone()
            head = max(head - count, first - 1)
            raw.execute("DELETE FROM event WHERE log = ? AND seq > ?", (key, head))
            raw.execute("DELETE FROM dedupe WHERE log = ? AND seq > ?", (key, head))
            raw.execute("DELETE FROM delivery WHERE log = ? AND seq > ?", (key, head))
            raw.execute("UPDATE consumer SET floor = min(floor, ?), done = '[]' WHERE log = ?", (head, key))
            for table in ("parked", "dead_letter"):
                consumers = "SELECT id FROM consumer WHERE log = ?"
                raw.execute(f"DELETE FROM {table} WHERE consumer IN ({consumers}) AND seq > ?", (key, head))
            raw.execute(
                "DELETE FROM epoch WHERE log = ? AND from_seq > ?"
                " AND rowid <> (SELECT rowid FROM epoch WHERE log = ? ORDER BY from_seq, rowid LIMIT 1)",
                (key, head, key),
            )
            raw.execute(
                "UPDATE log SET head = ?, bytes = (SELECT coalesce(sum(size), 0) FROM event WHERE log = id)"
                " WHERE id = ?",
                (head, key),
            )
        await self.reopen()


World = MemoryWorld | SqliteWorld


@contextlib.contextmanager
def behind(world: SqliteWorld) -> Iterator[sqlite3.Connection]:
    """The file, changed behind the relay's back and against its triggers."""
    with contextlib.closing(sqlite3.connect(world.database.path, isolation_level=None)) as raw:
        triggers = raw.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        yield raw
        for _, sql in triggers:
            raw.execute(sql)


def spoil_leaf(world: SqliteWorld, content: bytes) -> None:
    """Makes the third page of a table that holds this content malformed. The world is closed."""
    path = world.database.path
    data = bytearray(path.read_bytes())
    pages = range(0, len(data), 4096)
    leaves = [page for page in pages if data[page] == 13 and content in data[page : page + 4096]]  # of a table
    data[leaves[2] : leaves[2] + 4096] = b"\xff" * 4096
    path.write_bytes(data)


async def open_log(settings: Settings) -> tuple[Database, SqliteEventLog]:
    """A database and the log in it, and nothing else. Whoever calls closes the log first."""
    database = await Database.open(settings)
    return database, await SqliteEventLog.open(database, settings)


async def make(log: EventLog, bucket_id: str = "b", *, events: int = 0, size: int = 4) -> str:
    """A log with its first epoch, which is returned, and perhaps with events, as `fill` makes them."""
    epoch = new_epoch()
    await log.create(bucket_id, epoch)
    await fill(log, events, bucket_id, size)
    return epoch


async def fill(log: EventLog, count: int, bucket_id: str = "b", size: int = 4) -> list[Appended]:
    """Appends so many events at once; event n has n in its body."""
    return list(await asyncio.gather(*(log.append(bucket_id, event(b"%0*d" % (size, n))) for n in range(1, count + 1))))


async def read_all(log: EventLog, bucket_id: str = "b", after: int = 0, page: int = 256) -> list[Event]:
    """Every event after a seq."""
    found: list[Event] = []
    while events := await log.read(bucket_id, after, page, MANY):
        found += events
        after = events[-1].seq
    return found


async def restart(disk: SqliteWorld, *damage: str) -> None:
    """Has the file be damaged by these statements between two starts."""
    await disk.close()
    with behind(disk) as raw:
        for sql in damage:
            raw.execute(sql)
    await disk.reopen()


async def settled(world: SqliteWorld) -> None:
    """Waits until the writer is past an error."""
    await until(lambda: not world.database.problem)
    await world.database.write(lambda raw: None)


async def open_again(world: SqliteWorld, faults: Faults) -> None:
    """Has an append fail, after which the file is opened again."""
    faults.before = once("INSERT OR FAIL INTO event", sqlite3.SQLITE_IOERR)
    with pytest.raises(Unavailable):
        await world.log.append("b", event())
    await settled(world)
