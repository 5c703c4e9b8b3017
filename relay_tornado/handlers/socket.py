"""/v1/socket: the WebSocket's Tornado edge."""

from __future__ import annotations

import asyncio
import copy
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import structlog
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.routing import URLSpec
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from relay_tornado.errors import CloseCode
from relay_tornado.handlers.base import NO_UI, JsonHandler
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.conversation import Conversation
from relay_tornado.handlers.tls_connection import TlsConnection
from relay_tornado.handlers.tornado_connection import TornadoConnection, stream_of
from relay_tornado.model import KIB

_log = structlog.get_logger(__name__)

_UNAUTHENTICATED: Final = 64 * KIB
"""Maximum size of a message that Tornado reads before `auth`. The session has a lower limit, and sends a close frame
that arrives; above this one Tornado cuts the connection."""

_KEY: Final = re.compile("[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455, 4.2.1)."""

_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_OPCODES: Final = frozenset({_TEXT, 0x2, _CLOSE, 0x9, 0xA})

BARE_FRAMES_A_TURN: Final = 16
"""Maximum number of frames per socket in one turn of the loop that are not whole messages, such as pings and fragments.
Tornado reads 256, from every socket before anything else runs."""

_NO_HEADERS: Final = HTTPHeaders()
_KEPT: Final = ("application", "ws_connection")
"""The attributes of Tornado's that the handler of an open socket keeps, besides its request."""


class _Spelled(HTTPHeaders):
    """Headers whose names are spelled as in RFC 6455, since some clients' libraries compare case. Tornado writes
    `Sec-Websocket-…`."""

    def get_all(self) -> Iterator[tuple[str, str]]:
        for name, value in super().get_all():
            yield name.replace("Websocket", "WebSocket"), value


class _Remembered(HTTPServerRequest):
    """The part of the request that is kept: what a line of the log needs."""

    __slots__ = ("remote_ip",)

    method = "GET"
    uri = path = "/v1/socket"
    query = ""
    headers = _NO_HEADERS
    connection = None

    def __init__(self, request: HTTPServerRequest) -> None:
        self.remote_ip = request.remote_ip


class _Protocol(WebSocketProtocol13):
    """Tornado's protocol, corrected in two ways: Tornado echoes any close code of a client, and cuts a client that
    breaks the protocol without a close frame."""

    # A dict of more than 30 keys shares them with no other instance, and takes five times as much memory.
    __slots__ = ("_bare", "_framing", "_receiving")

    stream: TornadoConnection

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Whether a frame is being read: if Tornado aborts then, the reason is that frame, or the end of the stream.
        self._framing = False
        self._bare = 0

    async def accept_connection(self, handler: WebSocketHandler) -> None:
        try:
            await super().accept_connection(handler)
        except Exception:  # Tornado leaves it open, with nobody to read it
            assert isinstance(handler, SocketHandler)
            if handler.detached:
                self._abort()
                handler.on_close()
            else:
                handler.detach().close()
            raise

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if (
            code is not None
            and not (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
            and not 3000 <= code < 5000
        ):
            code, reason = CloseCode.PROTOCOL_ERROR, "the close code is not valid"
        if self.client_terminated and isinstance(self.stream, TlsConnection):
            # After a client's close frame, its TLS closing alert is still to come.
            self.stream.linger()
        if self.client_terminated and not self.server_terminated:
            # Tornado would close the stream at once, and drop data that has not left, including the close frame. So
            # this acts as if the relay closed first, with Tornado's time-out for that.
            self.client_terminated = False
            super().close(code, reason)
            self.client_terminated = True
            self.stream.when_written(super().close)
            return
        super().close(code, reason)

    def on_connection_close(self) -> None:
        """May come after the client's close frame: then the stream closes by itself once the answer to it has left."""
        if self._waiting is None or self.stream.closed():
            super().on_connection_close()

    async def _receive_frame(self) -> None:
        self._framing = True
        try:
            await super()._receive_frame()
        finally:
            self._framing = False
        self._bare += 1
        if self._bare >= BARE_FRAMES_A_TURN:
            self._bare = 0
            await self.stream.next_turn()

    def _handle_message(self, opcode: int, data: bytes) -> Any:
        if opcode not in _OPCODES or (opcode == _CLOSE and len(data) == 1):
            self._abort()
            return None
        if opcode in (_TEXT, _CLOSE):
            try:
                str(data if opcode == _TEXT else data[2:], "utf-8")
            except UnicodeDecodeError:
                self.close(CloseCode.INVALID_DATA, "a text message or a close reason is not UTF-8")
                self._abort()
                return None
        self._framing = False
        if opcode < _CLOSE:
            self._bare = -1
        elif (answering := self._answering()) is not None:
            return self._handle_behind(answering, opcode, data)
        return super()._handle_message(opcode, data)

    def _answering(self) -> Awaitable[None] | None:
        assert isinstance(self.handler, SocketHandler)
        return self.handler.answering

    async def _handle_behind(self, answering: Awaitable[None], opcode: int, data: bytes) -> None:
        """Handles a control frame once the client's answers before it are told."""
        await answering
        working = super()._handle_message(opcode, data)
        if working is not None:
            await working

    def _run_callback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Handles a message in the task that reads. If memory is short, the end of a separate task might be reported to
        nobody, and nothing would be read any more."""
        try:
            working = callback(*args, **kwargs)
        except Exception:
            self._fail()
            return None
        return None if working is None else self._work(working)

    async def _work(self, working: Awaitable[None]) -> None:
        try:
            await working
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """Called in an `except` block."""
        self._abort()
        self.handler.log_exception(*sys.exc_info())

    def _abort(self) -> None:
        if self._framing and not self.client_terminated and not self.stream.closed():
            self.close(CloseCode.PROTOCOL_ERROR, "a frame violates the WebSocket protocol")
            # Data that still arrives must not reset the connection before the close frame is read.
            self.stream.linger()
        super()._abort()

    async def _receive_frame_loop(self) -> None:
        """Runs in a task of its own, so that the call stack from the request to here ends and its memory is freed."""
        self._receiving = asyncio.get_running_loop().create_task(super()._receive_frame_loop())
        self._receiving.add_done_callback(self._received)

    def _received(self, reading: asyncio.Task[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled() or isinstance(error, ValueError):
            # As Tornado does when it reads in the request's own task.
            self._abort()
        elif error is not None:
            _log.error("socket_failed", exc_info=error)


_parameters_by_size: dict[int, Any] = {}


def _parameters(made: Any, size: int) -> Any:
    """Tornado's parameters for a protocol with this message size: one shared object per size, copied from `made`."""
    found = _parameters_by_size.get(size)
    if found is None:
        found = _parameters_by_size[size] = copy.copy(made)
        found.max_message_size = size
    return found


class SocketHandler(JsonHandler, WebSocketHandler):
    """Translates between Tornado's WebSocket and the conversation on it."""

    __slots__ = ("_clients", "_conversation", "_limit", "_stream")

    # Attributes that Tornado sets for the handshake. They are the same for all open sockets, so the class holds them.
    close_code = close_reason = None
    _auto_finish = False
    _finished = True
    _headers = _NO_HEADERS
    _headers_written = True
    _on_close_called = False
    _prepared_future = None
    _status_code = 101
    ui = NO_UI

    def initialize(self, clients: ConnectedClients) -> None:
        self._clients = clients
        self._conversation: Conversation | None = None
        self._stream: TornadoConnection | None = None
        self._limit = _UNAUTHENTICATED

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self._headers = _Spelled(self._headers)

    async def get(self, *args: str, **kwargs: str) -> None:
        """Upgrades the connection, or answers why it can't."""
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
        elif not _KEY.fullmatch(headers.get("Sec-WebSocket-Key", "")) or not headers.get("Host"):
            message = "the WebSocket handshake lacks a Sec-WebSocket-Key (16 bytes in base64) or its Host header"
            self.answer({"code": "invalid", "message": message}, 400)
        else:
            if await self._turned_away():
                return
            # The relay supports no extensions. Tornado parses them nevertheless, and fails on some.
            headers.pop("Sec-WebSocket-Extensions", None)
            await super().get(*args, **kwargs)

    async def _turned_away(self) -> bool:
        return await self._clients.turned_away(stream_of(self.request))

    def check_origin(self, origin: str) -> bool:
        """Accepts any origin: authentication is within the socket, so a foreign page gains nothing."""
        return True

    @property
    def ping_interval(self) -> float | None:
        """None: Tornado's ping time-out would cut off healthy clients that read slowly."""
        return None

    @property
    def max_message_size(self) -> int:
        return self._limit

    def get_websocket_protocol(self) -> _Protocol:
        protocol = super().get_websocket_protocol()
        assert isinstance(protocol, WebSocketProtocol13)  # `get` refuses other versions
        return _Protocol(self, mask_outgoing=False, params=_parameters(protocol.params, self._limit))

    def detach(self) -> TornadoConnection:
        """Keeps the stream, so that frames built once can be written to it."""
        stream = super().detach()
        assert isinstance(stream, TornadoConnection)
        self._stream = stream
        return stream

    @property
    def detached(self) -> bool:
        """Whether the handler has its stream."""
        return self._stream is not None

    def allow(self, size: int) -> None:
        """Accepts messages of up to `size` bytes from now on."""
        self._limit = size
        if self._stream is not None:
            self._stream.max_buffer_size = max(self._stream.max_buffer_size, size)
        if isinstance(self.ws_connection, _Protocol):
            self.ws_connection.params = _parameters(self.ws_connection.params, size)

    def open(self, *args: str, **kwargs: str) -> None:
        assert self._stream is not None
        self._conversation = self._converse(self._stream)
        try:
            self._forget_handshake()
        except BaseException:
            # Tornado then cuts the connection without calling `on_close`.
            self.on_close()
            raise

    def _converse(self, stream: TornadoConnection) -> Conversation | None:
        """The conversation on a socket that has just opened. If there are too many, closes the socket and returns
        None."""
        sender = self.request.remote_ip or ""
        refusal = self._clients.refusal(sender)
        if refusal is not None:
            self._clients.tell("socket_refused", code=refusal[0], reason=refusal[1], address=sender)
            self.close(*refusal)
            return None
        conversation = Conversation(self._clients, self, stream)
        self._clients.enter(conversation)
        return conversation

    def _forget_handshake(self) -> None:
        """Frees what only the handshake needed; this saves a quarter of a quiet socket's memory."""
        assert self._stream is not None
        self._stream.detached()
        kept = {name: self.__dict__[name] for name in _KEPT}
        self.__dict__ = kept | {"request": _Remembered(self.request)}

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        return None if self._conversation is None else self._conversation.received(message)

    @property
    def answering(self) -> Awaitable[None] | None:
        """Ends once the client's answers that are being stored are told; None if there are none."""
        return None if self._conversation is None else self._conversation.answering

    def on_ping(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.heard()

    def on_pong(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.ponged(data)

    def on_close(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.ended(self.close_code, self.close_reason)


def _upgrades(headers: HTTPHeaders) -> bool:
    tokens = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
    return "upgrade" in tokens and headers.get("Upgrade", "").lower() == "websocket"


def routes(clients: ConnectedClients) -> list[URLSpec]:
    return [URLSpec(r"/v1/socket/?", SocketHandler, {"clients": clients})]
