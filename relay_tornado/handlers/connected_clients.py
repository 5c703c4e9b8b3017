"""All connected clients, over WebSockets and streams: their limits, and closing them from outside."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Any, Final

import structlog
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError

from relay_tornado.delivery.bounds import PendingWrite
from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.deliveries import Deliveries
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.delivery.liveness import Liveness
from relay_tornado.delivery.outlet import OutletClosed
from relay_tornado.delivery.responses import Responses
from relay_tornado.errors import CloseCode
from relay_tornado.handlers.admission import Admission
from relay_tornado.handlers.alarms import Alarms
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.low_memory import Timer
from relay_tornado.model import BucketId, Token
from relay_tornado.proxy_trust import ProxyTrust
from relay_tornado.rate_limits import LogLimit
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.settings import Settings

_AWAY: Final = "the relay is going away: reconnect"

SUBSCRIBES_A_TURN: Final = 8
"""Maximum number of messages per turn of the loop from clients that have not subscribed yet, and of subscribes."""
MESSAGES_A_TURN: Final = 64
"""Maximum number of other messages per turn. Those of one client are in memory by the hundred; to read one from each of
many sockets takes four times as long."""

GRACE: Final = 1.0
"""Seconds for which clients that are sent away may all be silent; those still there then are cut off."""

RETRY_DELAY: Final = 1.0
"""Seconds after which a connection is looked at again if that failed."""

_EXPIRY: Final = 0.5
"""Seconds between two checks of the clock of day for expired tokens."""

_log = structlog.get_logger(__name__)


class ConnectedClient(ABC):
    """A live connection that events are delivered to: a WebSocket's conversation, or a stream of server-sent events."""

    __slots__ = (
        *("_alarm", "_clients", "_delivery", "_liveness", "_loop", "_stream"),
        *("active", "address", "client_ip", "key", "subscribed_at", "user_agent"),
    )

    def __init__(self, clients: ConnectedClients, request: HTTPServerRequest) -> None:
        """`request` is the one that it began with."""
        self.client_ip = request.remote_ip or ""
        self.address = clients.counted(self.client_ip)
        """The key for the limit of connections per address; None if it is not counted."""
        self.user_agent = request.headers.get("User-Agent", "")[:1000]
        self.key = ""
        """The key of its token, "" before it has one."""
        self.subscribed_at: float | None = None
        """When it subscribed last, in unix seconds."""
        self.active = True
        """Whether it is sent events and heartbeats, or will be."""
        self._clients = clients
        self._stream: TornadoConnection | None = None
        self._delivery: Delivery | None = None
        self._loop = asyncio.get_running_loop()
        self._liveness = Liveness(clients.settings.stuck_timeout, self._loop.time())
        self._alarm = 0.0

    @property
    @abstractmethod
    def consumer(self) -> str:
        """The name of the consumer in its subscribe, "" if it named none."""

    @property
    def positions(self) -> Mapping[BucketId, int]:
        """By bucket that it is subscribed to now, the seq of the last event that was written or skipped."""
        return {} if self._delivery is None else {key: at.seq for key, at in self._delivery.positions().items()}

    @abstractmethod
    def token_changed(self, token: Token | None) -> None:
        """Called when the record of its token has changed, or is gone (None)."""

    @abstractmethod
    def token_expired(self) -> None: ...

    @abstractmethod
    def send_away(self, reason: str, *, log: bool = True) -> None:
        """Closes the connection; its client is to come back later. `log`: whether the log gets a line about it."""

    @abstractmethod
    def cut_off(self) -> None:
        """Closes the connection at once, whatever is still to be sent or read."""

    @abstractmethod
    def _due(self) -> float:
        """When `_look` is to be called next, by the loop's clock."""

    @abstractmethod
    def _look(self, now: float) -> None:
        """Sends a heartbeat if it is time for one, and ends a connection whose client is stuck."""

    def _write(self, data: bytes | memoryview) -> Awaitable[None]:
        """Writes; what is returned waits until the data has left. Both raise OutletClosed."""
        if not self.active or self._stream is None:
            raise OutletClosed
        try:
            return Written(self._stream.write(data))
        except StreamClosedError:
            raise OutletClosed from None

    def _buffer(self, data: bytes | memoryview) -> asyncio.Future[None] | None:
        """Writes without waiting; None if the stream is closed. Data that the kernel does not take counts as in
        flight."""
        assert self._stream is not None
        try:
            writing = self._stream.write(data)
        except StreamClosedError:
            return None
        if not writing.done():
            # If the loop loses the callback, for example for lack of memory, the pending write is dropped with it.
            writing.add_done_callback(PendingWrite(self._clients.deliveries.budget, writing, len(data)).ended)
        return writing

    def _set_alarm(self, at: float) -> None:
        self._alarm = self._clients.alarms.set(self, at)

    def wake(self) -> None:
        """Looks at what is due. Called by the alarm."""
        now = self._loop.time()
        again = now + RETRY_DELAY
        try:
            self._look(now)
            again = self._due()
        finally:
            if self.active:
                self._set_alarm(again)

    def _shut(self) -> None:
        """Stops sending data and cancels the alarm. May be repeated."""
        self.active = False
        self._clients.alarms.cancel(self, self._alarm)
        if self._delivery is not None:
            self._clients.deliveries.end(self._delivery)


class Written:
    """Waits for a write to a stream. Raises OutletClosed if the stream is closed."""

    __slots__ = ("_writing",)

    def __init__(self, writing: asyncio.Future[None]) -> None:
        self._writing = writing

    def __await__(self) -> Generator[Any, None, None]:
        try:
            if self._writing.done():
                self._writing.result()
            else:
                # A cancelled waiter must not cancel the stream's own future.
                yield from asyncio.shield(self._writing).__await__()
        except StreamClosedError:
            raise OutletClosed from None


class ConnectedClients:
    """All live connections that events are delivered to: their limits, and closing them from outside."""

    def __init__(
        self,
        registry: Registry,
        access: Access,
        settings: Settings,
        deliveries: Deliveries,
        responses: Responses,
        trust: ProxyTrust,
    ) -> None:
        """`deliveries` and `responses` end with the sockets. Connections of the proxies in `trust` are not counted by
        address."""
        self.access = access
        self.counted = trust.counted
        self.alarms = Alarms()
        self.admission = Admission(SUBSCRIBES_A_TURN)
        self.messages = Admission(MESSAGES_A_TURN, stay=False)
        self.compiling = FilterTime()
        """The time that requests with a filter take to be read."""
        self.settings = settings
        self.deliveries = deliveries
        self.responses = responses
        self._registry = registry
        self._live: set[ConnectedClient] = set()
        self._addresses: dict[str, int] = {}
        self._tokens: dict[str, set[ConnectedClient]] = {}
        self._expiry = Timer(self._look_at_expiry)
        self._graceless: dict[str, str] = {}
        """By token key, the secret before a rotation whose connections were told that its grace period is over."""
        self._closing = False
        self._refusing: asyncio.Event | None = None
        """Set once nobody can connect any more; None if clients that connect are told to come back."""
        self._log_limit = LogLimit()
        self._emptied = asyncio.Event()
        self._end_watch = registry.watch(self._changed)

    @property
    def count(self) -> int:
        """The number of live connections, authenticated or not."""
        return len(self._live)

    @property
    def keys(self) -> Collection[str]:
        """The keys of tokens that hold a connection."""
        return self._tokens.keys()

    @property
    def subscribed(self) -> Sequence[ConnectedClient]:
        """The connections that have subscribed, in the order in which they did."""
        clients = [each for each in self._live if each.subscribed_at is not None]
        return sorted(clients, key=lambda each: each.subscribed_at or 0.0)

    def tell(self, event: str, **what: Any) -> None:
        """Logs an event that anybody can cause without a token: at most once a second, with the number of lines left
        out."""
        self._log_limit.tell(_log.info, event, **what)

    def refusal(self, sender: str) -> tuple[int, str] | None:
        """A close code and its reason if there is no room for another connection from this address; otherwise None."""
        settings = self.settings
        if self._closing:
            return CloseCode.GOING_AWAY, _AWAY
        if len(self._live) >= settings.max_sockets:
            return CloseCode.TOO_MANY, f"too many sockets: the relay takes {settings.max_sockets}; reconnect later"
        address, most = self.counted(sender), settings.max_sockets_per_address
        if address is not None and self._addresses.get(address, 0) >= most:
            return CloseCode.TOO_MANY, f"too many sockets from {address}: at most {most}; close some"
        return None

    def enter(self, client: ConnectedClient) -> None:
        """Counts a connection until `forget`."""
        self._live.add(client)
        address = client.address
        if address is not None:
            self._addresses[address] = self._addresses.get(address, 0) + 1

    def identify(self, client: ConnectedClient, token: Token) -> None:
        """Assigns the connection to the holder of this token."""
        self._unidentify(client)
        client.key = token.key
        self._tokens.setdefault(token.key, set()).add(client)
        # What has expired by now had expired when the client was authenticated.
        now = time.time()
        self._look_in_time(_soonest(token, now), now)

    def forget(self, client: ConnectedClient) -> None:
        """Called when the connection is closed. May be repeated."""
        self._unidentify(client)
        address = client.address
        if client in self._live:
            if address is not None:
                self._addresses[address] -= 1
                if not self._addresses[address]:
                    del self._addresses[address]
            self._live.remove(client)
        if not self._live:
            self._emptied.set()

    async def turned_away(self, stream: TornadoConnection) -> bool:
        """Whether a client that connects now was cut off without an answer. If so, returns only once nobody can connect
        any more: otherwise the client would come back to this process again and again."""
        if not self._closing or self._refusing is None:
            return False
        stream.detached()  # no request in progress, and its client may leave
        if not stream.closed():
            await self._refusing.wait()
        stream.close()
        return True

    def refuse_all(self) -> None:
        """Cuts off the clients that `close_all` holds. Called once nobody can connect any more."""
        if self._refusing is not None:
            self._refusing.set()

    async def close_all(self, seconds: float, *, hold: bool = False) -> None:
        """Closes all sockets, and those still to come. Returns once all are closed. Clients that do not answer are cut
        off once none has left for `GRACE` seconds, and after `seconds` at most. `hold`: clients that connect from now
        on are held until `refuse_all`."""
        self._closing = True
        if hold:
            self._refusing = asyncio.Event()
        if self._live:  # one line, as there may be thousands
            _log.info("clients_sent_away", clients=len(self._live), reason=_AWAY)
        for client in list(self._live):
            client.send_away(_AWAY, log=False)
        try:
            await self._all_gone(seconds)
            for client in list(self._live):
                client.cut_off()
            await self._all_gone(math.inf)
            await self.deliveries.ended()
        finally:
            self._end_watch()
            self._expiry.cancel()
            self.deliveries.close()
            self.responses.close()

    async def _all_gone(self, seconds: float) -> None:
        """Returns once no client is left, or has left for `GRACE` seconds, and after `seconds` at most. Without an end
        to these, waits for all."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while before := len(self._live):
            self._emptied.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if end == math.inf else min(end, loop.time() + GRACE)):
                    await self._emptied.wait()
            if end < math.inf and (loop.time() >= end or len(self._live) == before):
                return

    def _unidentify(self, client: ConnectedClient) -> None:
        same = self._tokens.get(client.key)
        if same is not None:
            same.discard(client)
            if not same:
                del self._tokens[client.key]
                self._graceless.pop(client.key, None)

    def _changed(self, kind: Kind, key: str) -> None:
        if kind == "token" and key in self._tokens:
            token = self._registry.get("token", key)
            self._tell_all(key, methodcaller("token_changed", token))
            self._look_at_expiry()

    def _tell_all(self, key: str, tell: Callable[[ConnectedClient], None]) -> None:
        """Calls every connection of a token. One that fails is sent away; the others are still called."""
        for client in list(self._tokens.get(key, ())):
            try:
                tell(client)
            except Exception:
                _log.exception("connection_not_told")
                with suppress(Exception):
                    client.send_away(_AWAY)

    def _look_at_expiry(self) -> None:
        """Closes the sockets of expired tokens and expired rotated secrets, and schedules the next check if others will
        expire."""
        now = time.time()
        soonest = math.inf
        for key in list(self._tokens):
            token = self._registry.get("token", key)
            if token is None:
                continue
            if token.expired(now):
                self._tell_all(key, methodcaller("token_expired"))
                continue
            if token.previous_hash and token.previous_until <= now:
                # Nobody can connect with that secret any more, so its connections are told only once.
                if self._graceless.get(key) != token.previous_hash:
                    without = dataclasses.replace(token, previous_hash="", previous_until=0.0)
                    self._tell_all(key, methodcaller("token_changed", without))
                    if key in self._tokens:
                        self._graceless[key] = token.previous_hash
            else:
                self._graceless.pop(key, None)
            soonest = min(soonest, _soonest(token, now))
        self._look_in_time(soonest, now)

    def _look_in_time(self, end: float, now: float) -> None:
        """Schedules the next check for `end`, infinity if there is none to come."""
        if end < math.inf:
            # The clock of day may be set meanwhile, so the check is soon even if the end is far.
            at = asyncio.get_running_loop().time() + min(_EXPIRY, end - now + 0.001)
            if self._expiry.at is None or at < self._expiry.at:
                self._expiry.set(at)


def _soonest(token: Token, now: float) -> float:
    """When the token or the secret before its last rotation expires, the sooner one; infinity if neither does."""
    ends = (token.expires_at, token.previous_until if token.previous_hash else None)
    return min((end for end in ends if end is not None and end > now), default=math.inf)
