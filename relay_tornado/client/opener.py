"""urllib with limits that suit a relay.

It follows no redirects, which would take the secret elsewhere. A silent address of a name delays the others only
briefly. An answer is bounded in memory and time, whoever sends it.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final, TypeVar

C = TypeVar("C", bound=HTTPConnection)

CONNECT: Final = 5.0
"""Seconds for each address of a name, enough for two lost packets. The rest of the request has its own time-out."""

LARGEST: Final = 128 << 20
"""Maximum bytes of an answer and everything before it: no relay's has as many."""

SLOWEST: Final = 16 << 10
"""Bytes per second that extend the deadline, since a large answer takes long on a slow link."""


class TooLarge(HTTPException):
    """An answer is larger than any of a relay's."""


def opener(context: ssl.SSLContext | None, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener with these additional handlers; `context` is for TLS, None for the default one. Requests need a
    timeout: an answer must be complete within it, plus the time that `SLOWEST` allows for its bytes. Reading may also
    raise TooLarge and TimeoutError."""
    return urllib.request.build_opener(_NoRedirect(), _Http(), _Https(context=context), *handlers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(lambda *args, **kwargs: _prompt(HTTPConnection(*args, **kwargs)), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        context = self._context  # type: ignore[attr-defined]
        return self.do_open(lambda *args, **kwargs: _prompt(HTTPSConnection(*args, context=context, **kwargs)), req)


def _prompt(connection: C) -> C:
    # A time-out passed to `connect` would also limit a proxy's answer.
    connection._create_connection = _connect  # type: ignore[attr-defined]
    connection.response_class = _Response
    return connection


def _connect(address: tuple[str, int], timeout: float, source: tuple[str, int] | None) -> socket.socket:
    connected = socket.create_connection(address, min(timeout, CONNECT), source)
    connected.settimeout(timeout)
    return connected


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Buffered(_Bounded(self.fp.detach(), sock))


class _Buffered(io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST:
            raise TooLarge  # the whole buffer would be allocated for a mere announcement
        return super().read(size)


class _Bounded(io.RawIOBase):
    """The data of a connection: at most `LARGEST` bytes, within its timeout plus the time that `SLOWEST` allows."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw = raw
        self._connection = connection
        self._left = LARGEST
        self._end = time.monotonic() + (connection.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        self._end += (count or 0) / SLOWEST
        if self._left < 0:
            raise TooLarge
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
