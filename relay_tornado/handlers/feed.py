"""One stream of server-sent events, as the outlet of its delivery: frames in, events out.

Delivery passes it the frames that WebSockets get, which are encoded once for all. It takes off their first bytes, and
the JSON behind them is an event's data. So nothing is encoded twice, and nothing changes for WebSockets.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, NoReturn

import structlog
from tornado.httputil import HTTPServerRequest

from relay_tornado.delivery.deliver import Delivery
from relay_tornado.delivery.liveness import acknowledged
from relay_tornado.delivery.outlet import Frames
from relay_tornado.handlers.connected_clients import ConnectedClient, ConnectedClients
from relay_tornado.handlers.credentials import Caller
from relay_tornado.handlers.tornado_connection import TornadoConnection
from relay_tornado.ids import format_id, parse_id
from relay_tornado.low_memory import Timer, retry_until_done
from relay_tornado.model import BucketId, Cursor, Gap, Token
from relay_tornado.protocol import EXPIRED, revoked, too_slow
from relay_tornado.wire import control, frames, sse, websocket

HEARTBEAT: Final = 15.0
"""Seconds between two heartbeats, or `ping_interval` if that is less."""

_RETRY: Final = (1_000, 3_000)
"""Milliseconds after which a client reconnects, chosen at random so that they do not all return at once after a
restart."""

_LAST_WORDS: Final = 5.0
"""Seconds that the end of a stream may take to arrive."""

_log = structlog.get_logger(__name__)


class Feed(ConnectedClient):
    """Counts as a connection from its creation; sends nothing before `open`."""

    __slots__ = (
        "_chunked",
        "_heartbeat",
        "_heartbeats",
        "_ids",
        "_next",
        "_opened",
        "_secret_hash",
        "_session",
        "_single",
        "_token",
    )

    consumer = ""
    """Always empty, since nobody acknowledges events on a stream."""

    def __init__(self, clients: ConnectedClients, caller: Caller, request: HTTPServerRequest, *, single: bool) -> None:
        """With `single`, the stream is of one named bucket, so its ids are event ids."""
        super().__init__(clients, request)
        self._token = caller.token
        # The secret before a rotation ends with its grace period; the current one stays valid through later rotations.
        self._secret_hash = caller.secret_hash
        self._session = caller.session
        if self._session is not None:
            self._session.held.add(self)
        self._single = single
        self._opened = int(time.time())
        self._chunked = True
        self._ids: dict[BucketId, str] = {}
        self._heartbeat: asyncio.Future[None] | None = None
        self._heartbeats = min(HEARTBEAT, clients.settings.ping_interval)
        self._next = 0.0
        clients.enter(self)
        clients.identify(self, caller.token)

    # start and end

    def open(
        self,
        stream: TornadoConnection,
        delivery: Delivery,
        request: control.Subscribe,
        answers: Sequence[Mapping[str, Any]],
        *,
        chunked: bool,
    ) -> None:
        """Begins the stream once the head of the answer is sent: tells what was subscribed to, and starts delivery.
        `answers` has one entry per bucket, as in docs/protocol.md; `chunked` is how the body is framed."""
        self._stream = stream
        self._chunked = chunked
        self._delivery = delivery
        stream.set_close_callback(self._closed)
        if stream.closed():
            self._closed()
            return
        if not self.active:
            stream.close()
            return
        self.subscribed_at = time.time()
        for entry in answers:
            # If the client had some copies of an event, delivery itself has no id for that position.
            since = request.position(entry.get("bucket_id", ""), entry["bucket_name"])
            if isinstance(since, Cursor) and "bucket_id" in entry:
                self._ids[entry["bucket_id"]] = format_id(since.epoch, since.seq, since.output)
        self._refresh()
        retry = random.randint(*_RETRY)  # noqa: S311  # no secret
        first = [self._event("subscribed", frames.subscribed(request.buckets, answers), retry)]
        for entry in answers:
            if entry.get("gap"):
                gap = entry["gap"]
                told = Gap(gap["reason"], gap["from"], gap["to"])
                first.append(self._event("gap", frames.gap(entry["bucket_name"], told)))
        self._buffer(self._framed(b"".join(first)))
        now = self._loop.time()
        self._next = now + self._heartbeats
        self._set_alarm(self._due())
        delivery.rescope(self._token)
        delivery.start()

    def leave(self) -> None:
        """Stops counting it as a connection, when it has ended or can't be opened."""
        self.active = False
        if self._session is not None:
            self._session.held.discard(self)
        self._clients.forget(self)

    def send_away(self, reason: str, *, log: bool = True) -> None:
        self._end("going_away", reason, log=log)

    def cut_off(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def token_changed(self, token: Token | None) -> None:
        if not self.active:
            return
        reason = revoked(token, self._secret_hash)
        if token is None or reason:
            self._end("token_revoked", reason)
            return
        self._token = token
        if self._delivery is not None:
            self._delivery.rescope(token)

    def token_expired(self) -> None:
        self._end("token_expired", EXPIRED)

    def session_ended(self) -> None:
        self._end("signed_out", "nobody is signed in here any more: sign in again")

    # the outlet of delivery

    def send_now(self, data: bytes) -> bool:
        stream = self._stream
        if not self.active or stream is None or stream.writing():
            return False
        return self._buffer(self._framed(self._events(data))) is not None

    def send_rest(self, data: memoryview) -> NoReturn:
        raise AssertionError("frames are not what goes to its socket")

    def write(self, data: Frames) -> Awaitable[None]:
        return self._write(self._framed(self._events(data)))

    def gap_refused(self) -> None:
        self._end("gap_refused", "events are missing, and on_gap is fail: begin from another position")

    def unavailable(self, reason: str) -> None:
        self._end("unavailable", reason)

    # outgoing events

    def _events(self, data: Frames) -> bytes:
        parts = []
        for payload in websocket.payloads(data):
            told = frames.told(payload)
            if told.id:
                self._ids[told.bucket_id] = told.id
            else:
                # No events are on their way while delivery sends a status frame, so its positions are exact.
                self._refresh()
            parts.append(self._event(told.kind, payload))
        return b"".join(parts)

    def _event(self, kind: str, payload: bytes, retry: int | None = None) -> bytes:
        return sse.event(kind, payload, self._id(), retry)

    def _id(self) -> str | None:
        """The position of the whole stream; None if its only bucket is gone. A stream of one name has two buckets if
        another one has taken over the name."""
        if self._single and len(self._ids) < 2:
            return next(iter(self._ids.values()), None)
        return sse.several(self._ids.values(), self._opened)

    def _refresh(self) -> None:
        """Takes over the positions of delivery, and forgets buckets that are gone."""
        if self._delivery is not None:
            there = self._delivery.positions()
            self._ids = {key: each for key, each in self._ids.items() if key in there}
            self._ids.update(self._delivery.reached())

    def _framed(self, body: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body

    # heartbeats and time-outs

    def _due(self) -> float:
        return min(self._next, self._liveness.due)

    def _look(self, now: float) -> None:
        stream = self._stream
        assert stream is not None
        if now >= self._liveness.due and self._liveness.stuck(now, self._acknowledged(stream, now)):
            self._end("too_slow", too_slow(self._clients.settings.stuck_timeout))
            # The client reads nothing, so there is no use in waiting for the end to arrive.
            stream.close()
        elif self._session is not None and time.time() >= self._session.expires_at:
            self.session_ended()
        elif now >= self._next:
            self._next = now + self._heartbeats
            if self._heartbeat is None or self._heartbeat.done():
                self._heartbeat = self._buffer(self._framed(self._beat()))
            # A heartbeat that has not left yet counts again, since the client may have read a little meanwhile.
            self._liveness.asked(now)

    def _beat(self) -> bytes:
        """A heartbeat. It is an event, since a page's script does not see comments."""
        delivery = self._delivery
        assert delivery is not None
        moved = frames.ping(delivery.moved())
        if not delivery.busy:
            self._refresh()
        else:
            # Delivery may have written less than is on its way.
            for key, reached in delivery.reached().items():
                before = self._ids.get(key)
                if before is None or parse_id(before).seq < parse_id(reached).seq:
                    self._ids[key] = reached
        return self._event("ping", moved)

    def _acknowledged(self, stream: TornadoConnection, now: float) -> int | None:
        if stream.closed():
            return None
        bytes_acknowledged = acknowledged(stream.socket)
        if bytes_acknowledged is None and not stream.writing():
            # It is unknown what the client's side has received, but the kernel takes what is written.
            self._liveness.heard(now)
        return bytes_acknowledged

    # closing

    def _end(self, code: str, reason: str, *, log: bool = True) -> None:
        """Sends the last event and the end of the body. May be repeated. `log`: whether it is logged."""
        if not self.active:
            return
        self._shut()
        if log:
            _log.info("stream_closed", code=code, reason=reason, address=self.client_ip)
        stream = self._stream
        if stream is None or stream.closed():
            return
        last = self._framed(sse.event("error", frames.error(code, reason)))
        if self._buffer(last + (b"0\r\n\r\n" if self._chunked else b"")) is not None:
            Timer(stream.close).after(_LAST_WORDS)
            stream.when_written(stream.close)

    def _closed(self) -> None:
        retry_until_done(self._over)

    def _over(self) -> None:
        self._shut()
        self.leave()
