"""A whole site on a port of its own, over a log in memory or over SQLite files, with one bucket in it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay_tornado import errors
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.counters import Counters
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.handlers.listener import DIRECT, Entrance
from relay_tornado.handlers.site import Site
from relay_tornado.ids import hash_secret, new_epoch, new_secret, new_uuid
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.results import Results
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_results import SqliteResults
from relay_tornado.model import Appended, Bucket, Event, Input, NewEvent, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.memory import MemoryRegistry
from relay_tornado.registry.routes import Routes
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.series.series import Series
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.witness import Loss
from tests.log.memory import MemoryEventLog
from tests.log.memory_consumers import MemoryConsumers
from tests.log.memory_results import MemoryResults

INPUT = Input(id="in-1", name="Default public endpoint", created_at=0, updated_at=0)
BUCKET = Bucket(id="b-1", name="orders", created_at=0, updated_at=0, inputs=(INPUT,))
URL = b"/v1/webhooks/in-1"
CHUNKED = b"POST %b HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n" % URL
"""The head of a webhook in chunks."""

transport: str = Settings().transport
"""The setting, where a test does not give it; the fixture of that name changes it."""


class HeldLog(MemoryEventLog):
    """A log whose appends wait until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Future[Appended]] = []
        self.error: errors.RelayError | None = None

    def append(self, bucket_id: str, event: NewEvent) -> asyncio.Future[Appended]:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            self.held.append(future)
        return future

    def release(self) -> None:
        for future in self.held:
            if not future.done():
                future.set_result(Appended("k3v9x1q7m2ab", 1))
        self.held.clear()


@dataclass
class MemoryStore:
    """What readiness is read from, where there is no database."""

    problem: str = ""
    loss: Loss | None = None


@dataclass
class Edge:
    """What a test holds of a running site."""

    site: Site
    log: EventLog
    registry: Registry
    store: Any
    counters: Counters

    @property
    def port(self) -> int:
        return self.site.port

    async def events(self) -> Sequence[Event]:
        return await self.log.read(BUCKET.id, 0, 10_000, 1 << 40)

    async def token(self, **fields: Any) -> tuple[str, str]:
        """A new token's key and secret."""
        key, secret = new_uuid(), new_secret()
        await self.registry.put("token", key, Token(key, hash_secret(secret), 0, **fields))
        return key, secret

    async def change(self, **changes: Any) -> None:
        """Changes the bucket; `input` changes its input."""
        if "input" in changes:
            changes["inputs"] = (dataclasses.replace(INPUT, **changes.pop("input")),)
        await self.registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, **changes))


@asynccontextmanager
async def edge(
    folder: Path | None = None, log: EventLog | None = None, entrance: Entrance = DIRECT, **settings: Any
) -> AsyncIterator[Edge]:
    """A site on the SQLite files in `folder`, or in memory where there is none (over `log`, where that is given)."""
    settings.setdefault("port", 0)
    settings.setdefault("transport", transport)
    configuration = dataclasses.replace(Settings(), **settings)
    registry: Registry
    store: Any
    counters = Counters()
    async with AsyncExitStack() as stack:
        if folder is None:
            registry, store = MemoryRegistry(), MemoryStore()
            log = MemoryEventLog() if log is None else log
            results: Results = MemoryResults(log)
            stack.push_async_callback(log.close)
        else:
            configuration = dataclasses.replace(configuration, data=folder)
            store = await Database.open(configuration)
            stack.push_async_callback(store.close)
            log = await SqliteEventLog.open(store, configuration)
            stack.push_async_callback(log.close)
            results = SqliteResults(store, configuration)
            stack.push_async_callback(results.close)
            registry = await SqliteRegistry.open(store)
        now = time.time()
        await log.create(BUCKET.id, new_epoch())
        await registry.put("bucket", BUCKET.id, dataclasses.replace(BUCKET, created_at=now, updated_at=now))
        ledgers = Ledgers(MemoryConsumers(log), log)
        administration = Administration(log, registry, configuration, ledgers, Logs(log, results, registry))
        administration.instance = "i-1"
        deliveries = Deliveries(log, registry, configuration, ledgers, counters)
        responses = Responses(results, log, registry, deliveries)
        disable = administration.disable_output
        routes = Routes(registry)
        forwarding = Forwarding(log, registry, routes, ledgers, responses, configuration, disable, counters=counters)
        stack.push_async_callback(forwarding.stop)
        series = Series(configuration.data, counters)
        site = Site(
            log,
            registry,
            routes,
            store,
            configuration,
            administration,
            deliveries,
            responses,
            forwarding,
            series,
            counters=counters,
            entrance=entrance,
        )
        stack.push_async_callback(site.stop)
        site.start()
        yield Edge(site, log, registry, store, counters)
