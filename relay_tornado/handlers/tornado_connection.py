"""One connection as Tornado reads requests from it: the raw head of each, its deadline, and its last words.

Tornado's `HTTP1ServerConnection` does that. Tornado's own timers are off, because one deadline a
connection, looked at by the listener's sweep, costs a request nothing.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from relay_tornado.delivery.outlet import Lane
from relay_tornado.handlers.heads import ends_lines, essential, frames_body, names_host, says_close
from relay_tornado.handlers.lingering import Lingering
from relay_tornado.proxy_trust import ProxyTrust, speaks_proxy_protocol
from relay_tornado.settings import Settings
from relay_tornado.transport.direct import DISCARD_TIME, NEVER, READ_SIZE
from relay_tornado.wire.answers import CLOSE, LATE, Answer, text_answer

_TORNADOS_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
_MALFORMED = text_answer(
    400,
    "This request can't be read: its request line, its headers or its body's framing are not what RFC 9112 allows, its"
    " chunks have extensions or trailers, which the relay does not read, or its body is too large.",
).encode(CLOSE)
_PROXIED = text_answer(
    400,
    "This is the PROXY protocol, which the relay does not speak. Switch it off in the load balancer, let that set"
    " X-Forwarded-For instead, and name its address in --proxy-trust.",
).encode(CLOSE)
_NOT_TLS = text_answer(400, "This port speaks HTTPS: write https:// or wss:// in front of its address.").encode(CLOSE)
_NO_REQUEST = b"\r\n\r\n"
"""What Tornado is given in place of a head that it would take and must not: it refuses it as it refuses any other."""

_TOO_LATE = LATE.encode(CLOSE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What every connection is held to: seconds, and bytes of what is read ahead."""

    idle_timeout: float
    head_timeout: float
    body_timeout: float
    buffer: int
    head_too_long: Answer

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        text = f"The request line and headers are longer than the {settings.max_header} bytes that the relay reads."
        buffer = 4 * max(settings.max_header, READ_SIZE)
        return cls(settings.idle_timeout, settings.head_timeout, settings.body_timeout, buffer, text_answer(431, text))


class Owner(Protocol):
    """Who holds a connection."""

    lingering: Lingering
    trust: ProxyTrust

    def forget(self, connection: TornadoConnection) -> None:
        """The connection's descriptor is closed."""


class _Short(list[Any]):
    """What Tornado needs of a deque, for a few entries."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class _State(enum.Enum):
    """How far a connection is with its request.

    IDLE ─ a byte ─▶ HEAD ─ its end ─▶ ANSWER ─ the next request ─▶ IDLE
    ANSWER ─ expect_body ─▶ BODY ─ arrived, drop_body ─▶ ANSWER
    BODY ─ expire ─▶ LATE
    ANSWER ─ waits ─▶ WAIT ─ the next request ─▶ IDLE
    ANSWER ─ detached ─▶ OPEN ─ drop ─▶ DEAF
    """

    IDLE = enum.auto()
    """Nothing of the next head has come."""
    HEAD = enum.auto()
    """A head is coming."""
    ANSWER = enum.auto()
    """A request is worked on, or its answer leaves; it is whole, or what still comes of it is dropped."""
    BODY = enum.auto()
    """A request is worked on whose body is still to come."""
    LATE = enum.auto()
    """Its body did not come in its time."""
    WAIT = enum.auto()
    """A whole request is worked on for only as long as its client may still send."""
    OPEN = enum.auto()
    """No request is read any more: it is a WebSocket, or a stream of events."""
    DEAF = enum.auto()
    """The same, and whatever comes is dropped."""


_IDLE, _HEAD, _ANSWER, _BODY, _LATE, _WAIT, _OPEN, _DEAF = _State

CHUNKS_A_TURN = 16
"""Most chunks of one body that are read in one turn of the loop, which take as long as a request does. Tornado reads
256, of a byte each perhaps, and as many of every other sender's before anything else has its turn."""

_DROPS = 16
"""How often more is read and dropped in one turn of the loop."""


class TornadoConnection(IOStream):
    """`head` is the raw head of the request that was read last, from its request line (or the line ends before it) to
    its closing empty line; `remote_ip` and `protocol` are what Tornado asks of a connection. Behind a trusted proxy
    they are those of the request that was read last, and `forwarded_host` is the host that it asked for, where the
    proxy says so.

    `deadline` is the time (monotonic) at which the sweep lets it `expire`. `last` is whether no request is to be read
    after the one that is worked on, or that is the first.

    A client that closes its half of the connection while its request is worked on may still read: it gets the answers
    to what it has sent, frames of a WebSocket among that, unless that is what `halves` rules out. Nor is it held for
    long, for it may be gone.
    """

    halves = True
    """Whether half of the connection can be closed."""

    # Beside IOStream's own, for which one dict per stream stays small enough to share its keys with all others.
    __slots__ = (
        "_ahead",
        "_all_sent",
        "_chunks",
        "_lane",
        "_limits",
        "_linger",
        "_listen_on",
        "_owner",
        "_paced",
        "_protocol",
        "_proxy",
        "_request",
        "deadline",
        "forwarded_host",
        "head",
        "last",
        "protocol",
        "remote_ip",
    )

    def __init__(
        self, connection: socket.socket, remote_ip: str, limits: Limits, owner: Owner, ahead: bytes = b""
    ) -> None:
        """`ahead` is what was read from the socket already, at most half of the limits' buffer."""
        super().__init__(connection, max_buffer_size=limits.buffer, read_chunk_size=max(READ_SIZE, len(ahead)))
        self._ahead = ahead
        self._request = _IDLE
        self.remote_ip = remote_ip
        self.protocol = "http"
        self.forwarded_host: str | None = None
        self._protocol = self.protocol
        self._proxy = remote_ip if owner.trust.trusts(remote_ip) else ""
        self.head = b""
        self.last = False
        self.deadline = NEVER
        self._limits = limits
        self._owner = owner
        self._linger = False
        self._listen_on = False
        self._chunks = 0
        self._all_sent = False
        self._paced = False
        self._lane: Lane | None = None
        super().set_nodelay(True)

    @property
    def busy(self) -> bool:
        """Whether a request is worked on, or will be in the next turn of the loop, as its head was read."""
        return self._request is not _IDLE and not (self._request is _HEAD and super().reading())

    @property
    def receiving(self) -> bool:
        """Whether the body of that is still to come."""
        return self._request is _BODY

    @property
    def late(self) -> bool:
        """Whether it did not come in its time."""
        return self._request is _LATE

    @property
    def proxied(self) -> bool:
        """Whether it comes from a proxy whose word counts."""
        return bool(self._proxy)

    def set_nodelay(self, value: bool) -> None:
        """Always on: Tornado would switch it for each answer, two system calls that change nothing here."""

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Reads a head, as Tornado does for each request, and gives Tornado what it needs of it."""
        if self.last and self._request is not _IDLE:
            self.close()
        self._request = _IDLE
        self._paced = False
        if self.closed():
            # What came behind the last request is not looked at: nobody would be answered.
            raise StreamClosedError
        self._listen_on = True
        self.head = b""
        self.deadline = time.monotonic() + self._limits.idle_timeout
        self.head = head = await super().read_until_regex(regex, max_bytes)
        self.arrived()
        if self._proxy:
            origin = self._owner.trust.origin(self._proxy, head)
            self.remote_ip = origin.address
            self.protocol = origin.scheme or self._protocol
            self.forwarded_host = origin.host
        whole = names_host(head) and ends_lines(head) and frames_body(head)
        return says_close(essential(head)) if whole else _NO_REQUEST

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Reads the length of a chunk, which is all that Tornado reads so."""
        self._chunks += 1
        if self._chunks % CHUNKS_A_TURN:
            return super().read_until(delimiter, max_bytes)
        return self._read_in_next_turn(delimiter, max_bytes)

    async def _read_in_next_turn(self, delimiter: bytes, max_bytes: int | None) -> bytes:
        await asyncio.sleep(0)
        return await super().read_until(delimiter, max_bytes)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Reads what was read ahead before what the socket has. A head's time begins with the first of its bytes."""
        if self._ahead:
            # All at once: nothing else than the socket ever calls for a second read.
            ahead, self._ahead = self._ahead, b""
            buf[: len(ahead)] = ahead
            self.read_chunk_size = READ_SIZE
            return len(ahead)
        size_or_none = super().read_from_fd(buf)
        if self._request is _IDLE and size_or_none:
            self._request = _HEAD
            self.deadline = min(self.deadline, time.monotonic() + self._limits.head_timeout)
        if self._request is _DEAF and size_or_none:
            # uvloop tells once of a connection that was reset, whatever is still to be read before the reset is.
            for _ in range(_DROPS):
                if not (size_or_none := super().read_from_fd(buf)):
                    return size_or_none
            return None
        if size_or_none == 0 and self.halves:
            if super().reading():
                # What is read may have come whole just before, as Tornado does not look at it behind each part: who
                # reads next finds the end again.
                return size_or_none if self._find_read_pos() is None else None
            if self._request in (_ANSWER, _BODY) or (self._request is _OPEN and self._read_buffer_size):
                self._end_reading()
                return None
        return size_or_none

    def _end_reading(self) -> None:
        """The client has sent everything, and nobody reads: what reads next finds the end again, and closes."""
        self._all_sent = True
        if self.deadline == NEVER:
            self._take_time()
        # The end stays there to be read, and the loop would tell of it in each turn.
        self.io_loop.update_handler(self.socket, IOLoop.ERROR | (IOLoop.WRITE if self.writing() else 0))

    def _take_time(self) -> None:
        """The answer may take its time; less where nobody can tell whether its client is still there."""
        self.deadline = time.monotonic() + DISCARD_TIME if self._all_sent else NEVER

    def reading(self) -> bool:
        """Also once after a head that came with more behind it: the poller would be told to stop listening and, one
        answer later, to listen again, two system calls a request. What arrives meanwhile is read once, no further."""
        if super().reading():
            return True
        listen_on, self._listen_on = self._listen_on, False
        return listen_on

    def writing(self) -> bool:
        """Whether something waits for the kernel. Each delivery asks, and `IOStream` makes three calls of it."""
        try:
            return self._write_buffer._size > 0
        except AttributeError:  # it is None once it is closed
            return False

    def expect_body(self) -> None:
        """From now on a body comes in, and has its time for it."""
        self._request = _BODY
        self.deadline = time.monotonic() + self._limits.body_timeout

    def arrived(self) -> None:
        """The request is whole, unless a body is to be expected."""
        self._request = _ANSWER
        self._take_time()

    def drop_body(self) -> None:
        """The request is answered before its body has come, which still has its time."""
        self._request = _ANSWER

    def waits(self) -> bool:
        """The request is worked on for only as long as its client may still send: it closes when that ends. Returns
        whether it has ended already."""
        self._request = _WAIT
        return self._all_sent

    def refused(self, seconds: float) -> None:
        """The `last` answer went out while the body was still coming: nothing more is sent, and the connection closes
        once the body was read, or after these seconds."""
        self.deadline = time.monotonic() + seconds
        self.when_written(self._end_sending)

    def detached(self) -> None:
        """No request is read any more, and it may be quiet for days: lets go of the head, and of two deques of
        Tornado's that take most of a kilobyte each, also while they are empty."""
        self.head = b""
        self._request = _OPEN
        self._paced = False
        self.deadline = NEVER
        if self._all_sent:
            self.close()
        if not self.closed() and not self.writing():
            self._write_futures = _Short()  # type: ignore[assignment]
            self._write_buffer._buffers = _Short()  # type: ignore[assignment]

    def drop(self) -> None:
        """Whatever the client has sent, and will send, means nothing: it is read and dropped, so that the end behind it
        is noticed."""
        if not self.closed():
            self._request = _DEAF
            self.read_bytes(self._limits.buffer, partial=True)

    def linger(self) -> None:
        """Once it is closed, what the client still sends is read and dropped for a while, so that it reads the answer
        instead of a reset."""
        self._linger = True

    def expire(self) -> None:
        """Closes a connection that is past its deadline; a sender whose body is late is told so."""
        if self._paced and not self.writing():
            # What was written has left, and there is more to come.
            self._paced = False
            self._take_time()
            return
        if self._request is _BODY:
            self._request = _LATE
            if not self.writing():
                self.write(_TOO_LATE)
        self.close()

    def when_written(self, callback: Callable[[], None]) -> None:
        """Calls back when everything written has left, at once where it has; that must not take longer than a
        connection may be idle, where a request is answered from the last bit on that has left."""
        if self.closed() or not self.writing():
            callback()
            return
        self.deadline = min(self.deadline, time.monotonic() + self._limits.idle_timeout)
        self.write(b"").add_done_callback(lambda _: callback())

    def _end_sending(self) -> None:
        if not self.closed():
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        """Tornado's bare answer to what it can't read goes out in words."""
        if data == _TORNADOS_400:
            self._linger = True
            data = _PROXIED if speaks_proxy_protocol(self.head) else _MALFORMED
        writing = super().write(data)
        if self._request in (_ANSWER, _WAIT) and not self.last and self.writing():
            self._paced = True
            self._progress()
        return writing

    def write_to_fd(self, data: memoryview) -> int:
        """What is written leaves at its client's pace, but no slower than that a bit of it leaves in the time for which
        a connection may be idle."""
        sent = super().write_to_fd(data)
        if self._paced and sent:
            self._progress()
        return sent

    def open_to(self, lane: Lane) -> None:
        """Keeps the lane's socket: it may be written to as long as nothing waits for the kernel here."""
        self._lane = lane
        lane.socket = None if self.writing() or self.closed() else self.socket

    def _handle_write(self) -> None:
        super()._handle_write()
        if self._lane is not None:
            self.open_to(self._lane)

    def _progress(self) -> None:
        self.deadline = time.monotonic() + self._limits.idle_timeout

    def _is_connreset(self, exc: BaseException) -> bool:
        """Whatever the kernel or TLS says of a connection, its client is gone, and it is closed without a word: Tornado
        takes only some of it so, and raises what OpenSSL makes of a reset."""
        return isinstance(exc, OSError)

    def close(self, exc_info: Any = False) -> None:
        """Tornado closes a connection whose head is too long; its sender is told so first."""
        if isinstance(exc_info, BaseException):
            # Tornado keeps it, and by its frames whatever was being worked on: a whole commit of webhooks, where their
            # answers were on their way. What waits for its commit is out of the sight of Python's collector.
            exc_info.__traceback__ = None
        if not self.closed():
            if isinstance(exc_info, UnsatisfiableReadError) and not self.busy:
                self._linger = True
                self.write(self._limits.head_too_long.encode(CLOSE))
            if not self.writing():
                self._take_leave()
            if self._linger and not self.closed():
                self._owner.lingering.add(self.socket)
        super().close(exc_info)

    def _take_leave(self) -> None:
        """Everything has left that was written, and the connection is closed next."""

    def close_fd(self) -> None:
        super().close_fd()
        self._owner.forget(self)

    def __str__(self) -> str:
        return self.remote_ip


def stream_of(request: HTTPServerRequest) -> TornadoConnection:
    """The connection that a request came by."""
    connection = request.connection
    assert isinstance(connection, HTTP1Connection)
    assert isinstance(connection.stream, TornadoConnection)
    return connection.stream


class TlsConnection(TornadoConnection, SSLIOStream):
    """The same over TLS, from a socket whose handshake is still to come; the time for a first request bounds it too."""

    halves = False

    def __init__(self, connection: ssl.SSLSocket, remote_ip: str, limits: Limits, owner: Owner) -> None:
        super().__init__(connection, remote_ip, limits, owner)
        self.protocol = self._protocol = "https"

    def open_to(self, lane: Lane) -> None:
        """Nothing: where TLS could not take a write, the same one has to be tried again, which the stream sees to."""

    def close(self, exc_info: Any = False) -> None:
        """A client that speaks no TLS is told so."""
        if isinstance(exc_info, ssl.SSLError) and exc_info.reason == "HTTP_REQUEST" and not self.closed():
            self._owner.lingering.add(self.socket, _NOT_TLS)
        super().close(exc_info)

    def _take_leave(self) -> None:
        """Says so: what ends without a word may have been cut, and some clients take it for that."""
        with suppress(OSError, ValueError):
            self.socket.unwrap()

    def _end_sending(self) -> None:
        """Nothing: half of a TLS connection can't be closed. The deadline that is set already ends it."""
