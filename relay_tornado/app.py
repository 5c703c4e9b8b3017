"""The composition root: a relay from its settings, and the administration of a data directory that no relay serves.

Nothing else names a concrete engine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from relay_tornado import __version__
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.logs import Logs
from relay_tornado.counters import Counters
from relay_tornado.errors import StartupError
from relay_tornado.handlers.control import ControlServer
from relay_tornado.handlers.listener import Entrance
from relay_tornado.handlers.site import Site
from relay_tornado.levels import Gauges
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_deliveries import SqliteDeliveries
from relay_tornado.metrics import Metrics
from relay_tornado.ops.schedule import Backups
from relay_tornado.proxy import ProxyTrust
from relay_tornado.registry.sqlite import SqliteRegistry
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.upkeep import Upkeep
from relay_tornado.tls import Certificate

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Engine:
    database: Database
    log: SqliteEventLog
    deliveries: SqliteDeliveries
    registry: SqliteRegistry
    administration: Administration


@asynccontextmanager
async def _open_engine(settings: Settings, counters: Counters | None = None) -> AsyncIterator[_Engine]:
    async with AsyncExitStack() as stack:
        database = await Database.open(settings)
        stack.push_async_callback(database.close)
        log = await SqliteEventLog.open(database, settings, counters)
        stack.push_async_callback(log.close)
        deliveries = SqliteDeliveries(database, settings)
        stack.push_async_callback(deliveries.close)
        registry = await SqliteRegistry.open(database)
        administration = Administration(log, registry, settings)
        administration.logs = Logs(log, deliveries, registry)
        await administration.reconcile()
        yield _Engine(database, log, deliveries, registry, administration)


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """The administration of a data directory, under its lock. Raises StartupError, Locked where a relay serves it."""
    async with _open_engine(settings) as engine:
        yield engine.administration


class Relay:
    """One relay: `await start()`, then `port` and `url` tell where it is; `await stop()` drains it."""

    def __init__(self, settings: Settings, inherited: Sequence[socket.socket] = ()) -> None:
        """`inherited` are sockets that listen already; the settings' address does not count then."""
        self.settings = settings
        self._inherited = inherited
        self._certificate: Certificate | None = None
        self._stack = AsyncExitStack()
        self._administration: Administration | None = None
        self._site: Site | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._site is not None, "the relay is not started"
        return self._site.port

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics alone, None where there is none."""
        assert self._site is not None, "the relay is not started"
        return self._site.metrics_port

    @property
    def address(self) -> str:
        """The URL of the address that it listens on."""
        host = self.settings.host
        if self._inherited and self._inherited[0].family in (socket.AF_INET, socket.AF_INET6):
            host = self._inherited[0].getsockname()[0]
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

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
            settings, counters = self.settings, Counters()
            self._certificate = certificate = _certificate(settings)
            engine = await stack.enter_async_context(_open_engine(settings, counters))
            self._administration = engine.administration
            upkeep = Upkeep(engine.database)
            stack.push_async_callback(_end, asyncio.create_task(upkeep.run()))
            if certificate is not None:
                stack.push_async_callback(_end, asyncio.create_task(certificate.watch()))
            housekeeping = asyncio.create_task(engine.administration.run_housekeeping())
            stack.push_async_callback(_end, housekeeping)
            backups = None if settings.backup_dir is None else Backups(settings, settings.backup_dir)
            if backups is not None:
                stack.push_async_callback(_end, asyncio.create_task(backups.run()))
            gauges = Gauges(
                settings, engine.database, engine.log, engine.registry, upkeep.forecast, certificate, backups
            )
            control = ControlServer(engine.administration, self.settings.data)
            site = Site(
                engine.log,
                engine.registry,
                engine.database,
                settings,
                engine.deliveries,
                administration=engine.administration,
                counters=counters,
                entrance=Entrance(certificate, ProxyTrust.parse(settings.proxy_trust or ""), self._inherited),
                expose=Metrics(counters, gauges, __version__).expose,
                instance=engine.administration.instance,
            )
            gauges.site = site
            engine.administration.clients = lambda: site.sockets.subscribed
            stack.push_async_callback(_together, site.stop, control.close)
            engine.database.owner(await control.start())
            site.start()
            self._site = site
            engine.administration.url = self.url
            engine.administration.address = self.address
            self._stack = stack.pop_all()
        metrics = {} if self.metrics_port is None else {"metrics_port": self.metrics_port}
        _log.info("started", version=__version__, address=self.address, data=str(settings.data), **metrics)

    def reload(self) -> None:
        """Loads the certificate's files again, where there are some; new connections get what is in them."""
        if self._certificate is not None:
            self._certificate.reload()

    async def stop(self) -> None:
        """Accepts nothing new, lets accepted requests finish (within `drain_timeout`), tells sockets to come back
        (1001), commits what is queued, and closes everything. May be repeated."""
        await self._stack.aclose()
        _log.info("stopped")


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartupError("--tls-cert and --tls-key go together: give both, or neither for plain HTTP")
    return Certificate(settings.tls_cert, settings.tls_key)


async def _together(*ends: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*(end() for end in ends))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
