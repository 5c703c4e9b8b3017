"""Routes each request by its head: webhooks to `IngestRequest`, everything else to the tornado.web.Application."""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from relay_tornado.handlers.ingest import IngestRequest
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ingest.endpoints import WEBHOOKS_PREFIX, origin_form
from relay_tornado.ingest.ingest import Ingest


class Front(HTTPServerConnectionDelegate):
    """Between the listener and the request handlers; without `ingest`, no request is a webhook."""

    def __init__(self, ingest: Ingest | None, application: Application) -> None:
        self.ingest = ingest
        self.application = application

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        assert isinstance(request_conn, HTTP1Connection)
        return _Request(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self.application.on_close(server_conn)


class _Request(HTTPMessageDelegate):
    """A request whose head has not been read yet."""

    def __init__(self, front: Front, server_conn: object, connection: HTTP1Connection) -> None:
        self._front = front
        self._server_conn = server_conn
        self._connection = connection
        assert isinstance(connection.stream, TornadoConnection)
        self._stream = connection.stream
        self._inner: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        front, stream = self._front, self._stream
        _expectation(start_line, headers)
        target = start_line.path.encode("latin-1")
        path = origin_form(target)
        host = ""
        ingest = front.ingest
        if ingest is not None and not path.startswith(WEBHOOKS_PREFIX):
            # The headers are complete here: heads are cut down only for ingest URLs.
            host = stream.forwarded_host or headers.get("Host", "")
            if ingest.endpoints.locate(target, host) is None:
                ingest = None
        if ingest is not None:
            self._inner = IngestRequest(ingest, stream, self._connection, host)
        else:
            stream.expect_body()
            start_line = start_line._replace(path=path.decode("latin-1"))
            self._inner = front.application.start_request(self._server_conn, self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._inner is not None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        assert self._inner is not None
        self._stream.arrived()
        self._inner.finish()

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()


def _expectation(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Changes an expectation to the form that Tornado looks for. Its value is case-insensitive, and HTTP/1.0 has none
    (RFC 9110, 10.1.1): such a client would take a 100 for the answer."""
    expectation = headers.get("Expect", "")
    if expectation and start_line.version == "HTTP/1.0":
        del headers["Expect"]
    elif expectation:
        headers["Expect"] = expectation.lower()
