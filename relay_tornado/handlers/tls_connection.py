"""One connection over TLS, as Tornado reads requests from it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

from tornado.iostream import SSLIOStream

from relay_tornado.delivery.outlet import Lane
from relay_tornado.handlers.tornado_connection import Owner, TornadoConnection
from relay_tornado.transport.refusals import NOT_TLS


class TlsConnection(TornadoConnection, SSLIOStream):
    """A connection over TLS, from a socket before its handshake; the time for a first request includes the
    handshake."""

    halves = False

    def __init__(self, connection: ssl.SSLSocket, remote_ip: str, owner: Owner) -> None:
        super().__init__(connection, remote_ip, owner)
        self.protocol = self._protocol = "https"

    def open_to(self, lane: Lane) -> None:
        """Does nothing: if TLS could not take a write, the same write has to be repeated, which only the stream
        does."""

    def close(self, exc_info: Any = False) -> None:
        """A client that does not speak TLS gets an answer first."""
        if isinstance(exc_info, ssl.SSLError) and exc_info.reason == "HTTP_REQUEST" and not self.closed():
            self._owner.lingering.add(self.socket, self.peer, NOT_TLS)
        super().close(exc_info)

    def _take_leave(self) -> None:
        """Sends TLS's closing alert: without it the data may have been truncated, and some clients report that."""
        with suppress(OSError, ValueError):
            self.socket.unwrap()

    def _end_sending(self) -> None:
        """Does nothing: half of a TLS connection can't be closed. The deadline already set ends it."""
