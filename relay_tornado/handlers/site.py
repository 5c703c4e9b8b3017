"""Everything that the relay's port serves, put together over a log and a registry."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tornado.web import Application

from relay_tornado.handlers import health, socket
from relay_tornado.handlers.base import NotFoundHandler, log_request
from relay_tornado.handlers.front import Front
from relay_tornado.handlers.listener import Listener
from relay_tornado.handlers.socket import Sockets
from relay_tornado.ingest import Ingest
from relay_tornado.log.contract import EventLog
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Registry
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings


class Site:
    """The HTTP side of a relay: webhooks in, WebSockets, health. `port` is known once it is started."""

    def __init__(self, log: EventLog, registry: Registry, store: health.Store, settings: Settings) -> None:
        self.port = 0
        self.ingest = Ingest(log, Routes(registry), settings)
        self.sockets = Sockets(log, registry, Access(registry), settings)
        self._drain_timeout = settings.drain_timeout
        application = Application(
            [*socket.routes(self.sockets), *health.routes(store)],
            default_handler_class=NotFoundHandler,
            log_function=log_request,
        )
        self.listener = Listener(Front(self.ingest, application, settings), settings)

    def start(self) -> None:
        """Accepts connections from now on. Raises StartupError where the address can't be had."""
        self.port = self.listener.start()

    async def stop(self) -> None:
        """Accepts nothing new, lets accepted requests finish within the drain's time, tells sockets to come back."""
        self.listener.stop()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain_timeout):
                    await self.sockets.close_all()
                    await self.listener.drained()
        finally:
            self.listener.close()
