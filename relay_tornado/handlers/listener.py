"""Accepts connections, and enforces their number and their deadlines."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import socket
import time
from collections.abc import Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final

import structlog
from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.ioloop import IOLoop

from relay_tornado.counters import Counters
from relay_tornado.errors import StartupError
from relay_tornado.handlers.admission import Admission
from relay_tornado.handlers.binding import BACKLOG, listen
from relay_tornado.handlers.lingering import Lingering
from relay_tornado.handlers.peers import Peers
from relay_tornado.handlers.tls_connection import TlsConnection
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ingest.ingest import Ingest
from relay_tornado.low_memory import Timer, try_log
from relay_tornado.model import MIB
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.rate_limits import LogLimit
from relay_tornado.settings import Settings
from relay_tornado.tls import Certificate
from relay_tornado.transport.direct import Direct, DirectConnection
from relay_tornado.transport.limits import READ_SIZE, Limits
from relay_tornado.transport.turn_queue import TurnQueue

ACCEPTS_A_TURN = 64
"""Maximum number of connections accepted in one turn of the loop."""
HANDSHAKES_A_TURN = 8
"""Maximum number of connections handed to Tornado, or accepted for a TLS handshake, in one turn of the loop. If
thousands reconnect at once, each of their requests takes ten times as long as a webhook, and would delay senders."""
REQUESTS_A_TURN = 4
"""Maximum number of requests that are no webhooks, begun in one turn of the loop. Each takes as long as ten webhooks,
and 100 if its head is made to: from thousands of connections at once, they would delay senders for seconds."""
RESERVED_DESCRIPTORS = 128
"""Descriptors not available to connections: for the database's files, the control socket, the log, libraries."""

MAX_OTHER_BODY = 64 << 10
"""Maximum size in bytes of the body of a request that is not a webhook: none needs one."""

MOST_UNFINISHED = 64 * MIB
"""Maximum bytes in memory of unfinished requests: heads, what is read behind them, and messages of WebSockets that are
still arriving. Bodies have bounds of their own, and none is kept before a token or an input's URL was shown."""

MOST_UNSENT = 256 << 10
"""Bytes that wait in the kernel for a connection's turn to be sent (beyond those that are on their way), from which it
takes no more. It would hold 4 MB for a client that reads slowly, and an event's `ack_wait` begins when it is passed to
the kernel. Accepted connections inherit this."""

LAST_WORDS = 1.0
"""Seconds for which a stop waits for connections that only linger."""

ON_ITS_WAY = 0.5
"""Seconds for which a stop keeps idle connections if the service manager keeps listening: a request may be on its way,
and its sender would be reset. Otherwise new connections are refused meanwhile, and `ALL_BUT_HERE` is enough."""
ALL_BUT_HERE = 0.05

_ACCEPT_PAUSE = 0.2
_LOOK = 0.02
_SWEEP = 1.0

FLAGS: Final = "--host and --port"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entrance:
    """How connections arrive: over TLS if there is a certificate, through which proxies, and on which inherited
    sockets, if any."""

    certificate: Certificate | None = None
    trust: ProxyTrust = ProxyTrust()
    inherited: Sequence[socket.socket] = ()
    flags: str = FLAGS
    """The settings that choose another address, for the error if this one can't be used."""


DIRECT = Entrance()
"""Plain HTTP, no proxies, own sockets."""


@dataclass(eq=False, slots=True)
class _Arrival:
    """A connection that was handed over and is not served yet. Thousands may arrive at once, and it takes time to make
    each into one that Tornado serves."""

    socket: socket.socket
    peer: str
    data: bytes
    closed: bool = False

    @property
    def unfinished(self) -> int:
        return len(self.data)

    def close(self) -> None:
        self.closed = True
        self.socket.close()
        self.data = b""


class _Serving(HTTP1ServerConnection):
    """Tornado's connection, closed if serving its requests fails: Tornado would leave it open."""

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        try:
            await super()._server_request_loop(delegate)
        except Exception:
            self.stream.close()
            raise


class Listener:
    """Listens on the settings' address, or on the entrance's sockets, from `start` to `stop`; `connections` holds the
    open connections.

    `limit` is their maximum number: `max_connections`, or less if the limit of descriptors requires it.
    """

    def __init__(
        self,
        delegate: HTTPServerConnectionDelegate,
        settings: Settings,
        entrance: Entrance = DIRECT,
        counters: Counters | None = None,
        ingest: Ingest | None = None,
    ) -> None:
        """If the settings say so and there is no TLS, webhooks go directly to `ingest`, and everything else to
        `delegate`; without `ingest`, `delegate` gets everything."""
        self._counters = Counters() if counters is None else counters
        self.trust = entrance.trust
        self._peers = Peers(entrance.trust)
        self._entrance = entrance
        self.connections: set[TornadoConnection | DirectConnection] = set()
        self._arriving = TurnQueue(HANDSHAKES_A_TURN, self._welcome)
        self._closed = asyncio.Event()
        self.lingering = Lingering(self._peers.add, self._left)
        self.admission = Admission(REQUESTS_A_TURN, stay=False)
        self.pacing = Admission(REQUESTS_A_TURN, stay=False)
        self.limit = _limit(settings)
        self._delegate = delegate
        self._address = settings.host, settings.port
        self.limits = Limits(settings)
        self._parameters = HTTP1ConnectionParameters(
            chunk_size=2 * READ_SIZE, max_header_size=settings.max_header, max_body_size=MAX_OTHER_BODY
        )
        self._direct: Direct | None = None
        if ingest is not None and settings.transport == "direct" and entrance.certificate is None:
            self._direct = Direct(ingest, self)
        self._sockets: list[socket.socket] = []
        self._refused = 0
        self._log_limit = LogLimit()
        self._loop = IOLoop.current()
        times = settings.idle_timeout, settings.head_timeout, settings.body_timeout
        self._interval = max(0.01, min(_SWEEP, *(each / 4 for each in times)))
        # Not one of Tornado's timers: they use the clock of day, and stop for as long as it is set back.
        self._sweeper = Timer(self._sweep)
        self._swept = time.monotonic()

    def start(self) -> int:
        """Binds, and starts accepting. Returns the port. Raises StartupError if the address can't be used."""
        self._sockets = _inherited(self._entrance.inherited) or listen(*self._address, self._entrance.flags)
        for listening in self._sockets:
            with suppress(OSError):  # the kernel has no such option
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)
            self._loop.add_handler(listening, self._accept, IOLoop.READ)
        self._sweeper.after(self._interval)
        return int(self._sockets[0].getsockname()[1])

    async def finish_begun(self) -> None:
        """Returns once the requests that are in progress now are answered. Accepts others meanwhile."""
        direct = {each for each in self.connections if isinstance(each, DirectConnection) and each.busy}
        for connection in direct:
            connection.last = True
        # These stay open: Tornado's answers would not say that the connection closes.
        heads = {each: each.head for each in self.connections if isinstance(each, TornadoConnection) and each.busy}
        while direct & self.connections or any(each.works_on(head) for each, head in heads.items()):
            self._closed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._closed.wait()

    @property
    def inherited(self) -> bool:
        """Whether the service manager listens, too: then nobody is refused once this listener has stopped."""
        return bool(self._entrance.inherited)

    def stop(self) -> None:
        """Stops accepting, and lets each connection finish the request that it is on, or that comes next."""
        self._parameters.no_keep_alive = True
        for listening in self._sockets:
            if not self.inherited:
                # Whoever has connected already would be reset; with an inherited socket the next process accepts them.
                self._accept_up_to(BACKLOG + 1, listening)  # the kernel keeps one more than it was told
            self._loop.remove_handler(listening)
            listening.close()
        self._sockets = []
        for connection in self.connections:
            connection.last = True

    async def drained(self) -> None:
        """Returns once no connection is open. Idle ones are closed after a moment in which a request may arrive; those
        that only linger are waited for briefly."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ON_ITS_WAY if self.inherited else ALL_BUT_HERE):
                await self._none_of(self.connections, self._arriving.waiting)
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.close()
        await self._none_of(self.connections, self._arriving.waiting)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._none_of(self.lingering)

    async def _none_of(self, *held: Sized) -> None:
        """Returns once all of these are empty."""
        while any(held):
            self._closed.clear()
            await self._closed.wait()

    def close(self) -> None:
        """Closes everything at once."""
        self.stop()
        self._sweeper.cancel()
        self._arriving.cancel()
        while self._arriving.waiting:
            self._arriving.waiting.popleft().close()
        for connection in tuple(self.connections):
            connection.close()
        self.lingering.close()

    def forget(self, connection: TornadoConnection | DirectConnection) -> None:
        """The connection's descriptor is closed."""
        self.connections.discard(connection)
        self._left(connection.peer)

    def _left(self, peer: str) -> None:
        """A connection of this address is closed."""
        self._closed.set()
        with suppress(MemoryError):  # then its address counts one too many; whoever closes it has more to do
            self._peers.remove(peer)

    def hand_over(self, connection: DirectConnection, data: bytes) -> None:
        """Lets Tornado serve this connection from now on; `data` is what was already read from it."""
        self.connections.discard(connection)
        try:
            self._arriving.waiting.append(_Arrival(connection.socket, connection.peer, data))
        except MemoryError:
            connection.socket.close()
            self._left(connection.peer)
            raise
        self._arriving.begin()

    def _welcome(self, arrival: _Arrival) -> bool:
        """Starts serving a connection that was handed over, if it is still open. Returns whether it was."""
        try:
            if not arrival.closed:
                self._begin(arrival.socket, arrival.peer, arrival.data)
        finally:
            if not self._arriving.waiting:
                self._closed.set()
        return not arrival.closed

    def _begin(self, connection: socket.socket, remote_ip: str, data: bytes | None) -> None:
        """Serves a connection, from which `data` was already read; None for a new one. If this fails, for example for
        lack of memory, the connection is closed and its client tries again."""
        made: TornadoConnection | DirectConnection | None = None
        counted = data is not None
        try:
            if not counted:
                self._peers.add(remote_ip)
                counted = True
            if data is None and self._direct is not None:
                made = direct = DirectConnection(self._direct, connection, remote_ip)
                self.connections.add(direct)
                direct.begin()
            elif (stream := self._stream(connection, remote_ip, data or b"")) is not None:
                made = stream
                self._serve(stream)
            else:
                self._peers.remove(remote_ip)
        except Exception as error:
            (made or connection).close()
            if made is None and counted:
                self._peers.remove(remote_ip)
            if isinstance(error, OSError):  # all that come meanwhile may meet it
                self._say("connection_not_served", reason=error.strerror, address=remote_ip)
            else:
                try_log(_log.exception, "request_failed")

    def _serve(self, stream: TornadoConnection) -> None:
        self.connections.add(stream)
        stream.last = self._parameters.no_keep_alive
        _Serving(stream, self._parameters, stream).start_serving(self._delegate)

    def _accept(self, listening: socket.socket, events: int) -> None:
        self._accept_up_to(ACCEPTS_A_TURN if self._entrance.certificate is None else HANDSHAKES_A_TURN, listening)

    def _accept_up_to(self, most: int, listening: socket.socket) -> None:
        for _ in range(most):
            try:
                connection, address = _accepted(listening)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(listening, error)
                return
            peer = _plain(address)
            free = self.limit - len(self.connections) - len(self._arriving.waiting) - len(self.lingering)
            if free <= 0 or self._peers.crowds(peer, free):
                connection.close()
                self._refuse(peer)
                continue
            self._begin(connection, peer, None)

    def _stream(self, connection: socket.socket, remote_ip: str, data: bytes) -> TornadoConnection | None:
        """Returns None if the client is gone before the TLS handshake."""
        certificate = self._entrance.certificate
        if certificate is None:
            return TornadoConnection(connection, remote_ip, self, data)
        connection.setblocking(False)
        try:
            secure = certificate.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            connection.close()
            return None
        try:
            return TlsConnection(secure, remote_ip, self)
        except BaseException:  # it is watched from the beginning
            self._loop.remove_handler(secure)
            secure.close()  # it has taken over the descriptor
            raise

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Pauses accepting. The socket stays readable while connections wait for a free descriptor: without a pause,
        the loop would do nothing else."""
        self._loop.remove_handler(listening)
        Timer(partial(self._resume, listening)).after(_ACCEPT_PAUSE)
        self._say("accepting_paused", reason=error.strerror)

    def _resume(self, listening: socket.socket) -> None:
        if listening.fileno() != -1:
            try:
                self._loop.add_handler(listening, self._accept, IOLoop.READ)
            except OSError as error:  # the kernel watches no more files
                self._pause(listening, error)

    def _refuse(self, peer: str) -> None:
        self._refused += 1
        self._counters.connections_refused += 1
        if self._say("too_many_connections", refused=self._refused, limit=self.limit, address=peer):
            self._refused = 0

    def _say(self, event: str, **what: Any) -> bool:
        """Logs at most once a second; returns whether it did."""
        if self._log_limit.due() is None:
            return False
        _log.warning(event, **what)
        return True

    def _sweep(self) -> None:
        self._sweeper.after(self._interval)
        # There may have been no memory to set the timer when a connection was handed over.
        if self._arriving.waiting:
            self._arriving.begin()
        now = time.monotonic()
        stood_still = now - self._swept > 2 * self._interval
        self._swept = math.inf if stood_still else now  # not twice in a row, however slow the loop is
        if stood_still:
            return  # data that arrived meanwhile is to be read first
        for connection in [late for late in self.connections if late.deadline < now]:
            connection.expire()
        self._make_room()
        self.lingering.sweep(now)

    def _make_room(self) -> None:
        """Closes connections whose unfinished requests take too much memory in all, those that take most first."""
        unfinished = [each for each in (*self.connections, *self._arriving.waiting) if each.unfinished]
        excess = sum([each.unfinished for each in unfinished]) - MOST_UNFINISHED
        if excess <= 0:
            return
        unfinished.sort(key=attrgetter("unfinished"), reverse=True)
        closed = 0
        for connection in unfinished:
            if excess <= 0:
                break
            excess -= connection.unfinished
            connection.close()
            if isinstance(connection, _Arrival):
                self._left(connection.peer)
            closed += 1
        self._counters.connections_refused += closed
        self._say("unfinished_requests_closed", connections=closed, limit_bytes=MOST_UNFINISHED)


def _inherited(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """The sockets passed by the service manager. Raises StartupError if one is not a TCP port, or does not listen."""
    for each in sockets:
        if each.family not in (socket.AF_INET, socket.AF_INET6) or each.type != socket.SOCK_STREAM:
            raise StartupError(
                f"can't serve on {each.getsockname()!r}, which the service manager handed over: it is no TCP port;"
                " write a port, or an address with one, behind ListenStream="
            )
        if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise StartupError(
                f"can't serve on {each.getsockname()!r}, which the service manager handed over: it does not listen;"
                " leave Accept=yes out of the socket's unit"
            )
    return list(sockets)


def _accepted(listening: socket.socket) -> tuple[socket.socket, str]:
    """A connection and its peer's address. `socket.accept` would lose the descriptor, and keep its sender waiting, if
    memory is short after the system call. Raises OSError."""
    descriptor, address = listening._accept()  # type: ignore[attr-defined]
    try:
        return socket.socket(listening.family, listening.type, fileno=descriptor), address[0]
    except BaseException:
        os.close(descriptor)
        raise


def _plain(address: str) -> str:
    """A peer's address; an IPv4 address without the prefix that it has on a socket for both families."""
    return address.removeprefix("::ffff:") if "." in address else address


def _limit(settings: Settings) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections or 1 << 20
    available = max(soft - RESERVED_DESCRIPTORS, soft // 2)
    return min(settings.max_connections or available, available)
