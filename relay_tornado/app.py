"""The composition root: builds a relay from its settings."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog

from relay_tornado import __version__
from relay_tornado.admin.administration import Administration
from relay_tornado.admin.change_log import ChangeLog
from relay_tornado.admin.sessions import NAME as SESSIONS
from relay_tornado.admin.sessions import Sessions
from relay_tornado.counters import Counters
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.engine import Engine, administer, open_engine
from relay_tornado.errors import StartupError
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.gauges import ConsumerLevels, Gauges, Measured
from relay_tornado.handlers.control import ControlServer
from relay_tornado.handlers.listener import Entrance
from relay_tornado.handlers.site import Site, check_addresses, check_ports
from relay_tornado.low_memory import try_log, watch_timers
from relay_tornado.metrics import Metrics
from relay_tornado.ops.backup_schedule import Backups, check_directory
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.registry.routes import Routes
from relay_tornado.search.index import Index
from relay_tornado.series.series import Series
from relay_tornado.settings import Settings
from relay_tornado.steps import Steps
from relay_tornado.storage.maintenance import Maintenance
from relay_tornado.tls import Certificate

RETRY_DELAY: Final = 10.0
"""Seconds until a background task that failed is restarted."""

_log = structlog.get_logger(__name__)


class Relay:
    """One relay. After `await start()`, `port` and `url` tell where it is; `await stop()` drains it."""

    def __init__(self, settings: Settings, inherited: Sequence[socket.socket] = (), steps: Steps | None = None) -> None:
        """`inherited` are listening sockets, which replace the address in the settings. A start tells `steps` what it
        does."""
        self.settings = settings
        self._inherited = inherited
        self._steps = steps or Steps("")
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
        """The port of the separate metrics server; None if there is none."""
        assert self._site is not None, "the relay is not started"
        return self._site.metrics_port

    @property
    def address(self) -> str:
        """The URL of the address that it listens on."""
        host = self.settings.host
        if self._inherited:
            host = self._inherited[0].getsockname()[0]
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL under which senders reach the relay: the public one, if it is set."""
        return (self.settings.public_url or self.address).rstrip("/")

    @property
    def administration(self) -> Administration:
        assert self._administration is not None, "the relay is not started"
        return self._administration

    async def start(self) -> None:
        """Opens the data directory and listens. If that fails, everything that was opened is closed.

        Raises StartupError.
        """
        steps = self._steps
        async with AsyncExitStack() as stack:
            stack.callback(watch_timers().cancel)
            settings, counters = self.settings, Counters()
            self._certificate = certificate = _certificate(settings)
            if settings.backup_dir is not None:
                check_directory(settings.backup_dir)
            check_ports(settings, inherited=bool(self._inherited))
            # A start that fails would leave an empty directory, which commands then take.
            if not os.path.lexists(settings.data):  # noqa: ASYNC240
                check_addresses(settings, inherited=bool(self._inherited))
            engine = await stack.enter_async_context(open_engine(settings, counters, steps))
            database, log, registry, ledgers = engine.database, engine.log, engine.registry, engine.ledgers
            steps.begin("reading the state of consumers")
            sessions = None
            if not settings.no_ui:
                sessions = Sessions(registry, settings.data / SESSIONS)
                stack.push_async_callback(sessions.close)
            index = _index(engine, settings, counters)
            self._administration = administration = await administer(engine, settings, sessions, index)
            steps.begin("opening its port")
            stack.callback(ChangeLog(registry).close)
            maintenance = Maintenance(database)
            backups = None if settings.backup_dir is None else Backups(settings, settings.backup_dir)
            consumers = ConsumerLevels(administration.consumers, registry)
            series = Series(settings.data, counters)
            deliveries = Deliveries(log, registry, settings, ledgers, counters)
            responses = Responses(engine.results, log, registry, deliveries)
            routes = Routes(registry)
            responses.forwarding = forwarding = Forwarding(
                log,
                registry,
                routes,
                ledgers,
                responses,
                settings,
                administration.disable_output,
                counters=counters,
                own=self._listening,
            )
            site = Site(
                log,
                registry,
                routes,
                database,
                settings,
                administration,
                deliveries,
                responses,
                forwarding,
                series,
                counters=counters,
                entrance=Entrance(certificate, ProxyTrust.parse(settings.proxy_trust or ""), self._inherited),
                lags=lambda: consumers.latest,
                expose=lambda: metrics.expose(),  # noqa: PLW0108 - made after the site, whose numbers it has
            )
            gauges = Gauges(
                settings,
                database,
                log,
                registry,
                maintenance.forecast,
                certificate,
                backups,
                consumers,
                forwarding,
                site,
            )
            administration.troubles = gauges.troubles
            metrics = Metrics(counters, gauges, __version__)
            measured = Measured(gauges, consumers, log, registry)
            stack.callback(measured.close)
            # What can be left for the next start ends while senders are still served: it may take long to end.
            left = [_keep_running(stack, maintenance.run, "relay-upkeep")]
            if certificate is not None:
                _keep_running(stack, certificate.watch, "relay-certificate")
            _keep_running(stack, lambda: engine.uses.run(lambda: site.clients.keys), "relay-uses")
            left.append(_keep_running(stack, administration.housekeeping.run, "relay-housekeeping"))
            if backups is not None:
                left.append(_keep_running(stack, backups.run, "relay-backups"))
            if index is not None:
                left.append(_keep_running(stack, index.run, "relay-search"))
            _keep_running(stack, consumers.run, "relay-levels")
            _keep_running(stack, lambda: series.run(measured), "relay-series")
            control = ControlServer(administration, settings.data)
            # A stop runs these in the reverse order. Senders are let in until `site.stop`, so all that may take long
            # comes before it.
            stack.push_async_callback(forwarding.stop)
            stack.push_async_callback(site.stop)
            finish = [functools.partial(each, site.grace) for each in (control.close, site.finish, forwarding.finish)]
            stack.push_async_callback(_together, *finish)
            stack.callback(lambda: [each.cancel() for each in left])
            database.owner(await control.start())
            site.start()
            self._site = site
            administration.url = self.url
            administration.address = self.address
            steps.begin("beginning to forward to public outputs")
            await forwarding.start()
            await database.told()
            self._stack = stack.pop_all()
        ports = {} if self.metrics_port is None else {"metrics_port": self.metrics_port}
        _log.info("started", version=__version__, address=self.address, data=str(settings.data), **ports)

    def reload(self) -> None:
        """Reloads the certificate's files, if there are any; they are used for new connections."""
        if self._certificate is not None:
            self._certificate.reload()

    def _listening(self) -> Collection[tuple[str, int]]:
        """The addresses and ports that it listens on."""
        site, settings = self._site, self.settings
        if site is None:
            return ()
        listening = [each.getsockname()[:2] for each in self._inherited] or [(settings.host, site.port)]
        if site.metrics_port is not None:
            listening.append((settings.metrics_host, site.metrics_port))
        return listening

    async def stop(self) -> None:
        """Finishes accepted requests (within `drain_timeout`), closes sockets with 1001, accepts nothing new, commits
        what is queued, and closes everything. May be repeated."""
        await self._stack.aclose()
        _log.info("stopped")


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartupError("--tls-cert and --tls-key go together: give both, or neither for plain HTTP")
    return Certificate(settings.tls_cert, settings.tls_key)


def _index(engine: Engine, settings: Settings, counters: Counters) -> Index | None:
    if settings.search_index is None:
        return None
    return Index(
        settings.data,
        engine.log,
        functools.partial(engine.registry.list, "bucket"),
        settings.search_index,
        room=lambda: engine.database.space.room,
        events=lambda: counters.events + counters.deliveries // 4,
    )


async def _together(*ends: Callable[[], Awaitable[None]]) -> None:
    """Runs all at once, each to its end, since what they use is closed next. Then raises the first error."""
    for outcome in await asyncio.gather(*(end() for end in ends), return_exceptions=True):
        if outcome is not None:
            raise outcome


def _keep_running(stack: AsyncExitStack, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """Runs endless work in a task until the stack is closed; if it fails, it is restarted, unless it is being
    cancelled. The task may be cancelled before."""
    task = asyncio.create_task(_again_and_again(work, name), name=name)

    async def end() -> None:
        if not task.cancelling():  # a second time would break off how it ends
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
    return task


async def _again_and_again(work: Callable[[], Awaitable[None]], name: str) -> None:
    task = asyncio.current_task()
    while True:
        try:
            await work()
        except Exception:
            ends = task is not None and task.cancelling() > 0  # it failed at its end, and is not cancelled again
            try_log(_log.exception, "task_failed", task=name, **({} if ends else {"again_in": RETRY_DELAY}))
            if ends:
                return
        with suppress(MemoryError):
            await asyncio.sleep(RETRY_DELAY)
