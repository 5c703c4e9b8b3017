"""A relay's logs over either engine, with a bucket, and results and events made by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.ioloop import IOLoop

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ephemeral import Ephemeral
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.results import Results
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import NewEvent, Result, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.wire.fields import Document
from tests.contexts import held_open
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults

ROOT = Token("root", "hash", 0.0)

logs_test = pytest.mark.gen_test


@dataclass
class LogsWorld:
    """What stands. `now` is what the service believes the time to be."""

    log: EventLog
    registry: Registry
    results: Results
    settings: Settings
    now: float = 0.0

    def __post_init__(self) -> None:
        ledgers = Ledgers(MemoryConsumers(self.log), self.log)
        self.logs = Logs(self.log, self.results, self.registry, clock=lambda: self.now)
        self.administration = Administration(self.log, self.registry, self.settings, ledgers, self.logs)

    async def bucket(self, name: str = "orders", outputs: int = 0, **options: Any) -> str:
        """Makes a bucket with so many internal outputs, named out-1, …; returns its id."""
        made = await self.administration.create_bucket(name, **options)
        for number in range(1, outputs + 1):
            await self.administration.create_output(name, name=f"out-{number}")
        return made.id

    async def send(self, bucket_id: str, *bodies: bytes, **changes: Any) -> list[str]:
        """Appends events with these bodies; returns their ids."""
        ids = []
        for body in bodies:
            event = NewEvent("input", "POST", b"/x", b"a=1", b"Host: h\r\nX-A: 1\r\n", body, "192.0.2.1", **changes)
            place = await self.log.append(bucket_id, event)
            ids.append(f"{place.epoch}-{place.seq}")
        return ids

    async def answer(self, bucket_id: str, seq: int, output: int = 0, code: int = 200, **changes: Any) -> None:
        """Records a result."""
        result = Result("sent" if code else "failed", code, {"X": ["y"]}, b"\xffok", 12, 1, 5.0)
        await self.results.record(bucket_id, seq, output, msgspec.structs.replace(result, **changes))


@asynccontextmanager
async def memory_logs(folder: Path) -> AsyncIterator[LogsWorld]:
    log = MemoryEventLog()
    yield LogsWorld(log, MemoryRegistry(), MemoryResults(log), replace(Settings(), data=folder))
    await log.close()


@asynccontextmanager
async def sqlite_logs(folder: Path) -> AsyncIterator[LogsWorld]:
    settings = replace(Settings(), data=folder)
    database = await Database.open(settings)
    try:
        log = await SqliteEventLog.open(database, settings)
        results = SqliteResults(database, settings)
        yield LogsWorld(log, await SqliteRegistry.open(database), results, settings)
        await results.close()
        await log.close()
    finally:
        await database.close()


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path, io_loop: IOLoop) -> Iterator[LogsWorld]:
    """Over each kind of engine."""
    yield from held_open(io_loop, (memory_logs if request.param == "memory" else sqlite_logs)(tmp_path / "data"))


def ids(page: Document) -> list[str]:
    return [each["id"] for each in page["data"]]


def forget(log: Any) -> None:
    """All ephemeral content leaves, as it does when it is old."""
    held: Ephemeral = log._ephemeral
    held.close()
