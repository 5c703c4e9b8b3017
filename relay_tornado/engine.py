"""Opens a data directory, and administers one that no relay is using, without a server.

This is the only module that names the concrete engines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.admin.sessions import Sessions
from relay_tornado.counters import Counters
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import BucketId
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.registry.sqlite_uses import SqliteUses
from relay_tornado.search.index import Index
from relay_tornado.settings import Settings
from relay_tornado.steps import Steps
from relay_tornado.storage.database import Database


@dataclass(frozen=True, slots=True)
class Engine:
    """The open parts that store something in relay.db."""

    database: Database
    log: SqliteEventLog
    results: SqliteResults
    ledgers: Ledgers
    registry: SqliteRegistry
    uses: SqliteUses


@asynccontextmanager
async def open_engine(
    settings: Settings, counters: Counters | None = None, steps: Steps | None = None
) -> AsyncIterator[Engine]:
    """Opens a data directory under its lock, and tells `steps` what it does. Raises StartupError, and Locked if another
    process uses it."""
    async with AsyncExitStack() as stack:
        steps = steps or Steps("")
        database = await Database.open(settings, steps=steps)
        stack.push_async_callback(database.close)
        steps.begin("loading logs, buckets and tokens")
        log = await SqliteEventLog.open(database, settings, counters)
        stack.push_async_callback(log.close)
        results = SqliteResults(database, settings)
        stack.push_async_callback(results.close)
        consumers = SqliteConsumers(database)
        stack.push_async_callback(consumers.close)
        ledgers = Ledgers(consumers, log, counters=counters)
        registry = await SqliteRegistry.open(database)
        ledgers.bucket_name = partial(_name, registry)
        uses = await SqliteUses.open(database)
        stack.push_async_callback(uses.write)
        yield Engine(database, log, results, ledgers, registry, uses)


def _name(registry: SqliteRegistry, bucket_id: BucketId) -> str:
    bucket = registry.get("bucket", bucket_id)
    return "" if bucket is None else bucket.name


async def administer(
    engine: Engine, settings: Settings, sessions: Sessions | None = None, index: Index | None = None
) -> Administration:
    """The administration of an open data directory. Brings registry and log in line."""
    logs = Logs(engine.log, engine.results, engine.registry, index)
    administration = Administration(
        engine.log, engine.registry, settings, engine.ledgers, logs, uses=engine.uses, sessions=sessions
    )
    await administration.reconcile()
    return administration


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """Opens the administration of a data directory, under its lock. Raises StartupError, and Locked if a relay uses
    it."""
    async with open_engine(settings) as engine:
        yield await administer(engine, settings)
