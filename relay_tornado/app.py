"""The composition root: a relay from its settings, and the administration of a data directory that no relay serves.

Nothing else names a concrete engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from relay_tornado import __version__
from relay_tornado.admin.administration import Administration
from relay_tornado.handlers.control import ControlServer
from relay_tornado.handlers.site import Site
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Engine:
    database: Database
    log: SqliteEventLog
    registry: SqliteRegistry
    administration: Administration


@asynccontextmanager
async def _open_engine(settings: Settings) -> AsyncIterator[_Engine]:
    async with AsyncExitStack() as stack:
        database = await Database.open(settings)
        stack.push_async_callback(database.close)
        log = await SqliteEventLog.open(database, settings)
        stack.push_async_callback(log.close)
        registry = await SqliteRegistry.open(database)
        administration = Administration(log, registry, settings)
        await administration.reconcile()
        yield _Engine(database, log, registry, administration)


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """The administration of a data directory, under its lock. Raises StartupError, Locked where a relay serves it."""
    async with _open_engine(settings) as engine:
        yield engine.administration


class Relay:
    """One relay: `await start()`, then `port` and `url` tell where it is; `await stop()` drains it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = AsyncExitStack()
        self._administration: Administration | None = None
        self._site: Site | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._site is not None, "the relay is not started"
        return self._site.port

    @property
    def address(self) -> str:
        """The URL of the address that it listens on."""
        host = self.settings.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL under which senders reach it: the public one where it is set."""
        return (self.settings.public_url or self.address).rstrip("/")

    @property
    def administration(self) -> Administration:
        assert self._administration is not None, "the relay is not started"
        return self._administration

    async def start(self) -> None:
        """Opens the data directory and listens. Where that fails, everything that was opened is closed again.

        Raises StartupError.
        """
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(_open_engine(self.settings))
            self._administration = engine.administration
            housekeeping = asyncio.create_task(engine.administration.run_housekeeping())
            stack.push_async_callback(_end, housekeeping)
            control = ControlServer(engine.administration, self.settings.data)
            site = Site(engine.log, engine.registry, engine.database, self.settings)
            stack.push_async_callback(_together, site.stop, control.close)
            engine.database.owner(await control.start())
            site.start()
            self._site = site
            engine.administration.url = self.url
            self._stack = stack.pop_all()
        _log.info("started", version=__version__, address=self.address, data=str(self.settings.data))

    async def stop(self) -> None:
        """Accepts nothing new, lets accepted requests finish (within `drain_timeout`), tells sockets to come back
        (1001), commits what is queued, and closes everything. May be repeated."""
        await self._stack.aclose()
        _log.info("stopped")


async def _together(*ends: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(end() for end in ends))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
