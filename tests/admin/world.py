"""An administration with a clock that a test moves, and what is below it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.log.consumers import Consumers
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.results import Results
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.log.sqlite_results import SqliteResults
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
    results: Results
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        def clock() -> float:
            return self.now

        ledgers = Ledgers(self.consumers, self.log)
        self.logs = Logs(self.log, self.results, self.registry, clock=clock)
        self.administration = Administration(self.log, self.registry, self.settings, ledgers, self.logs, clock=clock)

    async def fill(self, bucket_id: str, count: int, body: bytes = b"x") -> None:
        """Appends so many events with this body."""
        for _ in range(count):
            await self.log.append(bucket_id, event(body))


OpenWorld: TypeAlias = Callable[..., AbstractAsyncContextManager[World]]

W = TypeVar("W", bound=World)


@asynccontextmanager
async def memory_world(folder: Path, kind: type[W] = World, **settings: Any) -> AsyncIterator[W]:  # type: ignore[assignment]
    """A world of this kind that lives in memory, with these settings."""
    log = MemoryEventLog()
    chosen = replace(Settings(), data=folder, **settings)
    yield kind(log, MemoryRegistry(), chosen, MemoryConsumers(log), MemoryResults(log))
    await log.close()


@asynccontextmanager
async def sqlite_world(folder: Path, kind: type[W] = World, **settings: Any) -> AsyncIterator[W]:  # type: ignore[assignment]
    """A world of this kind in a file, with these settings."""
    chosen = replace(Settings(), data=folder, **settings)
    database = await Database.open(chosen)
    try:
        log = await SqliteEventLog.open(database, chosen)
        consumers, results = SqliteConsumers(database), SqliteResults(database, chosen)
        yield kind(log, await SqliteRegistry.open(database), chosen, consumers, results)
        await consumers.close()
        await results.close()
        await log.close()
    finally:
        await database.close()


def event(body: bytes = b"x") -> NewEvent:
    """A webhook of which only the body matters."""
    return NewEvent("input", "POST", b"", b"", b"", body, "192.0.2.1")


async def positions(world: World, key: str) -> dict[str, int]:
    """By bucket's name, where the consumers of a durable token are."""
    names = {bucket.id: bucket.name for bucket in world.administration.list_buckets()}
    found = [each for each in await world.consumers.list() if each.key.kind == "token" and each.key.name == key]
    assert all(each.terms.receipt for each in found)
    return {names[each.key.bucket_id]: each.floor for each in found}
