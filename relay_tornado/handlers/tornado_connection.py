"""One connection as Tornado reads requests from it: it keeps each request's raw head, its deadline, and answers before
closing.

Tornado's `HTTP1ServerConnection` reads requests from it. Tornado's own timers are off: one deadline per connection,
checked by the listener's sweep, costs a request nothing.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from relay_tornado.delivery.liveness import acknowledged
from relay_tornado.delivery.outlet import Lane
from relay_tornado.handlers.admission import Admission
from relay_tornado.handlers.heads import ends_lines, essential, frames_body, names_host, says_close
from relay_tornado.handlers.lingering import Lingering
from relay_tornado.low_memory import wake
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.transport.limits import DISCARD_TIME, NEVER, READ_SIZE, Limits
from relay_tornado.transport.refusals import LATE, MALFORMED, MOST_LINES, TOO_MANY_LINES, malformed

_TORNADOS_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
_NO_REQUEST = b"\r\n\r\n"
"""Given to Tornado in place of a head that it would accept and must not, so that it rejects it as malformed."""


class Owner(Protocol):
    """The owner of a connection."""

    admission: Admission
    """Where requests wait that are no webhooks."""
    pacing: Admission
    """Where connections wait that send many chunks or frames: a body in thousands of chunks would not arrive in its
    time if each few of them waited behind other requests."""
    limits: Limits
    lingering: Lingering
    trust: ProxyTrust

    def forget(self, connection: TornadoConnection) -> None:
        """The connection's descriptor is closed."""


class _Short(list[Any]):
    """The part of a deque's interface that Tornado uses, for a few entries."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class _State(enum.Enum):
    """The state of a connection's current request.

    IDLE ─ a byte ─▶ HEAD ─ its end ─▶ ANSWER ─ the next request ─▶ IDLE
    ANSWER ─ expect_body ─▶ BODY ─ arrived ─▶ ANSWER
    BODY ─ drop_body ─▶ REST ─ arrived ─▶ ANSWER
    BODY ─ expire ─▶ LATE
    ANSWER ─ waits ─▶ WAIT ─ the next request ─▶ IDLE
    ANSWER ─ detached ─▶ OPEN ─ drop ─▶ DEAF
    """

    IDLE = enum.auto()
    """No byte of the next head has arrived."""
    HEAD = enum.auto()
    """A head is arriving."""
    ANSWER = enum.auto()
    """A request is in progress, or its answer is being sent; its body is complete."""
    BODY = enum.auto()
    """A request is in progress, and its body is still to come."""
    REST = enum.auto()
    """A request is answered; the rest of its body is still to come, and is dropped."""
    LATE = enum.auto()
    """The body did not arrive in time."""
    WAIT = enum.auto()
    """A complete request is in progress, but only while its client keeps its sending half open."""
    OPEN = enum.auto()
    """No more requests are read: the connection is a WebSocket or an event stream."""
    DEAF = enum.auto()
    """As OPEN, but everything received is dropped."""


_IDLE, _HEAD, _ANSWER, _BODY, _REST, _LATE, _WAIT, _OPEN, _DEAF = _State

CHUNKS_A_TURN = 16
"""Maximum number of chunks of one body read in one turn of the loop; this takes as long as a request. Tornado reads
256, perhaps of one byte each, from every sender before anything else runs."""

_DROPS = 16
"""Maximum number of reads whose data is dropped in one turn of the loop."""


class TornadoConnection(IOStream):
    """One accepted connection. `head` is the raw head of the last request read, from its request line (or the line ends
    before it) to its closing empty line. `remote_ip` and `protocol` are read by Tornado. Behind a trusted proxy they
    are those of the last request read, and `forwarded_host` is the host it asked for, if the proxy names it.

    `deadline` is the monotonic time at which the sweep calls `expire`. `last` says that no request is read after the
    one in progress, or after the next one if none is.

    A client that closes its half of the connection during its request may still read: it gets the answers to what it
    has sent, including frames of a WebSocket, unless `halves` is false. But the connection is kept only briefly, since
    the client may be gone.
    """

    halves = True
    """Whether half of the connection can be closed."""

    # In addition to IOStream's own attributes: without slots, a stream's dict would be too large to share its keys.
    __slots__ = (
        "_acknowledged",
        "_ahead",
        "_all_sent",
        "_chunks",
        "_lane",
        "_linger",
        "_listen_on",
        "_owner",
        "_paced",
        "_protocol",
        "_proxy",
        "_request",
        "_turn",
        "deadline",
        "forwarded_host",
        "head",
        "last",
        "limits",
        "protocol",
        "remote_ip",
    )

    def __init__(self, connection: socket.socket, remote_ip: str, owner: Owner, ahead: bytes = b"") -> None:
        """`ahead` is the data already read from the socket, at most half of the limits' buffer."""
        super().__init__(connection, max_buffer_size=owner.limits.buffer, read_chunk_size=READ_SIZE)
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
        self.limits = owner.limits
        self._owner = owner
        self._linger = False
        self._listen_on = False
        self._chunks = 0
        self._turn: asyncio.Future[None] | None = None
        self._all_sent = False
        self._paced = False
        self._acknowledged = 0
        self._lane: Lane | None = None
        super().set_nodelay(True)

    @property
    def busy(self) -> bool:
        """Whether a request is in progress, or will be in the next turn of the loop because its head has been read."""
        if self._ahead:
            return True
        return self._request is not _IDLE and not (self._request is _HEAD and super().reading())

    @property
    def unfinished(self) -> int:
        """The bytes in memory of heads, behind the request that is in progress, and of a WebSocket's message that is
        still arriving."""
        return len(self._ahead) + len(self.head) + self._read_buffer_size

    def works_on(self, head: bytes) -> bool:
        """Whether the request with this head, the same object as `head`, is still in progress. A WebSocket or an event
        stream is none any more."""
        return self.head is head and self.busy and self._request not in (_OPEN, _DEAF) and not self.closed()

    @property
    def receiving(self) -> bool:
        """Whether the request's body is still to come."""
        return self._request is _BODY

    @property
    def late(self) -> bool:
        """Whether the body did not arrive in time."""
        return self._request is _LATE

    @property
    def peer(self) -> str:
        """The address at the other end of the socket."""
        return self._proxy or self.remote_ip

    @property
    def proxied(self) -> bool:
        """Whether the connection comes from a trusted proxy."""
        return bool(self._proxy)

    def set_nodelay(self, value: bool) -> None:
        """Does nothing: TCP_NODELAY is always on. Tornado would switch it for each answer, with two useless system
        calls."""

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Reads a head, as Tornado does for each request, and returns the part of it that Tornado needs."""
        if self.last and self._request is not _IDLE:
            self.close()
        self._request = _IDLE
        self._paced = False
        if self.closed():
            # Data behind the last request is ignored, since no answer would be sent.
            raise StreamClosedError
        self._listen_on = True
        self.head = b""
        self.deadline = time.monotonic() + self.limits.idle_timeout
        reading = super().read_until_regex(regex, max_bytes)
        if self._read_buffer_size and self._request is _IDLE:  # it arrived behind the last request
            self._begin_head()
        try:
            self.head = head = await reading
        finally:
            del reading  # its error refers to this frame
        self.arrived()
        if self._proxy:
            origin = self._owner.trust.origin(self._proxy, head)
            self.remote_ip = origin.address
            self.protocol = origin.scheme or self._protocol
            self.forwarded_host = origin.host
        if not (names_host(head) and ends_lines(head) and frames_body(head)):
            return _NO_REQUEST
        needed = essential(head)
        if needed.count(b"\n") > MOST_LINES + 2:  # with the request line and the empty one
            self._linger = True
            self.write(TOO_MANY_LINES)
            self.close()
            raise StreamClosedError
        if needed is head:  # not cut down, as a webhook's is
            await self.take_turn(self._owner.admission)
            if self.closed():  # its client has left
                raise StreamClosedError
        return says_close(needed)

    async def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> bytes:
        """Reads the line with a chunk's length, the only use that Tornado makes of this method."""
        self._chunks += 1
        if self._chunks % CHUNKS_A_TURN == 0:
            await self.next_turn()
        return await super().read_until(delimiter, max_bytes)

    async def next_turn(self) -> None:
        """Returns in the next turn of the loop, or in a later one if many connections have much to be read."""
        await asyncio.sleep(0)
        await self.take_turn(self._owner.pacing)

    async def take_turn(self, queue: Admission) -> None:
        """Returns after those that wait already, or as soon as the connection is closed."""
        self._turn = queue.enter()
        if self._turn is not None:
            try:
                await self._turn
            finally:
                self._turn = None

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Reads the data given as `ahead`, then from the socket. A head's deadline starts with its first byte."""
        if self._ahead:
            # All at once: only an event on the socket would cause a second read.
            ahead, self._ahead = self._ahead, b""
            buf[: len(ahead)] = ahead  # Tornado's buffer is a bytearray, and grows
            return len(ahead)
        size_or_none = super().read_from_fd(buf)
        if self._request is _IDLE and size_or_none:
            self._begin_head()
        if self._request is _DEAF and size_or_none:
            # uvloop reports a reset connection only once, even if data before the reset is still to be read.
            for _ in range(_DROPS):
                if not (size_or_none := super().read_from_fd(buf)):
                    return size_or_none
            return None
        if size_or_none == 0 and self.halves:
            if super().reading():
                # A complete message may have arrived just before the end, since Tornado does not check after each part.
                # If so, the next read meets the end again.
                return size_or_none if self._find_read_pos() is None else None
            if self._request in (_ANSWER, _BODY, _REST) or (self._request is _OPEN and self._read_buffer_size):
                self._end_reading()
                return None
        return size_or_none

    def _begin_head(self) -> None:
        """Notes the first bytes of a head."""
        self._request = _HEAD
        self.deadline = min(self.deadline, time.monotonic() + self.limits.head_timeout)

    def _end_reading(self) -> None:
        """Stops watching for data after the client's end: nothing reads now, and the next read meets the end and
        closes."""
        self._all_sent = True
        if self.deadline == NEVER:
            self._take_time()
        # The end stays readable, and the loop would report it in every turn.
        self.io_loop.update_handler(self.socket, IOLoop.ERROR | (IOLoop.WRITE if self.writing() else 0))

    def _take_time(self) -> None:
        """Lets the answer take any time; only a short time if the client has closed its half, and so may be gone."""
        self.deadline = time.monotonic() + DISCARD_TIME if self._all_sent else NEVER

    def reading(self) -> bool:
        """Also True once after a head that arrived with data behind it. Otherwise the poller would be told to stop
        listening and, one answer later, to listen again: two system calls per request. Data that arrives meanwhile is
        read once only."""
        if super().reading():
            return True
        listen_on, self._listen_on = self._listen_on, False
        return listen_on

    def writing(self) -> bool:
        """Whether data waits for the kernel. Every delivery asks, and `IOStream` needs three calls for it."""
        try:
            return self._write_buffer._size > 0
        except AttributeError:  # the buffer is None once the stream is closed
            return False

    def expect_body(self) -> None:
        """Starts the time that a body may take."""
        self._request = _BODY
        self.deadline = time.monotonic() + self.limits.body_timeout

    def arrived(self) -> None:
        """Notes that the request is complete, unless a body is expected next."""
        self._request = _ANSWER
        self._take_time()

    def drop_body(self) -> None:
        """Notes that the request is answered before its body, if it has one, has arrived. The body keeps its deadline,
        however slowly the client reads the answer."""
        if self._request is _BODY:
            self._request = _REST

    def waits(self) -> bool:
        """Notes that the request is in progress only while its client may still send; the end of that closes the
        connection. Returns whether it has ended already."""
        self._request = _WAIT
        return self._all_sent

    def refused(self, seconds: float) -> None:
        """Notes that the `last` answer went out while the body was still coming: nothing more is sent, and the
        connection closes once the body is read, or after these seconds."""
        self.deadline = time.monotonic() + seconds
        self.when_written(self._end_sending)

    def detached(self) -> None:
        """Notes that no more requests are read. The connection may be quiet for days, so this frees the head, and two
        of Tornado's deques that take almost a kilobyte each even if empty."""
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
        """Drops everything that the client has sent or will send. It is still read, so that the end of the connection
        is noticed."""
        if not self.closed():
            self._request = _DEAF
            self.read_bytes(self.limits.buffer, partial=True)

    def linger(self) -> None:
        """After closing, drops what the client still sends for a while, so that it reads the answer instead of a
        reset."""
        self._linger = True

    def expire(self) -> None:
        """Closes a connection that is past its deadline; a sender whose body is late gets a 408 first."""
        if self._paced and not self.writing():
            # Everything written so far has left, and more is to come.
            self._paced = False
            self._take_time()
            return
        if self._paced and self._progress() >= self.limits.enough_read:
            return
        if self._request is _BODY:
            self._request = _LATE
            if not self.writing():
                self.write(LATE)
        self.close()

    def when_written(self, callback: Callable[[], None]) -> None:
        """Calls back when everything written has left, at once if it has. From now on, that may take as long as a
        connection may be idle; for an answer, this time starts anew with every part that leaves."""
        if not self.writing():
            callback()
            return
        self.deadline = min(self.deadline, time.monotonic() + self.limits.idle_timeout)
        self.write(b"").add_done_callback(lambda _: callback())

    def _end_sending(self) -> None:
        if not self.closed():
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        """Replaces Tornado's bare answer to a malformed request by one with an explanation."""
        if data == _TORNADOS_400:
            self._linger = True
            data = malformed(self.head)
        writing = super().write(data)
        if self._request in (_ANSWER, _WAIT) and self.writing():
            self._paced = True
            self._progress()
        return writing

    def write_to_fd(self, data: memoryview) -> int:
        """Extends the deadline with every part of an answer that leaves: a client may read slowly, but not pause for
        longer than a connection may be idle."""
        sent = super().write_to_fd(data)
        if self._paced and sent:
            self._progress()
        return sent

    def open_to(self, lane: Lane) -> None:
        """Sets the lane's socket, to which delivery may write directly as long as no data waits for the kernel here."""
        self._lane = lane
        lane.socket = None if self.writing() or self.closed() else self.socket

    def _handle_write(self) -> None:
        super()._handle_write()
        if self._lane is not None:
            self.open_to(self._lane)

    def _progress(self) -> int:
        """Starts the time anew. Returns how many bytes the client has read since the last call."""
        self.deadline = time.monotonic() + self.limits.idle_timeout
        before, self._acknowledged = self._acknowledged, acknowledged(self.socket) or 0
        return self._acknowledged - before

    def _is_connreset(self, exc: BaseException) -> bool:
        """Treats every error of the kernel or TLS as the client's end, so that the connection is closed silently.
        Tornado recognises only some, and raises OpenSSL's error for a reset."""
        return isinstance(exc, OSError)

    def close(self, exc_info: Any = False) -> None:
        """Tornado closes a connection whose head, or the line before a chunk of a body, is too long; its sender gets an
        answer first."""
        if isinstance(exc_info, BaseException):
            # Tornado keeps the exception. The frames of its traceback would keep alive the work in progress: if answers
            # were being sent, a whole commit of webhooks, in a phase hidden from Python's garbage collector.
            exc_info.__traceback__ = None
        if isinstance(exc_info, MemoryError):
            # Tornado only warns of it. It may have hit the wake-up of the task that serves this connection.
            told = {"message": "a connection had no memory", "exception": exc_info}
            asyncio.get_running_loop().call_exception_handler(told)
        if not self.closed():
            if isinstance(exc_info, UnsatisfiableReadError) and (self.receiving or not self.busy):
                self._linger = True
                self.write(MALFORMED if self.receiving else self.limits.head_too_long)
            if not self.writing():
                self._take_leave()
            if self._linger and not self.closed():
                self._owner.lingering.add(self.socket, self.peer)
        super().close(exc_info)
        if self._turn is not None and not self._turn.done():
            # At once: in the queue, crowds that have left would keep their data, and others waiting.
            wake(self._turn, None)

    def _take_leave(self) -> None:
        """Called when everything written has left, right before the connection is closed."""

    def close_fd(self) -> None:
        if self.socket is not None:  # else an earlier call had no memory for the rest
            super().close_fd()
        self._owner.forget(self)

    def __str__(self) -> str:
        return self.remote_ip


def stream_of(request: HTTPServerRequest) -> TornadoConnection:
    """The connection that a request arrived on."""
    connection = request.connection
    assert isinstance(connection, HTTP1Connection)
    assert isinstance(connection.stream, TornadoConnection)
    return connection.stream
