"""An administration with a clock that a test moves, and what is below it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.log.consumers import Consumers
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import NewEvent
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults


@dataclass
class World:
    """What stands, and the time that the administration believes it is."""

    log: EventLog
    registry: Registry
    settings: Settings
    consumers: Consumers
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        ledgers = Ledgers(self.consumers, self.log)
        logs = Logs(self.log, MemoryResults(self.log), self.registry)
        self.administration = Administration(
            self.log, self.registry, self.settings, ledgers, logs, clock=lambda: self.now
        )


OpenWorld: TypeAlias = Callable[..., AbstractAsyncContextManager[World]]


@asynccontextmanager
async def memory_world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """A world that lives in memory, with these settings."""
    log = MemoryEventLog()
    chosen = replace(Settings(), data=folder, **settings)
    yield World(log, MemoryRegistry(), chosen, MemoryConsumers(log))
    await log.close()


@asynccontextmanager
async def sqlite_world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """A world in a file, with these settings."""
    chosen = replace(Settings(), data=folder, **settings)
    database = await Database.open(chosen)
    try:
        log = await SqliteEventLog.open(database, chosen)
        consumers = SqliteConsumers(database)
        yield World(log, await SqliteRegistry.open(database), chosen, consumers)
        await consumers.close()
        await log.close()
    finally:
        await database.close()


def event(body: bytes = b"x") -> NewEvent:
    """A webhook of which only the body matters."""
    return NewEvent("input", "POST", b"", b"", b"", body, "192.0.2.1")
