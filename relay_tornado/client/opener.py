"""urllib as it suits a relay: no redirects, which would take the secret elsewhere; a name's silent addresses hide none
behind them for long; and an answer takes neither memory nor time without end, whoever gives it."""

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
"""Seconds that one address of a name has, two lost packets among them. What comes behind it has the request's time."""

LARGEST: Final = 128 << 20
"""Bytes of an answer at most, with all that comes before it: no relay's has as many."""

SLOWEST: Final = 16 << 10
"""Bytes a second that put the end of the time off: a large answer takes long on a slow link."""


class TooLarge(HTTPException):
    """An answer has more bytes than any of a relay's."""


def opener(context: ssl.SSLContext | None, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener with these handlers, too; `context` is for TLS, None: the default one. Requests need a timeout: the
    answer has to be whole within it, and `SLOWEST`. Reading raises TooLarge and TimeoutError, too."""
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
    # By `connect` itself a proxy's answer would have to come as soon.
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
            raise TooLarge  # what is only announced would take its memory at once
        return super().read(size)


class _Bounded(io.RawIOBase):
    """What comes on a connection, up to `LARGEST` bytes, and in no more time than its timeout and `SLOWEST` give."""

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
