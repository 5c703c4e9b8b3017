"""/v1/stream: server-sent events, for browsers, curl and other clients without a WebSocket."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tornado.iostream import StreamClosedError
from tornado.routing import URLSpec

from relay_tornado.errors import Invalid, NotFound, Overloaded, RelayError, Unavailable
from relay_tornado.handlers.base import JsonHandler
from relay_tornado.handlers.connected_clients import ConnectedClients
from relay_tornado.handlers.credentials import Caller, Callers
from relay_tornado.handlers.feed import Feed
from relay_tornado.handlers.tornado_connection import TornadoConnection, stream_of
from relay_tornado.ids import SECRET_PREFIX
from relay_tornado.log.contract import EventLog
from relay_tornado.model import Bucket, Cursor, Earliest, Position, Token
from relay_tornado.registry.access import Access
from relay_tornado.registry.contract import Registry
from relay_tornado.rules import Rules, compile_rules
from relay_tornado.wire import control, sse

MAX_BUCKETS: Final = 100
"""Maximum number of buckets of a stream: each of its ids has a position in all of them, and returns in a request's
head."""

PARAMETERS: Final = ("bucket", "since", "filter", "max_body", "outputs", "on_gap")
_SECRETS: Final = frozenset(
    {"secret", "key", "token", "access_token", "api_key", "apikey", "password", "auth", "authorization", "bearer"}
)

_LIKE_A_SECRET: Final = re.compile(SECRET_PREFIX, re.IGNORECASE)
_BETWEEN: Final = re.compile(r"""[\s",:{}\[\]]+""")
"""Separators between values in one parameter: commas, and JSON's punctuation."""
_POSITIONS: Final = (
    'write latest, earliest, an event id, {"last": 10} or {"time": 1700000000}, '
    "or an object from bucket to one of these"
)


class StreamHandler(JsonHandler):
    """Checks a request, and hands the connection over to a `Feed`. A refusal is a JSON answer. HEAD is checked in the
    same way, and gets the head alone."""

    def initialize(self, clients: ConnectedClients, log: EventLog, registry: Registry, callers: Callers) -> None:
        self._clients = clients
        self._callers = callers
        self._events = log
        self._registry = registry

    async def get(self) -> None:
        """Answers with the stream, once its starting position is known."""
        caller, request, rules = await self._asked()
        request = await self._resumed(request, self._wanted(request, caller.token))
        if await self._clients.turned_away(stream_of(self.request)):
            return
        feed = self._feed(caller, single=len(request.buckets) == 1)
        try:
            delivery, answers = await self._clients.deliveries.subscribe(
                feed, request, caller.token, extended=True, filter=rules
            )
        except BaseException:
            feed.leave()
            raise
        stream: TornadoConnection | None = None
        try:
            request, answers = _by_place(request, answers)
            refusal = self._refusal(feed, request, answers)
            if refusal is None:
                await self._begin()
                if self.request.method != "HEAD":
                    stream = self._taken_over()
        except StreamClosedError:
            return  # the client has left already
        finally:
            if stream is None:
                self._clients.deliveries.end(delivery)
                feed.leave()
        if stream is not None:
            try:
                feed.open(stream, delivery, request, answers, chunked=self.request.version == "HTTP/1.1")
            except BaseException:
                stream.close()  # the feed is told by its close callback
                raise
        elif isinstance(refusal, RelayError):
            raise refusal
        elif refusal is not None:
            self.answer(refusal, 410)

    # limits

    def _feed(self, caller: Caller, *, single: bool) -> Feed:
        refusal = self._clients.refusal(self.request.remote_ip or "")
        if refusal is not None:
            raise Overloaded(refusal[1])
        return Feed(self._clients, caller, self.request, single=single)

    # the subscription

    async def _asked(self) -> tuple[Caller, control.Subscribe, Rules | None]:
        """Who asks, and for what; a filter is read once those of the token may be compiled."""
        # A browser also sends a password that it remembers.
        self._callers.refuse_foreign_page(self.request)
        arguments = _arguments(self.request.query_arguments, self._callers.access)
        caller = self._callers.caller(self.request)
        compiling = self._clients.compiling
        if "filter" in arguments and await compiling.turn(caller.token.key):
            caller = self._callers.caller(self.request)  # it may have been revoked meanwhile
        began = time.thread_time()
        try:
            return caller, *_subscription(arguments)
        finally:
            compiling.took(caller.token.key, time.thread_time() - began)

    def _wanted(self, request: control.Subscribe, token: Token) -> Sequence[Bucket]:
        """The requested buckets that exist now. Raises NotFound if none of those that were named does."""
        named = map(self._registry.find_bucket, request.buckets)
        there = [each for each in named if each is not None] if request.buckets else self._registry.list("bucket")
        found = {bucket.id: bucket for bucket in there if token.reads(bucket.id)}
        if request.buckets and not found:
            which = ", ".join(f"bucket {place}" for place, _ in enumerate(request.buckets, 1))
            raise NotFound(f"{which}: this token reads no bucket of this name or id")
        if len(found) > MAX_BUCKETS:
            raise Invalid(
                f"a stream has at most {MAX_BUCKETS} buckets, and this would have {len(found)}: name some, or "
                "use the WebSocket",
                "bucket",
            )
        return list(found.values())

    async def _resumed(self, request: control.Subscribe, buckets: Sequence[Bucket]) -> control.Subscribe:
        """The request of a client that reconnects: its Last-Event-ID replaces the position where it once began."""
        last = self.request.headers.get("Last-Event-ID", "")
        if not last:
            return request
        reached = sse.reached(last)
        if reached.opened is None:
            return dataclasses.replace(request, since=reached.cursors[0])
        positions: dict[str, Position] = {}
        lost: Cursor | None = None
        for cursor in reached.cursors:
            bucket_id = await self._events.find(cursor.epoch)
            if bucket_id is None:
                lost = cursor
            else:
                positions[bucket_id] = cursor
        for bucket in buckets:
            if bucket.id not in positions:
                position = _unnamed(bucket, request, reached.opened, lost)
                if position is not None:
                    positions[bucket.id] = position
        return dataclasses.replace(request, since=positions)

    def _refusal(
        self, feed: Feed, request: control.Subscribe, answers: Sequence[Mapping[str, Any]]
    ) -> RelayError | dict[str, Any] | None:
        """Why the stream can't begin: an error, or the body of the answer that names the gaps; otherwise None."""
        if not feed.active:
            return Unavailable("the relay is going away, or the token has changed: reconnect")
        if request.on_gap == "fail" and any(entry.get("gap") for entry in answers):
            message = "events are missing, and on_gap is fail: begin from another position"
            return {"code": "cursor_lost", "message": message, "buckets": answers}
        return None

    async def _begin(self) -> None:
        """Sends the head of the response."""
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store, no-transform")
        # Otherwise nginx would hold data back until its buffer is full.
        self.set_header("X-Accel-Buffering", "no")
        if self.request.method != "HEAD":
            self.set_header("Connection", "close")
        await self.flush()

    def _taken_over(self) -> TornadoConnection:
        """The connection, on which no requests are read any more."""
        stream = self.detach()
        assert isinstance(stream, TornadoConnection)
        try:
            stream.detached()
            stream.drop()
        except BaseException:
            stream.close()
            raise
        return stream


def _unnamed(bucket: Bucket, request: control.Subscribe, opened: int, lost: Cursor | None) -> Position | None:
    """The position of a client that reconnects in a bucket that its id does not name. A bucket newer than the stream
    starts at its first event, any other as on a first connection."""
    if bucket.created_at >= opened:
        return Earliest()
    # The id of a log that is gone may have been this bucket's.
    return request.position(bucket.id, bucket.name) if lost is None else lost


def _by_place(
    request: control.Subscribe, answers: Sequence[dict[str, Any]]
) -> tuple[control.Subscribe, list[dict[str, Any]]]:
    """The same with unknown names replaced by their place ("bucket 2", or "since"): a name of no bucket may be
    anything."""
    unknown = {entry["bucket_name"] for entry in answers if entry.get("error") == "not_found"}
    places = {name: f"bucket {place}" for place, name in enumerate(request.buckets, 1) if name in unknown}
    told = tuple(places.get(name, name) for name in request.buckets)
    entries = [
        {**entry, "bucket_name": places.get(entry["bucket_name"], "since")}
        if entry.get("error") == "not_found"
        else entry
        for entry in answers
    ]
    return dataclasses.replace(request, buckets=told), entries


def _holds_secret(text: str, access: Access) -> bool:
    """Whether a part of the query holds a token's secret, or something that looks like one."""
    return _LIKE_A_SECRET.search(text) is not None or any(access.knows(each) for each in {text, *_BETWEEN.split(text)})


def _arguments(query: Mapping[str, Sequence[bytes]], access: Access) -> dict[str, list[str]]:
    """The query's parameters. Raises Invalid, whose text never repeats a secret."""
    parts = (text for name, values in query.items() for text in (name, *(each.decode("latin-1") for each in values)))
    if not _SECRETS.isdisjoint(name.lower() for name in query) or any(_holds_secret(each, access) for each in parts):
        raise Invalid(
            "a secret does not belong in a URL, where logs and histories keep it: send it in the header Authorization "
            "(Bearer <secret>), and rotate this one, for it may have been written down already"
        )
    arguments = {}
    for place, (name, values) in enumerate(query.items(), 1):
        if name not in PARAMETERS:
            raise Invalid(f"parameter {place}: there is no such parameter: there are {', '.join(PARAMETERS)}")
        if name != "bucket" and len(values) > 1:
            raise Invalid("write it once", name)
        try:
            arguments[name] = [value.decode() for value in values]
        except UnicodeDecodeError:
            raise Invalid("is not UTF-8", name) from None
    return arguments


def _subscription(arguments: Mapping[str, Sequence[str]]) -> tuple[control.Subscribe, Rules | None]:
    """The request in the parameters, checked in the same way as a WebSocket's subscribe. Raises Invalid."""
    document: dict[str, Any] = {name: values[0] for name, values in arguments.items() if name != "bucket"}
    names = [name for value in arguments.get("bucket", ()) for name in value.split(",")]
    document["buckets"] = [name for name in names if name]
    if len(document["buckets"]) > MAX_BUCKETS:
        raise Invalid(f"a stream has at most {MAX_BUCKETS} buckets: name fewer, or use the WebSocket", "bucket")
    if document.get("since", "").startswith("{"):
        document["since"] = _json("since", document["since"])
    if "filter" in document:
        document["filter"] = _json("filter", document["filter"])
    if document.get("max_body", "").isdecimal():
        document["max_body"] = int(document["max_body"][:18])
    if document.get("outputs") == "all":
        del document["outputs"]  # the default, which has no name on the WebSocket
    try:
        message = json.dumps({"action": "subscribe", **document})
    except RecursionError:  # writing needs more stack than reading for the same nesting
        raise Invalid("filter and since: one of them is nested too deeply") from None
    content = control.parse(message).content
    if isinstance(content, control.Problem):
        if content.message.startswith("since") and not content.message.startswith(("since.last:", "since.time:")):
            # The WebSocket's text repeats what was sent.
            raise Invalid(f"there is no such position: {_POSITIONS}", "since")
        raise Invalid(content.message, content.field, named=True)
    assert isinstance(content, control.Subscribe)
    rules = None if content.filter is None else compile_rules(content.filter, "filter")
    return content, None if rules is None or rules.every else rules


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid("is no JSON: write it as on the WebSocket, percent-encoded", name) from None


def routes(clients: ConnectedClients, log: EventLog, registry: Registry, callers: Callers) -> list[URLSpec]:
    parts = {"clients": clients, "log": log, "registry": registry, "callers": callers}
    return [URLSpec(r"/v1/stream/?", StreamHandler, parts)]
