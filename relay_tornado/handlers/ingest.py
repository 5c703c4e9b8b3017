"""Carries webhooks from Tornado's connections to `Ingest`, and its answers back."""

from __future__ import annotations

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine

from relay_tornado.handlers.heads import header_block
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ingest.ingest import Head, Ingest, Upload
from relay_tornado.transport.limits import DISCARD_TIME, SMALL_BODY
from relay_tornado.wire.answers import CLOSE, Answer, date_line
from relay_tornado.wire.headers import without_session

_UNLIMITED = 1 << 62


class IngestRequest(HTTPMessageDelegate):
    """One request to an input's URL.

    A refusal is sent at once, while the body is still coming. The body is read and dropped, within bounds, so that the
    sender reads the answer instead of a reset.
    """

    def __init__(self, ingest: Ingest, stream: TornadoConnection, connection: HTTP1Connection, host: str) -> None:
        """`host` is the Host header, used if the target is no ingest URL."""
        self._ingest = ingest
        self._host = host
        self._stream = stream
        self._connection = connection
        self._upload: Upload | None = None
        self._discard_limit = stream.limits.discarded
        self._extra = b""
        self._is_head = False

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Decides by the head alone if it can."""
        assert isinstance(start_line, RequestStartLine)
        method, target, version = start_line
        stream = self._stream
        self._connection.set_max_body_size(_UNLIMITED)
        try:
            length = _body_length(headers)
        except ValueError:
            return  # Tornado rejects this framing next, and closes
        self._is_head = method == "HEAD"
        if "Connection" in headers:
            self._extra = _connection_line(version, method, length, headers["Connection"].lower())
        block = without_session(header_block(stream.head))
        outcome = self._ingest.begin(
            Head(method, target.encode("latin-1"), block, length, stream.remote_ip, self._host)
        )
        if length != 0:
            stream.expect_body()
        if isinstance(outcome, Upload):
            self._upload = outcome
            return
        goes_on = length is not None and length <= SMALL_BODY and "Expect" not in headers
        if "Expect" in headers:
            del headers["Expect"]  # otherwise Tornado would ask for the body that was just refused
        self._refuse(outcome, goes_on=goes_on)

    def data_received(self, chunk: bytes) -> None:
        if self._upload is not None:
            refusal = self._upload.feed(chunk)
            if refusal is not None:
                self._upload = None
                self._refuse(refusal, goes_on=False)
        else:
            self._discard_limit -= len(chunk)
            if self._discard_limit < 0:
                self._stream.close()

    def finish(self) -> None:
        upload = self._upload
        if upload is None:
            self._done()
            return
        upload.finish(self._answer)
        if self._upload is not None and upload.waits:
            self._connection.set_close_callback(upload.leave)
            if self._stream.waits():
                upload.leave()
                self._stream.close()
        self._upload = None

    def on_connection_close(self) -> None:
        if self._upload is not None:
            if self._stream.late:
                self._ingest.counters.rejected("timeout")
            self._upload.abandon()
            self._upload = None

    def _refuse(self, answer: Answer, *, goes_on: bool) -> None:
        stream = self._stream
        if stream.closed():
            return
        stream.drop_body()
        stream.last = stream.last or not goes_on
        self._write(answer)
        if not goes_on:
            stream.refused(DISCARD_TIME)

    def _answer(self, answer: Answer) -> None:
        self._upload = None
        if self._stream.closed():
            return
        try:
            self._write(answer)
        except BaseException:
            self._stream.close()  # otherwise the sender would wait for an answer forever
            raise
        self._done()

    def _write(self, answer: Answer) -> None:
        extra = CLOSE if self._stream.last else self._extra
        self._stream.write(answer.encode(date_line() + extra, head=self._is_head))

    def _done(self) -> None:
        """The request is read and answered: once the answer has left, the connection takes the next one."""
        self._stream.when_written(self._connection.finish)


def _body_length(headers: HTTPHeaders) -> int | None:
    """The length of the body, None if it is chunked. Raises ValueError if Tornado will reject the framing."""
    if "Transfer-Encoding" in headers:
        if "Content-Length" in headers or headers["Transfer-Encoding"].lower() != "chunked":
            raise ValueError
        return None
    if "Content-Length" not in headers:
        return 0
    value = headers["Content-Length"].strip()
    if not (value.isascii() and value.isdigit()):
        raise ValueError
    return int(value)


def _connection_line(version: str, method: str, length: int | None, asked: str) -> bytes:
    """The Connection header of an answer, by Tornado's rules for keeping the connection."""
    if version == "HTTP/1.1":
        return CLOSE if asked == "close" else b""
    if asked == "keep-alive" and (length != 0 or method in ("GET", "HEAD")):
        return b"Connection: Keep-Alive\r\n"
    return b""
