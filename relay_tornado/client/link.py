"""One WebSocket to the relay: dials, authenticates and subscribes; then passes messages in and out until it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from aiohappyeyeballs import start_connection
from websockets.asyncio.client import ClientConnection, connect, get_proxy  # type: ignore[attr-defined]
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    WebSocketException,
)
from websockets.uri import parse_uri

import relay_tornado
from relay_tornado.client import messages
from relay_tornado.client.address import Address, perhaps_tls, tls_trouble
from relay_tornado.client.aside import aside
from relay_tornado.client.errors import NotExtended, Refused, Rejected, RelayClientError, Unreachable
from relay_tornado.client.messages import Document, Malformed
from relay_tornado.client.options import Options

log = logging.getLogger("relay_tornado.client")

USER_AGENT: Final = f"relay-tornado-client/{relay_tornado.__version__}"
CLOSING: Final = 0.5
"""Seconds that the closing handshake may take."""
NEXT_ADDRESS: Final = 0.25
"""Seconds until the next address of a name is tried in parallel, as in RFC 8305."""
_PROXY: Final = "the proxy's URL (https_proxy, http_proxy, … in the environment, or the option)"
_PASSING: Final = frozenset({408, 425, 429})
"""HTTP statuses below 500 that are temporary."""


class Cut(Exception):
    """There is no connection (any more), and a new one may be tried. The message is for people."""


class _Connect(connect):
    """Follows no redirect, so that the secret goes to no other server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Socket(ClientConnection):
    """Notes when the last bytes arrived: a large event may take minutes on a slow link, and is no silence."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        super().data_received(data)


class Link:
    """A connection to a relay."""

    def __init__(self, connection: _Socket, options: Options) -> None:
        self._socket = connection
        self._options = options
        self.answer: Document = {}
        """The answer to subscribe."""
        response = connection.response
        # A proxy may add a Date header of its own.
        dates = [] if response is None else response.headers.get_all("Date")
        try:
            self.server_time = parsedate_to_datetime(dates[0]).timestamp() if dates else time.time()
        except (ValueError, OverflowError):
            self.server_time = time.time()
        """The server's clock when the connection was made, in unix seconds."""

    @property
    def silence(self) -> float:
        """Seconds since the last byte arrived."""
        return asyncio.get_running_loop().time() - self._socket.heard

    async def authenticate(self) -> None:
        """Raises Cut and Refused."""
        await self._ask(messages.encode(messages.auth(self._options.key, self._options.secret)), "authenticated")

    async def subscribe(self, since: Any) -> None:
        """Subscribes from these positions (None: the relay's default). Raises Cut, Refused, Rejected, NotExtended."""
        self.answer = await self._ask(self._options.subscribe(since), "subscribed")
        if self._options.extended and not isinstance(self.answer.get("buckets"), list):
            raise NotExtended

    async def _ask(self, text: str, status: str) -> Document:
        try:
            async with asyncio.timeout(self._options.open_timeout):
                await self.send(text)
                return await self._expect(status)
        except TimeoutError:
            raise Cut("the relay does not answer") from None
        except TooBig:
            raise Rejected("too_large", f"a message of {len(text)} bytes is too big") from None

    async def _expect(self, status: str) -> Document:
        while True:
            document, _ = await self.receive(None)
            said = document.get("status") if document.get("type") == "status" else None
            if said == status:
                return document
            if said == "unauthorized":
                raise Refused(4001, str(document.get("message", "unauthorized")))
            if said == "error":
                error = rejected(document)
                raise Cut(error.message) if error.passing else error

    async def receive(self, timeout: float | None) -> tuple[Document, int]:
        """The next message and its size in bytes. Data must arrive at least every `timeout` seconds, of this message or
        of those before it. Raises Cut and Refused."""
        loop = asyncio.get_running_loop()
        now = began = loop.time()
        while True:
            end = None if timeout is None else max(began, self._socket.heard) + timeout
            if end is not None and end <= now:
                raise Cut(f"nothing came for {timeout:g} s")
            try:
                async with asyncio.timeout_at(end):
                    text = await self._socket.recv(decode=False)
            except TimeoutError:
                now = loop.time()
            except ConnectionClosed as closed:
                raise self._closed(closed) from None
            else:
                try:
                    return messages.decode(text), len(text)
                except Malformed as error:
                    self.pass_over(error)
                    return {}, len(text)

    def pass_over(self, error: Malformed) -> None:
        """Handles a message that can't be read, which may have been an event. Raises Cut if the next connection would
        begin before it; the original service would not send it again."""
        log.warning("the relay sent %s", error)
        if self._options.extended:
            raise Cut(f"the relay sent {error}") from None

    async def send(self, text: str) -> None:
        """Raises Cut."""
        try:
            await self._socket.send(text)
        except ConnectionClosed as closed:
            error = self._closed(closed)
            raise error if isinstance(error, Cut) else Cut(str(error)) from None

    def _closed(self, closed: ConnectionClosed) -> Exception:
        if closed.rcvd is None:
            if closed.sent is not None and closed.sent.code == 1009:
                limit = self._options.max_message
                return RelayClientError(
                    f"an event is over {limit} bytes as a message: raise max_message, or leave bodies out with max_body"
                )
            return Cut("the connection was cut")
        code, reason = closed.rcvd.code, closed.rcvd.reason
        if code == 4001 or 4500 <= code <= 4999:
            return Refused(code, reason)
        return TooBig(reason) if code == 1009 else Cut(f"the relay closed the connection: {reason or code}")

    async def ended(self) -> None:
        """Returns once the connection has ended; data that arrived on it may still be received."""
        await self._socket.wait_closed()

    async def close(self) -> None:
        """Closes with a short handshake only, since unread data would delay it."""
        try:
            async with asyncio.timeout(CLOSING):
                await self._socket.close()
        except (TimeoutError, WebSocketException, OSError):
            pass
        finally:
            self._socket.transport.abort()


def rejected(document: Document) -> Rejected:
    """The error in a frame with status `error`."""
    return Rejected(str(document.get("code")), str(document.get("message")))


class TooBig(Cut):
    """The relay closed the connection because a message was too large for it."""


def _by_proxy(address: Address, options: Options) -> bool:
    return options.proxy is not None and (options.proxy is not True or bool(get_proxy(parse_uri(address.socket))))


def passes(status: int) -> bool:
    """Whether an answer with this status, which is not from a relay, is temporary."""
    return status < 300 or status >= 500 or status in _PASSING


async def _reach(address: Address, timeout: float) -> socket.socket:
    """Connects to one of a name's addresses; a silent one does not hide the others. Raises OSError, and ValueError for
    a bad name."""
    uri = parse_uri(address.socket)
    try:
        async with asyncio.timeout(timeout):
            found = await aside(
                lambda: socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM), "relay client names"
            )
            return await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS)
    except TimeoutError:
        raise OSError("it does not answer") from None


async def dial(address: Address, options: Options, known: bool) -> Link:
    """A connection that is not authenticated yet. `known`: there was one before, so any failure may be temporary.

    Raises Cut and Unreachable.
    """
    arguments: dict[str, Any] = {"ssl": options.ssl} if options.ssl is not None and address.secure else {}
    through = ""
    try:
        if _by_proxy(address, options):
            through = " through the proxy"
        else:
            arguments["sock"] = await _reach(address, options.open_timeout)
        made = await _Connect(
            address.socket,
            create_connection=_Socket,
            compression=None,
            user_agent_header=USER_AGENT,
            proxy=options.proxy,
            open_timeout=options.open_timeout,
            # The client sends its own heartbeats: an application that takes events slowly must not look like a dead
            # relay.
            ping_interval=None,
            close_timeout=CLOSING,
            max_size=options.max_message,
            max_queue=(4, 1),
            **arguments,
        )
    except (OSError, EOFError, ValueError, ImportError, InvalidHandshake, InvalidProxy) as error:
        raise _undialled(error, address, known, through) from None
    assert isinstance(made, _Socket)
    return Link(made, options)


def _undialled(error: Exception, address: Address, known: bool, through: str) -> Cut | Unreachable:
    """What `dial` raises for the error of a connection that was not made; `through` tells of a proxy."""
    lasting = Cut if known else Unreachable
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        target = error.response.headers.get_all("Location") if 300 <= status < 400 else []
        leads = f" and leads to {target[0]}" if target else ""
        upgrades = "does the proxy in front pass Upgrade and Connection on?"
        asked = upgrades if status == 426 else perhaps_tls(status, address.socket) or "is that the relay's URL?"
        message = f"{address.socket} answers {status}{leads}: {asked}"
        return Cut(message) if passes(status) else lasting(message)
    if isinstance(error, ssl.SSLCertVerificationError):
        return lasting(f"the certificate of {address.socket} is not trusted: {error.verify_message}")
    if isinstance(error, InvalidProxyStatus):
        status = error.response.status_code
        message = f"{address.socket} can't be reached through the proxy, which answers {status}: is that the right one?"
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            message = f"the proxy wants a login ({status}): put the right one into {_PROXY}"
        return Cut(message) if passes(status) else lasting(message)
    if isinstance(error, OSError | EOFError | InvalidHandshake):
        if address.secure and not known and isinstance(error, ssl.SSLError | ConnectionResetError):
            message, plain = tls_trouble(error, address.socket)
            return Unreachable(message) if plain else Cut(message)
        reason = (getattr(error, "strerror", None) or str(error)) or type(error).__name__
        return Cut(f"{address.socket} can't be reached{through}: {reason}")
    if isinstance(error, InvalidProxy | ImportError):
        # The proxy's URL may hold a password.
        return Unreachable(f"{_PROXY} can't be used: {error.msg}")
    return Unreachable(f"the host of {address.socket} can't be looked up, or {_PROXY} has a slip in it")
