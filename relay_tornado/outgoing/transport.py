"""The HTTP/1.1 client for destinations: writes a request's bytes, and reads an answer of bounded size.

The head is written as given, so that methods, targets and headers arrive unchanged. h11 reads the answers that are not
plain enough for `plain_answers`. Redirects are answers like any other. Connections are kept for a while, and reused for
the same destination.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import h11

from relay_tornado import lateness
from relay_tornado.low_memory import Timer
from relay_tornado.model import KIB, MIB
from relay_tornado.outgoing.dialling import connect
from relay_tornado.outgoing.lacks import check_descriptors, is_lack
from relay_tornado.outgoing.names import Resolver
from relay_tornado.outgoing.plain_answers import read_plain
from relay_tornado.outgoing.retry_after import retry_after
from relay_tornado.wire.destination import Destination
from relay_tornado.wire.headers import decode

_JOINED: Final = 16 * KIB
_IDLE: Final = 15.0
"""Seconds for which an idle connection is kept; most servers keep it longer."""
_UNSENT: Final = 8 * MIB
"""Maximum bytes of requests, over all idle connections, that were answered before they were sent."""
_TOO_IDLE: Final = 408
"""Sent by some servers when they close an idle connection (RFC 9110, 15.5.9). It may cross the next request, to which
it is no answer."""
_MOST_INTERIM: Final = 16
"""Maximum number of interim answers (1xx) before the final one; a destination may send them without end."""
_PARTS: Final = 128
"""Parts of an answer, for example one-byte chunks, that are read before other tasks get a turn: some 5 ms."""

Kind: TypeAlias = Literal["timeout", "unreachable", "broken"]
Cut: TypeAlias = Literal["", "long", "broken", "late"]
_Key: TypeAlias = tuple[str, str, int, bool]


class Answer(NamedTuple):
    """A destination's answer. `cut` says why its body is incomplete: too long, broken off, or late; "" if it is
    complete."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    cut: Cut

    def retry_after(self, now: float) -> float | None:
        """Seconds after which the destination wants the request again, at `now` (unix time); None if it does not
        say."""
        return retry_after(self._first(b"retry-after"), self._first(b"date"), now)

    def _first(self, name: bytes) -> str | None:
        return next((decode(value) for each, value in self.headers if each.lower() == name), None)


class Unanswered(Exception):
    """There was no answer, for the reason in the message. The request may have been received. `detail` is what the
    message has besides `reason` and may quote the destination, which may repeat the request: it is not to be logged."""

    def __init__(self, kind: Kind, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.kind = kind
        self.reason = reason


class NoMeans(Unanswered):
    """The request was not sent, as the system had no descriptor, memory or thread for it: that says nothing of the
    destination."""


class Bounds(NamedTuple):
    """Limits: bytes of an answer's body, which is cut off beyond that, and of its head; idle connections per
    destination, and in all."""

    body: int
    head: int
    idle_each: int
    idle_all: int


class _Stale(Exception):
    """A reused connection was closed by the other side before a byte of the answer arrived."""


class Transport:
    """Sends requests; the caller limits how many at once. `close` cancels requests in flight."""

    def __init__(self, resolver: Resolver, bounds: Bounds) -> None:
        self._resolver = resolver
        self._bounds = bounds
        self._idle: dict[_Key, list[_Connection]] = {}
        self._live: set[_Connection] = set()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def send(
        self, head: bytes, body: bytes, destination: Destination, *, method: str, verify: bool, timeout: float
    ) -> Answer:
        """Sends a request. `head` ends with the empty line; `timeout` is in seconds for the whole exchange,
        see `lateness`. Raises Unanswered, NoMeans, and the resolver's errors."""
        key = (destination.scheme, destination.host, destination.port, verify)
        connection: _Connection | None = None
        try:
            async with lateness.Timeout(timeout):
                while True:
                    connection = self._warm(key)
                    if connection is None:
                        try:
                            connection = await self._dial(destination, verify)
                        except TimeoutError as error:  # the system's: the end of this limit cancels
                            raise _unreachable(error) from None
                    try:
                        answer = await connection.ask(head, body, method)
                    except _Stale:
                        connection.abort()
                        continue
                    self._keep(key, connection)
                    return answer
        except TimeoutError:
            begun = None if connection is None else connection.begun()
            if begun is not None:
                return begun
            waited = "connect"
            if connection is not None:
                waited = "answer"
                # What silenced this one may have silenced those that are idle: another network, or a suspended machine.
                for each in list(self._idle.get(key, ())):
                    if not each.unsent():
                        each.abort()
            raise Unanswered("timeout", f"it did not {waited} within {timeout:g} seconds") from None
        except OSError as error:
            raise _unreachable(error) from None
        finally:
            if connection is not None and not connection.warm:
                connection.abort()

    async def _dial(self, destination: Destination, verify: bool) -> _Connection:
        """Connects to one of the addresses. One that is silent, or fails in TLS, does not hide the others."""
        found = await self._resolver.resolve(destination.host, destination.port)
        context = self._context(verify) if destination.tls else None
        while True:
            made = await connect(found)
            peer = None
            try:
                peer = made.getpeername()
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._live, self._bounds), sock=made
                )
                if context is not None:
                    await connection.start_tls(context, destination.server_name)
            except OSError:
                made.close()
                others = [each for each in found if each[-1] != peer]
                if len(others) in (0, len(found)):
                    raise
                found = others
            except BaseException:
                made.close()
                raise
            else:
                # Added only now: if a connection is cancelled while it is being made, uvloop closes it without telling
                # it.
                self._live.add(connection)
                return connection

    def _context(self, verify: bool) -> ssl.SSLContext:
        """Raises OSError."""
        context = self._contexts.get(verify)
        if context is None:
            check_descriptors()  # it is kept, and would trust nobody for good
            context = ssl.create_default_context()
            if not verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[verify] = context
        return context

    def _warm(self, key: _Key) -> _Connection | None:
        for connection in reversed(self._idle.get(key, ())):
            if not connection.unsent():
                connection.wake()
                return connection
        return None

    def _keep(self, key: _Key, connection: _Connection) -> None:
        if not connection.reusable() or (connection.unsent() and self._unsent() + connection.unsent() > _UNSENT):
            return
        waiting = self._idle.get(key, [])
        if len(waiting) < self._bounds.idle_each and sum(map(len, self._idle.values())) < self._bounds.idle_all:
            waiting.append(connection)
            self._idle[key] = waiting
            connection.rest(_IDLE, lambda: self._forget(key, connection))

    def _unsent(self) -> int:
        return sum(each.unsent() for waiting in self._idle.values() for each in waiting)

    def _forget(self, key: _Key, connection: _Connection) -> None:
        waiting = self._idle.get(key, [])
        if connection in waiting:
            waiting.remove(connection)
            if not waiting:
                del self._idle[key]

    async def close(self) -> None:
        """Closes all connections; requests in flight end with Unanswered."""
        for connection in list(self._live):
            connection.abort()
        closing = [connection.closed for connection in self._live]
        if closing:
            await asyncio.wait(closing)
        self._resolver.close()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time. `warm` says that it is idle and kept for its next request."""

    def __init__(self, live: set[_Connection], bounds: Bounds) -> None:
        self.warm = False
        self._live = live
        self._bounds = bounds
        self._transport: asyncio.Transport | None = None
        self._plain: asyncio.Transport | None = None
        """That of TCP, also where the other is that of TLS."""
        self._parser: h11.Connection | None = None
        """Reads the answer, unless that is plain."""
        self._method = ""
        self._answer: asyncio.Future[Answer] | None = None
        self._response: h11.Response | None = None
        self._body = bytearray()
        self._used = self._heard = self._reads_on = False
        self._interim = 0
        self._timer = Timer(self.abort)
        self._lost: Callable[[], None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # called by Transport

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> None:
        """Begins TLS, before the first request. Raises OSError."""
        plain = self._plain
        if plain is None or plain.is_closing():
            raise ConnectionResetError
        try:
            self._transport = await asyncio.get_running_loop().start_tls(
                plain, self, context, server_hostname=server_name
            )
        except BaseException:
            plain.abort()
            raise
        if self.closed.done():
            raise ConnectionResetError

    async def ask(self, head: bytes, body: bytes, method: str) -> Answer:
        """Sends a request and returns its answer. Raises Unanswered, and _Stale."""
        transport = self._transport
        assert transport is not None
        stale, self._used = self._used, True
        self._response, self._heard = None, False
        self._interim = 0
        self._body.clear()
        self._parser, self._method = None, method
        self._answer = asyncio.get_running_loop().create_future()
        if len(body) <= _JOINED:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        try:
            answer = await self._answer
            if stale and answer.status == _TOO_IDLE:
                raise _Stale
            return answer
        except Unanswered:
            if stale and not self._heard:
                raise _Stale from None
            raise
        finally:
            self._answer = None

    def begun(self) -> Answer | None:
        """The incomplete answer received so far, or None."""
        return None if self._response is None else self._made("late")

    def reusable(self) -> bool:
        """Whether the connection can take another request."""
        if self._transport is None or self._transport.is_closing():
            return False
        parser = self._parser
        return parser is None or (parser.their_state is h11.DONE and parser.trailing_data == (b"", False))

    def unsent(self) -> int:
        """The bytes of the last request that are still to be sent: a server that has answered may never read them, or a
        next request."""
        if self._transport is None or self._plain is None:
            return 0
        # TLS does not count what it has passed on, so with it both are asked.
        below = 0 if self._plain is self._transport else self._plain.get_write_buffer_size()
        return self._transport.get_write_buffer_size() + below

    def rest(self, seconds: float, lost: Callable[[], None]) -> None:
        """Keeps the connection idle until `wake`, at most for `seconds`; `lost` is called when it can't be used any
        more."""
        self.warm = True
        self._lost = lost
        self._timer.after(seconds)

    def wake(self) -> None:
        """Ends the idle state."""
        self.warm = False
        self._timer.cancel()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def abort(self) -> None:
        """Closes the connection at once."""
        self.wake()
        self._break_off("it was left before it answered")
        if self._transport is not None:
            self._transport.abort()

    # called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast without a check: uvloop's transports are not subclasses of asyncio's.
        self._transport = self._plain = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()  # no request is pending
            return
        self._heard = True
        self._read(data)

    def eof_received(self) -> bool:
        self._read(b"")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Uses what arrived before the end, however it came; the end completes an answer without a length (RFC 9112,
        8)."""
        self._live.discard(self)
        if error is not None:
            self._read_left()
            if self._response is None:
                self._fail(f"it broke the connection off: {_words(error)} before it answered")
        self._read(b"")
        self._transport = self._plain = None
        self.wake()
        self.closed.set_result(None)

    def _read_left(self) -> None:
        """Reads what is left after a failed write, which ends a connection even if an answer, such as a refusal, is
        unread."""
        transport = self._transport
        # Without TLS, the socket is still open here; with TLS it is closed already.
        if self._answer is None or transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        with suppress(OSError):
            if left := os.read(transport.get_extra_info("socket").fileno(), self._bounds.body + _JOINED):
                self.data_received(left)

    def _read(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if self._parser is None:
            if self._method != "HEAD" and (plain := read_plain(data, self._bounds.head, self._bounds.body)):
                self._finish(Answer(*plain, ""))
                return
            self._parser = self._new_parser()
        self._parser.receive_data(data)
        if not self._reads_on:
            self._parse(self._parser)

    def _new_parser(self) -> h11.Connection:
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._bounds.head)
        # The bytes that it would send are not used, and any method but HEAD is answered in the same way.
        parsed_as = "HEAD" if self._method == "HEAD" else "POST"
        parser.send(h11.Request(method=parsed_as, target="/", headers=[("Host", "-")]))
        parser.send(h11.EndOfMessage())
        return parser

    def _read_on(self) -> None:
        self._reads_on = False
        if self._answer is not None and not self._answer.done() and self._parser is not None:
            self._parse(self._parser)
        # Only now: TLS reports an end at once when reading resumes, and drops data that was not read.
        if not self._reads_on and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _parse(self, parser: h11.Connection) -> None:
        """Parses what has arrived, up to the limit for one turn."""
        for _ in range(_PARTS):
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                self._misread(error)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.InformationalResponse):
                self._interim += 1
                if self._interim > _MOST_INTERIM:
                    self._fail(f"it sent over {_MOST_INTERIM} interim answers, and no final one")
                    return
            elif isinstance(event, h11.Response):
                self._response = event
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._bounds.body:
                    del self._body[self._bounds.body :]
                    self._finish(self._made("long"))
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._finish(self._made(""))
                return
        self._reads_on = True
        asyncio.get_running_loop().call_soon(self._read_on)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _misread(self, error: h11.RemoteProtocolError) -> None:
        if self._heard:
            self._break_off("its answer is no HTTP", str(error))
        else:
            self._break_off("it closed the connection before it answered")

    def _break_off(self, why: str, detail: str = "") -> None:
        if self._response is not None:
            self._finish(self._made("broken"))
        else:
            self._fail(why, detail)

    def _made(self, cut: Cut) -> Answer:
        response = self._response
        assert response is not None
        return Answer(response.status_code, list(response.headers.raw_items()), bytes(self._body), cut)

    def _finish(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, why: str, detail: str = "") -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unanswered("broken", why, detail))


def _unreachable(error: OSError) -> Unanswered:
    kind = NoMeans if is_lack(error) else Unanswered
    return kind("unreachable", f"it can't be reached: {_words(error)}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror})"
    if isinstance(error, ConnectionResetError):  # asyncio's has no number
        return os.strerror(errno.ECONNRESET)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
