"""Everything that the relay's ports serve, assembled over a log and a registry."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from tornado.web import Application

from relay_tornado.admin.administration import Administration
from relay_tornado.counters import ConsumerLevel, Counters
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import StartupError
from relay_tornado.forwarding.forwarding import Forwarding
from relay_tornado.handlers import binding, health, metrics, rest, socket, stream, ui
from relay_tornado.handlers.base import NotFoundHandler, log_request
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.credentials import Callers
from relay_tornado.handlers.front import Front
from relay_tornado.handlers.listener import DIRECT, FLAGS, Entrance, Listener
from relay_tornado.ingest.ingest import Ingest
from relay_tornado.log.contract import EventLog
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.routes import Routes
from relay_tornado.series.series import Series
from relay_tornado.settings import Settings

_LAST: Final = 2.0
"""Seconds of the drain time-out, at most a quarter of it, that are left for the end of a stop: clients are sent away,
and nobody is accepted any more."""

_METRICS_FLAGS: Final = "--metrics-host and --metrics-port"

_MOST_SCRAPERS = 32
"""Maximum number of connections to the port for metrics."""

_PATHS = "senders use /v1/webhooks/ and an input's id, programs what /openapi.json lists, and people /ui/"


class Site:
    """The HTTP side of a relay: webhooks, WebSockets, REST, health. `port` is known once it is started. `grace` is the
    number of seconds that a stop may wait for what is in progress while everybody is served."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        routes: Routes,
        store: health.Store,
        settings: Settings,
        administration: Administration,
        deliveries: Deliveries,
        responses: Responses,
        forwarding: Forwarding,
        series: Series,
        *,
        counters: Counters,
        entrance: Entrance = DIRECT,
        lags: Callable[[], Sequence[ConsumerLevel]] = tuple,
        expose: Callable[[], bytes] = bytes,
    ) -> None:
        """The page is served if the administration has sessions. `lags` returns how far consumers are behind; `expose`
        returns the body of /metrics."""
        access = Access(registry, counters=counters, uses=administration.uses)
        self.port = 0
        self.metrics_port: int | None = None
        self.clients = ConnectedClients(registry, access, settings, deliveries, responses, entrance.trust)
        self.ingest = Ingest(
            log,
            routes,
            settings,
            responses,
            counters=counters,
            queue_full=forwarding.full,
            shows_token=access.known_in,
        )
        self._drain_timeout = settings.drain_timeout
        self._last = min(_LAST, settings.drain_timeout / 4)
        self.grace = settings.drain_timeout - self._last
        self._end: float | None = None
        # Only this class knows who is connected, and the administration lists it.
        administration.clients = lambda: self.clients.subscribed
        administration.consumers.connections = deliveries.connections
        administration.consumers.circuit = forwarding.next_probe
        callers = Callers(access, administration.sessions, settings.public_url)
        self.rest = rest.Rest(
            administration=administration,
            logs=administration.logs,
            stored=administration.logs.stored,
            responses=responses,
            callers=callers,
            clients=self.clients,
            ingest=self.ingest,
            forwarding=forwarding,
            series=series,
            lags=lags,
            description=functools.cache(functools.partial(rest.describe, rest.HANDLERS, settings)),
        )
        application = Application(
            [
                *rest.routes(self.rest),
                *socket.routes(self.clients),
                *stream.routes(self.clients, log, registry, callers),
                *health.routes(store, administration.instance),
                *metrics.routes(expose, access),
                *ui.routes(callers, administration, counters),
            ],
            default_handler_class=NotFoundHandler,
            default_handler_args={"hint": _PATHS},
            log_function=log_request,
        )
        self.listener = Listener(Front(self.ingest, application), settings, entrance, counters, self.ingest)
        self._open_metrics: Listener | None = None
        if settings.metrics_port is not None:
            self._open_metrics = _metrics_listener(settings, settings.metrics_port, expose)

    def start(self) -> None:
        """Starts accepting connections. Raises StartupError if an address can't be used."""
        if self._open_metrics is not None:
            self.metrics_port = self._open_metrics.start()
        self.port = self.listener.start()

    async def finish(self, seconds: float) -> None:
        """Begins a stop: waits up to `seconds` for the requests in progress, also those that wait for a client's
        answer. Everybody is served meanwhile, except senders that would wait for such an answer: they get 503."""
        self._set_end()
        self.ingest.stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.listener.finish_begun()

    async def stop(self) -> None:
        """Tells sockets to come back, then stops accepting, and lets the requests in progress finish. Whatever is not
        done within `drain_timeout`, counted from `finish`, is cut off.

        Senders are served until the sockets are closed and, within `grace`, the requests of that time answered: neither
        a client that does not read nor a slow sender keeps anybody out. If the service manager listens, too, accepting
        stops first: everybody who connects from then on waits for the next process."""
        end = self._set_end()
        left = end - asyncio.get_running_loop().time()
        try:
            if self.listener.inherited:
                self.listener.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(left * 3 / 4):
                    await self.clients.close_all(left / 2, hold=not self.listener.inherited)
            if not self.listener.inherited:
                await self.finish(end - self._last - asyncio.get_running_loop().time())
            self.listener.stop()
            self.clients.refuse_all()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self.listener.drained()
        finally:
            self.listener.close()
            if self._open_metrics is not None:
                self._open_metrics.close()

    def _set_end(self) -> float:
        """When the stop has to be over, by the loop's clock; counted from the first call."""
        if self._end is None:
            self._end = asyncio.get_running_loop().time() + self._drain_timeout
        return self._end


def check_ports(settings: Settings, *, inherited: bool) -> None:
    """Raises StartupError if the settings name one port of one address twice. With inherited sockets, only the
    metrics' address matters."""
    same = not inherited and 0 < settings.port == settings.metrics_port
    if same and binding.overlap(settings.host, settings.metrics_host):
        raise StartupError(
            f"can't listen on {settings.metrics_host} port {settings.port} twice: choose another port with "
            "--metrics-port, or with --port"
        )


def check_addresses(settings: Settings, *, inherited: bool) -> None:
    """Raises StartupError if no site could listen on the settings' addresses now. With inherited sockets, only the
    metrics' address matters."""
    if not inherited:
        binding.check(settings.host, settings.port, FLAGS)
    if settings.metrics_port is not None:
        binding.check(settings.metrics_host, settings.metrics_port, _METRICS_FLAGS)


def _metrics_listener(settings: Settings, port: int, expose: Callable[[], bytes]) -> Listener:
    """A port that serves only the metrics, to everybody who reaches it."""
    application = Application(
        metrics.routes(expose, None),
        default_handler_class=NotFoundHandler,
        default_handler_args={"hint": "this port has /metrics only"},
        log_function=log_request,
    )
    settings = dataclasses.replace(settings, host=settings.metrics_host, port=port, max_connections=_MOST_SCRAPERS)
    return Listener(Front(None, application), settings, Entrance(flags=_METRICS_FLAGS))
