"""Connections that carry webhooks from the socket directly to `Ingest`, and its answers back.

Every plain connection begins here. At the first request that `transport.heads` does not read, or that is for no input,
the socket and the bytes already read go to Tornado and stay there, so a client may send both kinds on one connection.
Tornado's connections keep the same times, and end in the same way.

At most one request of a connection is in progress. Data behind it is read once, up to `READ_AHEAD` bytes, if no more
than that has been read with the request; then the socket is not read until the answer has left.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import time
from contextlib import suppress
from typing import Final, Protocol

import structlog

from relay_tornado.delivery.liveness import acknowledged
from relay_tornado.ingest.endpoints import WEBHOOKS_PREFIX, Place
from relay_tornado.ingest.ingest import Head, Ingest, Upload
from relay_tornado.low_memory import try_log
from relay_tornado.model import Appended
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.transport.heads import has_end, read_head
from relay_tornado.transport.limits import DISCARD_TIME, NEVER, READ_SIZE, SMALL_BODY, Limits
from relay_tornado.transport.refusals import LATE, NOT_HTTPS
from relay_tornado.transport.turn_queue import TurnQueue
from relay_tornado.wire.answers import CLOSE, Answer, date_line

READ_AHEAD: Final = 4 << 10

REFUSALS_A_TURN: Final = 8
"""Maximum number of requests of one connection in one turn of the loop that are answered at once, as refusals are. Any
other waits for a commit. One read may hold a thousand, and others wait meanwhile."""
TURNS: Final = 8
"""Maximum number of connections that go on with such requests in one turn of the loop."""

_HELLO: Final = b"\x16\x03"
"""The first bytes of a TLS handshake; no HTTP request begins with them."""

_log = structlog.get_logger(__name__)


class Owner(Protocol):
    """The owner of the connections."""

    limits: Limits
    trust: ProxyTrust

    def forget(self, connection: DirectConnection) -> None:
        """The connection's descriptor is closed."""

    def hand_over(self, connection: DirectConnection, data: bytes) -> None:
        """The connection reads no more: the socket, from which this data was read, now belongs to the owner."""


class Direct:
    """State shared by all connections. Everything runs in the event loop that created it."""

    def __init__(self, ingest: Ingest, owner: Owner) -> None:
        self.ingest = ingest
        self.trust = owner.trust
        self.limits = owner.limits
        self.owner = owner
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray(READ_SIZE)
        """The buffer that all connections read into. It holds nothing between callbacks."""
        self.view = memoryview(self.buffer)
        self._answer: Answer | None = None
        self._second = 0
        self._encoded = b""
        self.turns = TurnQueue(TURNS, DirectConnection.take_turn)

    def encoded(self, answer: Answer) -> bytes:
        """The answer as sent on a connection that stays open. The last one is cached, since most answers repeat it."""
        now = int(time.time())
        if answer is not self._answer or now != self._second:
            self._answer, self._second, self._encoded = answer, now, answer.encode(date_line())
        return self._encoded


class _State(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    """The rest of a body is still to come: it is fed to the upload, or dropped after a refusal."""
    ANSWER = enum.auto()
    """The request is complete; its answer is pending or being sent."""
    GONE = enum.auto()


_HEAD, _BODY, _ANSWER, _GONE = _State


class DirectConnection:
    """One accepted socket. `remote_ip` is the sender of the last request that was read.

    `deadline` is the monotonic time at which the sweep calls `expire`. `busy` says whether a request is in progress,
    `last` whether no further request is to be read.
    """

    __slots__ = (
        "_acknowledged",
        "_discard_limit",
        "_draining",
        "_ends",
        "_fd",
        "_is_head",
        "_left",
        "_looks",
        "_out",
        "_place",
        "_proxy",
        "_reading",
        "_rest",
        "_running",
        "_scanned",
        "_shared",
        "_state",
        "_upload",
        "_waits",
        "deadline",
        "last",
        "remote_ip",
        "socket",
    )

    def __init__(self, shared: Direct, connection: socket.socket, remote_ip: str) -> None:
        connection.setblocking(False)
        with suppress(OSError):  # the connection may be reset already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.remote_ip = remote_ip
        self.last = False
        self.deadline = time.monotonic() + shared.limits.idle_timeout
        self._shared = shared
        self._fd = connection.fileno()
        self._proxy = remote_ip if shared.trust.trusts(remote_ip) else ""
        self._state = _HEAD
        self._rest = b""
        self._scanned = 0
        self._running = False
        self._place: Place | None = None
        self._upload: Upload | None = None
        self._left = 0
        self._discard_limit = 0
        self._is_head = False
        self._ends = False
        self._out: memoryview | None = None
        self._acknowledged = 0
        self._draining = False
        self._reading = False
        self._looks = False
        self._waits = False

    def begin(self) -> None:
        """Starts reading."""
        self._reading = True
        self._shared.loop.add_reader(self._fd, self._readable)

    @property
    def busy(self) -> bool:
        return self._state is not _HEAD or self._waits

    @property
    def unfinished(self) -> int:
        """The bytes in memory of heads, and behind the request that is in progress."""
        return len(self._rest) + (0 if self._upload is None else self._upload.head_size)

    @property
    def peer(self) -> str:
        """The address at the other end of the socket."""
        return self._proxy or self.remote_ip

    def writing(self) -> bool:
        """Whether part of an answer waits for the client to read."""
        return self._out is not None

    def close(self) -> None:
        """Closes at once: an unfinished upload is abandoned, and no client's answer is awaited any more. May be
        repeated."""
        if self._state is _GONE:
            return
        self._let_go()
        self.socket.close()
        self._shared.owner.forget(self)
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abandon()
            upload.leave()

    def expire(self) -> None:
        """Closes a connection that is past its deadline; a sender whose body is late gets a 408 first."""
        if self._out is not None and self._state is _ANSWER and self._progress() >= self._shared.limits.enough_read:
            return
        if self._upload is not None:
            self._shared.ingest.counters.rejected("timeout")
            with suppress(OSError):
                self.socket.send(LATE)
        self.close()

    def _let_go(self) -> None:
        self._stop_reading()
        if self._out is not None:
            self._shared.loop.remove_writer(self._fd)
        self._state = _GONE
        self._rest = b""
        self._out = None

    # reading

    def _readable(self) -> None:
        shared = self._shared
        answering = self._state is _ANSWER
        if answering and len(self._rest) >= READ_AHEAD:
            self._stop_reading()
            return
        try:
            size = self.socket.recv_into(shared.buffer, READ_AHEAD if answering else READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not size:
            self._end_reading()
            return
        if self._state is _HEAD and not self._rest:
            try:
                if self._take(size):
                    return
            except Exception:
                self._failed()
                return
        data = bytes(shared.view[:size])
        self._rest = self._rest + data if self._rest else data
        if answering:
            self._stop_reading()
        else:
            self._run()
            if (self._state is _BODY or (self._state is _HEAD and self._rest)) and not self._looks:
                self._looks = True
                shared.loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        """Reads again, since more of a request is to come. uvloop reports a reset connection only once, even if data
        before the reset is still to be read."""
        self._looks = False
        if self._reading:
            self._readable()

    def _end_reading(self) -> None:
        """Handles the end of the sender's half of the connection. The sender may still read, so one whose webhooks are
        complete gets its answers. One that waits for a client's answer counts as gone: no client should answer it in
        vain. The connection is kept only briefly, since the sender may have gone. The next read meets the end again."""
        if self._state is not _ANSWER or self._upload is not None:
            self.close()
            return
        self.deadline = time.monotonic() + DISCARD_TIME
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading:
            self._shared.loop.remove_reader(self._fd)
            self._reading = False  # last: without memory it stays to be done

    def _take(self, size: int) -> bool:
        """Takes what was read if it is exactly one complete webhook, as in most cases; this saves a copy."""
        shared = self._shared
        buffer, ingest = shared.buffer, shared.ingest
        head = read_head(buffer, size)
        if head is None:
            return False
        method, target, block, start, host, length, keeps = head
        if start + length != size or start > shared.limits.max_header:
            return False
        if self._proxy:
            host = self._through(bytes(shared.view[:start])) or host
        place = ingest.endpoints.find(target, host)
        if place is None or place.endpoint.waits:
            return False
        self._is_head = method == "HEAD"
        self._ends = not keeps
        self._place = place
        self._state = _ANSWER
        self.deadline = NEVER
        refusal = ingest.take(place, method, block, bytes(shared.view[start:size]), self.remote_ip, self._stored)
        if refusal is not None:
            self._answered(refusal)
        return True

    def _through(self, head: bytes) -> str | None:
        """Sets the sender of a request that came through a proxy. Returns the requested host, if the proxy names it."""
        origin = self._shared.trust.origin(self._proxy, head)
        self.remote_ip = origin.address
        return origin.host

    def _run(self) -> None:
        """Handles the data that was read, one request after another, until one has to wait."""
        if self._running or self._waits:
            return  # an answer that came at once: the loop below continues with it, or the next turn
        self._running = True
        begun = 0
        try:
            while self._rest:
                if self._state is _HEAD:
                    if begun == REFUSALS_A_TURN:
                        self._wait_for_turn()
                        return
                    if not self._begin():
                        break
                    begun += 1
                elif self._state is _BODY:
                    data, self._rest = self._rest, b""
                    self._body(data)
                else:
                    break
            if not self._reading and self._state in (_HEAD, _BODY):
                self.begin()
        except Exception:
            self._failed()
        finally:
            self._running = False

    def _wait_for_turn(self) -> None:
        """Goes on in a later turn of the loop. The socket is not read before."""
        self._stop_reading()
        self._shared.turns.add(self)
        self._waits = True

    def take_turn(self) -> bool:
        """Goes on with the requests that have been read. Returns True."""
        self._waits = False
        self._run()
        if self.last and not self.busy:
            self.close()  # a stop that found it busy waits for its end, and the rest of a head may never come
        return True

    def _failed(self) -> None:
        """Called in an `except` block."""
        self.close()
        try_log(_log.exception, "request_failed")

    def _begin(self) -> bool:
        """Begins the next request. Returns whether its head was complete."""
        data, shared = self._rest, self._shared
        ingest = shared.ingest
        head = None if self._scanned and not has_end(data, self._scanned) else read_head(data, len(data))
        if head is None:
            if data.startswith(_HELLO):
                # At once: a client that waits for a TLS handshake would otherwise wait for the whole time that a head
                # may take.
                with suppress(OSError):
                    self.socket.send(NOT_HTTPS)
                self.close()
            elif len(data) > shared.limits.max_header or has_end(data, self._scanned):
                self._hand_over(data)
            elif not self._scanned:
                self._scanned = max(len(data) - 3, 1)
                self.deadline = min(self.deadline, time.monotonic() + shared.limits.head_timeout)
            else:
                self._scanned = len(data) - 3
            return False
        method, target, block, size, host, length, keeps = head
        self._scanned = 0
        if self._proxy:
            host = self._through(data[:size]) or host
        place = ingest.endpoints.find(target, host)
        if size > shared.limits.max_header or (place is None and not target.startswith(WEBHOOKS_PREFIX)):
            self._hand_over(data)
            return False
        self._is_head = method == "HEAD"
        self._ends = not keeps
        body = data[size : size + length]
        self._rest = data[size + length :]
        outcome = ingest.begin(Head(method, target, block, length, self.remote_ip, host), place)
        self._left = length
        if isinstance(outcome, Upload):
            self._upload = outcome
        else:
            self._refuse(outcome, goes_on=length <= SMALL_BODY)
        if self._state is not _GONE:
            self._body(body)
        return True

    def _hand_over(self, data: bytes) -> None:
        self._let_go()
        self._shared.owner.hand_over(self, data)

    def _body(self, data: bytes) -> None:
        """Takes the next bytes of the body, perhaps none, and keeps any data behind it."""
        left = self._left
        if len(data) > left:
            self._rest = data[left:]
            data = data[:left]
        if data:
            self._left -= len(data)
            if self._upload is not None:
                refusal = self._upload.feed(data)
                if refusal is not None:
                    self._upload = None
                    self._refuse(refusal, goes_on=False)
            else:
                self._discard_limit -= len(data)
                if self._discard_limit < 0:
                    self.close()
            if self._state is _GONE:
                return
        if self._left:
            if self._state is _HEAD:
                self._state = _BODY
                if self._upload is not None:
                    self.deadline = time.monotonic() + self._shared.limits.body_timeout
            return
        self._whole()

    def _whole(self) -> None:
        """The request is complete."""
        upload = self._upload
        self._state = _ANSWER
        if upload is None:
            if self._out is None:
                self._next()
            return
        self.deadline = NEVER
        upload.finish(self._answered)
        if not upload.waits:
            self._upload = None
        elif self._upload is not None and not self._reading:
            self.begin()  # the sender may have closed its half during an earlier request

    # writing

    def _stored(self, outcome: Appended | BaseException) -> None:
        place, self._place = self._place, None
        assert place is not None
        try:
            answer = self._shared.ingest.answer(place, outcome)
        except BaseException:
            self.close()
            raise
        self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        if self._state is _GONE:
            return
        self._upload = None
        try:
            self._send(answer)
        except BaseException:
            self.close()  # otherwise the sender would wait for an answer forever
            raise
        if self._out is None and self._state is not _GONE:
            self._next()

    def _refuse(self, answer: Answer, *, goes_on: bool) -> None:
        """Answers a request whose body may still be coming. The body is read and dropped, within bounds, so that the
        sender reads the answer instead of a reset."""
        shared = self._shared
        self._discard_limit = shared.limits.discarded
        now = time.monotonic()
        if goes_on:
            self.deadline = now + shared.limits.body_timeout
        else:
            self._ends = True
            self._draining = True
            self.deadline = now + DISCARD_TIME
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if not (self._ends or self.last or self._is_head):
            data = self._shared.encoded(answer)
        else:
            data = answer.encode(date_line() + (CLOSE if self._ends or self.last else b""), head=self._is_head)
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._out = memoryview(data)[sent:]
            self.deadline = min(self.deadline, time.monotonic() + self._shared.limits.idle_timeout)
            self._acknowledged = acknowledged(self.socket) or 0
            self._shared.loop.add_writer(self._fd, self._writable)
        elif self._draining:
            self._end_sending()

    def _writable(self) -> None:
        assert self._out is not None
        try:
            self._out = self._out[self.socket.send(self._out) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if self._out:
            if self._state is _ANSWER:
                # The answer may leave as slowly as the sender reads, if at least some of it leaves in this time.
                self._progress()
            return
        self._out = None
        self._shared.loop.remove_writer(self._fd)
        if self._draining:
            self._end_sending()
        if self._state is _ANSWER:
            self._next()

    def _progress(self) -> int:
        """Starts the time anew. Returns how many bytes the sender has read since the last call."""
        self.deadline = time.monotonic() + self._shared.limits.idle_timeout
        before, self._acknowledged = self._acknowledged, acknowledged(self.socket) or 0
        return self._acknowledged - before

    def _end_sending(self) -> None:
        """Ends the sending half; the sender sees that while the data it still sends is dropped."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _next(self) -> None:
        """The request has been read and its answer has left."""
        if self._ends or self.last:
            self.close()
            return
        self._state = _HEAD
        self.deadline = time.monotonic() + self._shared.limits.idle_timeout
        if self._rest or not self._reading:
            self._run()
