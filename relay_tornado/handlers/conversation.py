"""One WebSocket's conversation: it performs the effects of its session, and is the outlet of its delivery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

import structlog
from tornado.httputil import HTTPServerRequest

from relay_tornado import protocol
from relay_tornado.delivery.liveness import acknowledged
from relay_tornado.delivery.outlet import Frames, OutletClosed
from relay_tornado.errors import Conflict, Invalid, RelayError, Unauthorized
from relay_tornado.handlers.answers import Answers
from relay_tornado.handlers.connected_clients import ConnectedClient, ConnectedClients
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.log.results import status_of
from relay_tornado.low_memory import retry_until_done
from relay_tornado.model import KIB, Result, Token
from relay_tornado.wire import control, websocket

_log = structlog.get_logger(__name__)

_REFUSALS: Final = frozenset({1002, 1003, 1007, 1009, 1011})
"""Close codes of a client that can't take what the relay sent: a protocol error, a type or data that it does not take,
too big, an error of its own (RFC 6455, 7.4.1). What it refuses comes again to a durable token."""


class Edge(Protocol):
    """The Tornado side of a WebSocket, as its conversation sees it."""

    request: HTTPServerRequest

    def allow(self, size: int) -> None:
        """Accepts messages of up to `size` bytes from now on."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Starts closing."""


class Conversation(ConnectedClient):
    """Exists from the opening of the WebSocket to its end. It writes frames directly to the stream; Tornado reads,
    answers pings and closes."""

    __slots__ = ("_answers", "_edge", "_ping", "_session")

    _stream: TornadoConnection

    def __init__(self, clients: ConnectedClients, edge: Edge, stream: TornadoConnection) -> None:
        super().__init__(clients, edge.request)
        self._edge = edge
        self._stream = stream
        self._session = protocol.Session(clients.settings, self._loop.time())
        self._ping: asyncio.Future[None] | None = None
        self._answers: Answers | None = None
        self._set_alarm(self._due())

    @property
    def consumer(self) -> str:
        request = None if self._delivery is None else self._delivery.subscription.request
        return "" if request is None else request.consumer or ""

    @property
    def answering(self) -> Awaitable[None] | None:
        """Ends once the client's answers that are being stored are told; None if there are none."""
        return None if self._answers is None else self._answers.last

    # incoming messages

    def heard(self) -> None:
        """Notes a frame from the client."""
        self._liveness.heard(self._loop.time())

    def ponged(self, payload: bytes) -> None:
        """Notes a pong from the client."""
        self.heard()
        if self._delivery is not None:
            self._delivery.ponged(payload)

    async def received(self, message: str | bytes) -> None:
        """Handles a message from the client. Returns once it is answered, or if it is an answer itself, once that is
        being stored; any other waits until those are told."""
        # Subscribing takes ten times as long as a webhook.
        await self._stream.take_turn(self._clients.admission if self._delivery is None else self._clients.messages)
        if self._stream.closed():
            return
        self.heard()
        if self._answers is not None and (telling := self._answers.last) is not None:
            size = protocol.size(message)
            # A large message is not read in vain: it would be read again later.
            answer = self._session.answer(message) if self._answers.has_room(size) else None
            if answer is not None and not self._answers.concerns(answer):
                self._answers.take(answer, size)
                return
            await telling
            if self._stream.closed():
                return
        if self.key and _may_have_filter(message):
            effects = await self._compile(message)
        else:
            effects = self._session.received(message)
        if self._delivery is not None:
            self._delivery.notices.wanted = self._session.extended
        match effects:
            case (protocol.Respond() as answer,):
                if self._answers is None:
                    most = self._clients.settings.max_message
                    self._answers = Answers(self._respond, self._perform, self._stream.close, most)
                self._answers.take(answer, protocol.size(message))
            case _:
                await self._perform(effects)

    async def _compile(self, message: str | bytes) -> protocol.Effects:
        """Reads a message that may have a filter, once those of the token may be compiled."""
        compiling = self._clients.compiling
        await compiling.turn(self.key)
        began = time.thread_time()
        effects = self._session.received(message)
        compiling.took(self.key, time.thread_time() - began)
        return effects

    def token_changed(self, token: Token | None) -> None:
        self._act(self._session.token_changed(token))
        if token is not None and self._delivery is not None and self.active:
            self._delivery.rescope(token)

    def token_expired(self) -> None:
        self._act(self._session.token_expired())

    def send_away(self, reason: str, *, log: bool = True) -> None:
        self._act(self._session.going_away(reason), log=log)

    def cut_off(self) -> None:
        self._stream.close()

    def ended(self, code: int | None = None, reason: str | None = None) -> None:
        """Called when the socket is closed, with the code and reason of the client's close frame, if there was one."""
        if code in _REFUSALS and self.active and self._delivery is not None:
            self._tell("client_refused", code=code, reason=f"its WebSocket library closed the connection: {reason!r}")
        self._session.ended()
        retry_until_done(self._leave)

    def _leave(self) -> None:
        self._answers = None  # its tasks go on without it; it refers to the conversation
        self._shut()
        self._clients.forget(self)

    # the outlet of delivery

    def send_now(self, data: bytes) -> bool:
        return self.active and not self._stream.writing() and self._buffer(data) is not None

    def send_rest(self, data: memoryview) -> None:
        self._buffer(data)

    def write(self, data: Frames) -> Awaitable[None]:
        return self._write(memoryview(data))

    def gap_refused(self) -> None:
        self._act(self._session.gap_refused())

    def unavailable(self, reason: str) -> None:
        try:
            self._act(self._session.going_away(reason))
        except MemoryError:  # there may be no memory to send a reason
            self._stream.close()

    # effects

    async def _perform(self, effects: protocol.Effects) -> None:
        for effect in effects:
            match effect:
                case protocol.Send(payload):
                    try:
                        await self.write(websocket.text(payload))
                    except OutletClosed:
                        return
                case protocol.Wait(seconds):
                    await asyncio.sleep(seconds)
                case protocol.Authenticate(key, secret):
                    await self._perform(self._authenticate(key, secret))
                case protocol.Subscribe():
                    if self._delivery is not None:  # else the message has waited already
                        await self._stream.take_turn(self._clients.admission)
                    if self._stream.closed():
                        return
                    await self._perform(await self._subscribe(effect))
                case protocol.Unsubscribe(request):
                    await self._perform(self._unsubscribe(request))
                case protocol.Settle(request):
                    found = self._delivery is not None and self._delivery.settle(request)
                    await self._perform(self._session.settled(request, found))
                case protocol.Deliver():
                    if self._delivery is not None:
                        self._delivery.start()
                case protocol.Answered():
                    if self._delivery is not None:
                        self._delivery.answered()
                case protocol.EndDelivery():
                    await self._end_delivery()
                case _:
                    self._act((effect,))

    def _act(self, effects: protocol.Effects, *, log: bool = True) -> None:
        """Performs effects that need no waiting. `log`: whether a close is logged."""
        data = b""
        for effect in effects:
            match effect:
                case protocol.Ping():
                    data += websocket.PING
                case protocol.Send(payload):
                    data += websocket.text(payload)
                case protocol.Close(code, reason):
                    try:
                        self._shut()
                        self._edge.close(code, reason)
                    except BaseException:
                        # There may be no memory for a close frame, and nothing would close the connection later.
                        self._stream.close()
                        raise
                    if log:
                        self._tell("socket_closed", code=code, reason=reason)
                case protocol.Log(message, event):
                    self._tell(event, reason=message)
        if data and self.active:
            self._ping = self._buffer(data)
            self._liveness.asked(self._loop.time())

    def _tell(self, event: str, **what: Any) -> None:
        token = self._session.token
        if token is None:
            self._clients.tell(event, address=self.client_ip, **what)
        else:
            _log.info(event, address=self.client_ip, token=token.key, **what)

    def _authenticate(self, key: str, secret: str) -> protocol.Effects:
        try:
            token = self._clients.access.authenticate(key, secret)
        except Unauthorized as error:
            return self._session.refused(str(error))
        self._clients.identify(self, token)
        # Until now messages were short; an answer or a map of positions may be longer.
        limit = self._clients.settings.max_message
        self._edge.allow(2 * limit + 64 * KIB)
        return self._session.authenticated(token)

    async def _subscribe(self, effect: protocol.Subscribe) -> protocol.Effects:
        try:
            delivery, answers = await self._clients.deliveries.subscribe(
                self,
                effect.request,
                effect.token,
                extended=self._session.extended,
                filter=effect.filter,
                replaces=self._delivery,
                ping=self._ping_behind,
            )
        except Conflict as error:
            return self._session.subscribe_refused(error)
        except RelayError as error:
            self._clients.deliveries.unserved("subscribe_failed", error)
            self.unavailable("the relay can't read its log now: reconnect later")
            return ()
        if not self.active:
            self._clients.deliveries.end(delivery)
            return ()
        self._delivery = delivery
        self._stream.open_to(delivery.lane)
        self.subscribed_at = time.time()
        token = self._session.token
        if token is not None and token is not effect.token:
            delivery.rescope(token)
        return self._session.subscribed(effect.request, answers, self._loop.time())

    def _unsubscribe(self, request: control.Unsubscribe) -> protocol.Effects:
        try:
            if self._delivery is not None:
                self._delivery.unsubscribe(request)
        except Invalid as error:
            return self._session.unsubscribed(request, error)
        return self._session.unsubscribed(request)

    async def _respond(self, effect: protocol.Respond) -> protocol.Effects:
        request = effect.request
        status, at = status_of(request.status), time.time()
        result = Result(status, request.status, request.headers, request.body, 0, 0, at)
        try:
            await self._clients.responses.respond(effect.token, request.id, result)
        except RelayError as error:
            return self._session.responded(request, error)
        return self._session.responded(request)

    async def _end_delivery(self) -> None:
        """Ends delivery after its current write, and forgets its positions."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            self._clients.deliveries.end(delivery)
            await delivery.ended()

    # heartbeats and time-outs

    def _due(self) -> float:
        return min(self._session.due, self._liveness.due)

    def _look(self, now: float) -> None:
        if now >= self._liveness.due and self._liveness.stuck(now, self._acknowledged()):
            self._act(self._session.stuck())
        elif now >= self._session.due:
            blocked = self._ping is not None and not self._ping.done()
            self._act(self._session.tick(now, self._moved, blocked=blocked))
            if blocked:
                # The client may have read a little since the ping, which has not left yet.
                self._liveness.asked(now)

    def _acknowledged(self) -> int | None:
        return None if self._stream.closed() else acknowledged(self._stream.socket)

    def _moved(self) -> Mapping[str, str]:
        return {} if self._delivery is None else self._delivery.moved()

    def _ping_behind(self, payload: bytes) -> None:
        """Writes a protocol ping after everything written so far."""
        if self.active:
            self._buffer(websocket.ping(payload))


def _may_have_filter(message: str | bytes) -> bool:
    """Whether a message has a filter, perhaps under an escaped name, or with capitals (`Filter`, `FILTER`)."""
    if isinstance(message, bytes):
        return b"ilter" in message or b"FILTER" in message or b"\\" in message
    return "ilter" in message or "FILTER" in message or "\\" in message
