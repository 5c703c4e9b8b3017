"""/v1/socket: the WebSocket's Tornado edge, and the set of live sockets."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import ipaddress
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.iostream import IOStream
from tornado.routing import URLSpec
from tornado.util import ObjectDict
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from relay_tornado.counters import Counters
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import CloseCode
from relay_tornado.handlers.alarms import Alarms
from relay_tornado.handlers.base import JsonHandler
from relay_tornado.handlers.connection import Connection
from relay_tornado.handlers.conversation import Conversation
from relay_tornado.handlers.crowd import Crowd
from relay_tornado.log import deliveries as results
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import KIB, BucketId, Token
from relay_tornado.proxy import ProxyTrust
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.settings import Settings

_log = structlog.get_logger(__name__)

_UNAUTHENTICATED: Final = 64 * KIB
"""What Tornado reads of one message before `auth`. The session refuses less than that, and with a close frame that
arrives; beyond it Tornado cuts the connection."""

_SUBSCRIBING: Final = 8
"""Most messages a turn of the loop of those who have not subscribed yet."""

_EXPIRY: Final = 0.5
"""Seconds between two looks at the clock of day for tokens that expire."""


_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_OPCODES: Final = frozenset({_TEXT, 0x2, _CLOSE, 0x9, 0xA})

_NO_HEADERS: Final = HTTPHeaders()
_NO_UI: Final = ObjectDict()
_KEPT: Final = ("application", "ws_connection")
"""What a handler of an open socket has of Tornado's for itself, beside its request."""


class _Remembered(HTTPServerRequest):
    """What is kept of the request: what a line of the log says of it."""

    __slots__ = ("remote_ip",)

    method = "GET"
    uri = path = "/v1/socket"
    query = ""
    headers = _NO_HEADERS
    connection = None

    def __init__(self, request: HTTPServerRequest) -> None:
        self.remote_ip = request.remote_ip


class _Protocol(WebSocketProtocol13):
    """Tornado's, which would send back whatever code a client closes with, and cuts without a word who breaks the
    protocol."""

    # Where its own dict has more than 30 keys, it shares them with no other's, and takes five times as much.
    __slots__ = ("_framing", "_receiving")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Whether a frame is read: what Tornado aborts for then is that frame, or the end of the stream.
        self._framing = False

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if (
            code is not None
            and not (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
            and not 3000 <= code < 5000
        ):
            code, reason = CloseCode.PROTOCOL_ERROR, "no close frame has such a code"
        super().close(code, reason)

    async def _receive_frame(self) -> None:
        self._framing = True
        try:
            await super()._receive_frame()
        finally:
            self._framing = False

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[Any] | None:
        if opcode not in _OPCODES or (opcode == _CLOSE and len(data) == 1):
            self._abort()
            return None
        if opcode in (_TEXT, _CLOSE):
            try:
                str(data if opcode == _TEXT else data[2:], "utf-8")
            except UnicodeDecodeError:
                self.close(CloseCode.INVALID_DATA, "what came as text is not UTF-8")
                self._abort()
                return None
        self._framing = False
        return super()._handle_message(opcode, data)

    def _abort(self) -> None:
        if self._framing and not self.client_terminated and not self.stream.closed():
            self.close(CloseCode.PROTOCOL_ERROR, "what came is no frame that the WebSocket protocol allows")
            if isinstance(self.stream, Connection):
                # What still comes must not reset the connection before that is read.
                self.stream.linger()
        super()._abort()

    async def _receive_frame_loop(self) -> None:
        """In a task of its own, so that everything that led from the request to here ends, and its memory is
        free."""
        self._receiving = asyncio.get_running_loop().create_task(super()._receive_frame_loop())
        self._receiving.add_done_callback(self._received)

    def _received(self, reading: asyncio.Task[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled() or isinstance(error, ValueError):
            # As Tornado does where it reads in the request's own task.
            self._abort()
        elif error is not None:
            _log.error("socket_failed", exc_info=error)


class SocketHandler(JsonHandler, WebSocketHandler):
    """Translates between Tornado's WebSocket and the conversation on it."""

    __slots__ = ("_conversation", "_limit", "_sockets", "_stream")

    # What Tornado set for the handshake is the same for all that are open, so it is here and not in each.
    close_code = close_reason = None
    _auto_finish = False
    _finished = True
    _headers = _NO_HEADERS
    _headers_written = True
    _on_close_called = False
    _prepared_future = None
    _status_code = 101
    ui = _NO_UI

    def initialize(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._conversation: Conversation | None = None
        self._stream: IOStream | None = None
        self._limit = _UNAUTHENTICATED

    async def get(self, *args: str, **kwargs: str) -> None:
        """Upgrades; what can't be upgraded is told why."""
        headers, version = self.request.headers, self.request.version
        if (
            self.request.method != "GET"
            or version != "HTTP/1.1"
            or not _upgrades(headers)
            or headers.get("Sec-WebSocket-Version") != "13"
        ):
            self.set_header("Upgrade", "websocket")
            self.set_header("Connection", "Upgrade")
            self.set_header("Sec-WebSocket-Version", "13")
            message = "this is a WebSocket: connect with a WebSocket client (version 13), not with plain HTTP"
            self.answer({"code": "upgrade_required", "message": message}, 426)
        elif not headers.get("Sec-WebSocket-Key") or not headers.get("Host"):
            message = "the WebSocket handshake lacks its Sec-WebSocket-Key or Host header"
            self.answer({"code": "invalid", "message": message}, 400)
        else:
            await super().get(*args, **kwargs)

    def check_origin(self, origin: str) -> bool:
        """Any: nothing on this socket is ambient, so a foreign page gains nothing."""
        return True

    @property
    def ping_interval(self) -> float | None:
        """None: a plain ping time-out would cut off healthy clients that are slow to read."""
        return None

    @property
    def max_message_size(self) -> int:
        return self._limit

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        protocol = super().get_websocket_protocol()
        if isinstance(protocol, WebSocketProtocol13):
            params = self._sockets.parameters(protocol.params, self._limit)
            return _Protocol(self, mask_outgoing=False, params=params)
        return protocol

    def detach(self) -> IOStream:
        """Keeps the stream, so that a frame that was built once can be written to it."""
        self._stream = super().detach()
        return self._stream

    def allow(self, size: int) -> None:
        """Reads messages of up to so many bytes from now on."""
        self._limit = size
        if self._stream is not None:
            self._stream.max_buffer_size = max(self._stream.max_buffer_size, size)
        if isinstance(self.ws_connection, _Protocol):
            self.ws_connection.params = self._sockets.parameters(self.ws_connection.params, size)

    def open(self, *args: str, **kwargs: str) -> None:
        assert self._stream is not None
        self.set_nodelay(True)
        self._conversation = self._sockets.admit(self, self._stream)
        try:
            self._forget_handshake()
        except BaseException:
            # Tornado cuts the connection then, and does not say that it is closed.
            self.on_close()
            raise

    def _forget_handshake(self) -> None:
        """Lets go of what only the handshake needed: without that a quiet socket costs a quarter less."""
        if isinstance(self._stream, Connection):
            self._stream.detached()
        kept = {name: self.__dict__[name] for name in _KEPT}
        self.__dict__ = kept | {"request": _Remembered(self.request)}

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        return None if self._conversation is None else self._conversation.received(message)

    def on_ping(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.heard()

    def on_pong(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.ponged(data)

    def on_close(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.ended()


def _upgrades(headers: HTTPHeaders) -> bool:
    tokens = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
    return "upgrade" in tokens and headers.get("Upgrade", "").lower() == "websocket"


class Connected(Protocol):
    """What `Sockets` needs of a live connection: a WebSocket's conversation, or a stream of server-sent events."""

    key: str
    user_agent: str
    subscribed_at: float | None

    @property
    def address(self) -> str | None: ...

    @property
    def client_ip(self) -> str: ...

    @property
    def consumer(self) -> str: ...

    @property
    def buckets(self) -> frozenset[BucketId]: ...

    @property
    def positions(self) -> Mapping[BucketId, int]: ...

    def token_changed(self, token: Token | None) -> None: ...

    def token_expired(self) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class Sockets:
    """Every live connection that events are delivered to: how many there may be, and what ends them from outside."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        access: Access,
        settings: Settings,
        results: results.Deliveries,
        ledgers: Ledgers,
        counters: Counters | None = None,
        trust: ProxyTrust | None = None,
    ) -> None:
        """`results` keeps what clients answer, `ledgers` are the consumers, `counters` takes up what is delivered.
        Sockets of the proxies in `trust` themselves are not counted by address."""
        self._trust = ProxyTrust() if trust is None else trust
        self.access = access
        self.alarms = Alarms()
        self.crowd = Crowd(_SUBSCRIBING)
        self._parameters: dict[int, Any] = {}
        self.settings = settings
        self.deliveries = Deliveries(log, registry, settings, ledgers, counters)
        self.responses = Responses(results, log, registry, self.deliveries)
        self._registry = registry
        self._live: set[Connected] = set()
        self._addresses: dict[str, int] = {}
        self._tokens: dict[str, set[Connected]] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: tuple[int, str] | None = None
        self._emptied = asyncio.Event()
        self._end_watch = registry.watch(self._changed)

    def parameters(self, made: Any, size: int) -> Any:
        """Tornado's parameters of a protocol that reads messages of up to so many bytes: one object for all that read
        as much, like the one that was made."""
        found = self._parameters.get(size)
        if found is None:
            found = self._parameters[size] = copy.copy(made)
            found.max_message_size = size
        return found

    @property
    def count(self) -> int:
        """Live sockets, authenticated or not."""
        return len(self._live)

    @property
    def keys(self) -> Collection[str]:
        """Those of the tokens that hold a connection."""
        return self._tokens.keys()

    @property
    def subscribed(self) -> Sequence[Connected]:
        """The conversations of clients that have subscribed, in the order in which they did."""
        clients = [each for each in self._live if each.subscribed_at is not None]
        return sorted(clients, key=lambda each: each.subscribed_at or 0.0)

    def admit(self, handler: SocketHandler, stream: IOStream) -> Conversation | None:
        """A conversation for a socket that has just opened; one too many is closed, with None."""
        address = self.counted(handler.request.remote_ip or "")
        refusal = self.refusal(address)
        if refusal is not None:
            _log.info("socket_refused", code=refusal[0], reason=refusal[1], address=handler.request.remote_ip)
            handler.close(*refusal)
            return None
        conversation = Conversation(self, handler, stream, address)
        self.enter(conversation)
        return conversation

    def counted(self, sender: str) -> str | None:
        """What a connection from this address is counted under among its like, None where it is not."""
        return None if self._trust.trusts(sender) else counted_address(sender)

    def refusal(self, address: str | None) -> tuple[int, str] | None:
        """Why there is no room for one more connection that is counted so, as a close code and its reason."""
        return self._closing or self._full(address)

    def enter(self, conversation: Connected) -> None:
        """Counts a connection, until it is forgotten."""
        self._live.add(conversation)
        address = conversation.address
        if address is not None:
            self._addresses[address] = self._addresses.get(address, 0) + 1

    def identify(self, conversation: Connected, token: Token) -> None:
        """The conversation is with the holder of this token from now on."""
        self._unidentify(conversation)
        conversation.key = token.key
        self._tokens.setdefault(token.key, set()).add(conversation)
        if token.expires_at is not None or token.previous_hash:
            self._look_at_expiry()

    def forget(self, conversation: Connected) -> None:
        """The conversation's socket is closed."""
        self._live.discard(conversation)
        self._unidentify(conversation)
        address = conversation.address
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        if not self._live:
            self._emptied.set()

    async def close_all(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "the relay is going away: come back"
    ) -> None:
        """Closes every socket and those still to come, and returns once all are closed; a client that does not answer
        is cut off after 5 seconds."""
        self._closing = (code, reason)
        for conversation in list(self._live):
            conversation.close(code, reason)
        try:
            while self._live:
                self._emptied.clear()
                await self._emptied.wait()
            await self.deliveries.ended()
        finally:
            self._end_watch()
            if self._expiry is not None:
                self._expiry.cancel()
            self.deliveries.close()
            self.responses.close()

    def _full(self, address: str | None) -> tuple[int, str] | None:
        settings = self.settings
        if len(self._live) >= settings.max_sockets:
            return CloseCode.TOO_MANY, f"too many sockets: the relay takes {settings.max_sockets}; come back later"
        most = settings.max_sockets_per_address
        if address is not None and self._addresses.get(address, 0) >= most:
            return CloseCode.TOO_MANY, f"too many sockets from {address}: at most {most}; close some"
        return None

    def _unidentify(self, conversation: Connected) -> None:
        same = self._tokens.get(conversation.key)
        if same is not None:
            same.discard(conversation)
            if not same:
                del self._tokens[conversation.key]

    def _changed(self, kind: Kind, key: str) -> None:
        if kind == "token" and key in self._tokens:
            token: Token | None = self._registry.get("token", key)
            for conversation in list(self._tokens[key]):
                conversation.token_changed(token)
            self._look_at_expiry()

    def _look_at_expiry(self) -> None:
        """Closes the sockets of tokens, and of rotated secrets, that have expired; looks again soon while there are
        some that will."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        now = time.time()
        soonest: float | None = None
        for key in list(self._tokens):
            token: Token | None = self._registry.get("token", key)
            if token is None:
                continue
            if token.expired(now):
                for conversation in list(self._tokens[key]):
                    conversation.token_expired()
                continue
            if token.previous_hash and token.previous_until <= now:
                token = dataclasses.replace(token, previous_hash="", previous_until=0.0)
                for conversation in list(self._tokens.get(key, ())):
                    conversation.token_changed(token)
            ends = [end for end in (token.expires_at, token.previous_until) if end]
            soonest = min(ends if soonest is None else [soonest, *ends], default=None)
        if soonest is not None:
            # The clock of day may be set meanwhile, so it is not trusted for long.
            delay = min(_EXPIRY, soonest - now + 0.001)
            self._expiry = asyncio.get_running_loop().call_later(delay, self._look_at_expiry)


def counted_address(remote_ip: str) -> str | None:
    """What a client's address is counted under: IPv6 by its /64; None for loopback, which is not counted."""
    try:
        address = ipaddress.ip_address(remote_ip)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((address, 64), strict=False)
            return None if address.is_loopback else str(network)
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)


def routes(sockets: Sockets) -> list[URLSpec]:
    return [URLSpec(r"/v1/socket", SocketHandler, {"sockets": sockets})]
