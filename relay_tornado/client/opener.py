"""urllib as it suits a relay: no redirects, which would take the secret elsewhere, and a name's silent addresses hide
none behind them for long."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any, Final, TypeVar

C = TypeVar("C", bound=HTTPConnection)

CONNECT: Final = 5.0
"""Seconds that one address of a name has, two lost packets among them. What comes behind it has the request's time."""


def opener(context: ssl.SSLContext | None, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener with these handlers, too; `context` is for TLS, None: the default one. Requests need a timeout."""
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
    return connection


def _connect(address: tuple[str, int], timeout: float, source: tuple[str, int] | None) -> socket.socket:
    connected = socket.create_connection(address, min(timeout, CONNECT), source)
    connected.settimeout(timeout)
    return connected
