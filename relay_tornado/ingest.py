"""What accepts a webhook: head and body in, answer out. It knows no transport, and decides from the head alone
what can be decided there.

    upload = ingest.begin(head)            an Answer where the head alone decides
    refusal = upload.feed(chunk)           an Answer where the body is too much; then it is over
    upload.finish(answered)                calls answered(answer) once, when the event is committed
    upload.abandon()                       where the sender is gone
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

import structlog

from relay_tornado.errors import Overloaded, RelayError, Unknown
from relay_tornado.log.contract import EventLog
from relay_tornado.model import Appended, Bucket, BucketAuth, Input, NewEvent
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.wire.answers import NO_SUCH_INPUT, Answer, error_answer, static_answer, text_answer

PREFIX = b"/v1/webhooks/"
DELIVERY_IDS = ("X-GitHub-Delivery", "webhook-id", "Idempotency-Key", "X-Shopify-Webhook-Id")
"""The headers that dedupe "auto" looks for, in this order; the first that is there decides."""

_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_log = structlog.get_logger(__name__)


class Head(NamedTuple):
    """A request's head. `target` is as it came; `headers` is the raw header block, as in `NewEvent`;
    `content_length` is None where only the end of the body tells (chunked)."""

    method: str
    target: bytes
    headers: bytes
    content_length: int | None
    remote_ip: str


def origin_form(target: bytes) -> bytes:
    """Path and query of a request target: of an absolute-form one (`http://host/path`) what follows the host."""
    if target[:1] == b"/":
        return target
    match = _ORIGIN.match(target)
    if match is None:
        return target
    rest = target[match.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest


def split_target(target: bytes) -> tuple[str, bytes, bytes] | None:
    """Input id, path (with its slash, or empty) and query of an ingest URL's target; None where it is no such URL."""
    target = origin_form(target)
    if not target.startswith(PREFIX):
        return None
    rest, _, query = target[len(PREFIX) :].partition(b"?")
    input_id, slash, path = rest.partition(b"/")
    return input_id.decode("latin-1"), slash + path, query


def header_pattern(name: str) -> re.Pattern[bytes]:
    """Finds a header's lines in a raw block; the first group is the value with its surrounding blanks."""
    return re.compile(rb"^%b:(.*)\n" % re.escape(name.encode()), re.IGNORECASE | re.MULTILINE)


_AUTHORIZATION = header_pattern("Authorization")
_BLANKS = b" \t\r"


class _Door:
    """What is worked out once for an input: its answer, its limit, and how its senders prove themselves."""

    __slots__ = ("answer", "auth", "bucket", "challenge", "dedupe_headers", "input", "max_body", "too_large", "window")

    def __init__(self, bucket: Bucket, input: Input, settings: Settings) -> None:
        self.bucket = bucket
        self.input = input
        self.answer = static_answer(input)
        default = settings.large_max_body if bucket.large_webhooks else settings.max_body
        self.max_body = default if bucket.max_body is None else bucket.max_body
        self.too_large = text_answer(413, f"The body is larger than the {self.max_body} bytes that this bucket takes.")
        self.auth: Callable[[bytes], bool] | None = None
        if bucket.auth.type != "none":
            self.auth = _check_basic(bucket.auth) if bucket.auth.type == "basic" else _check_bearer(bucket.auth)
            scheme = 'Basic realm="webhooks", charset="UTF-8"' if bucket.auth.type == "basic" else "Bearer"
            self.challenge = Answer(
                401, (("Content-Type", "text/plain"), ("WWW-Authenticate", scheme)), b"Unauthorized"
            )
        names: tuple[str, ...] = () if bucket.dedupe is None else (bucket.dedupe.header,)
        if names == ("auto",):
            names = DELIVERY_IDS
        self.dedupe_headers = tuple((name.lower().encode(), header_pattern(name)) for name in names)
        self.window = 0.0 if bucket.dedupe is None else bucket.dedupe.window


def _check_basic(auth: BucketAuth) -> Callable[[bytes], bool]:
    expected = hashlib.sha256(f"{auth.username}:{auth.password}".encode()).digest()

    def check(value: bytes) -> bool:
        scheme, _, credentials = value.partition(b" ")
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except binascii.Error:
            given = b""
        return scheme.lower() == b"basic" and hmac.compare_digest(hashlib.sha256(given).digest(), expected)

    return check


def _check_bearer(auth: BucketAuth) -> Callable[[bytes], bool]:
    expected = hashlib.sha256(auth.token.encode()).digest()

    def check(value: bytes) -> bool:
        scheme, _, token = value.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(hashlib.sha256(token.strip()).digest(), expected)

    return check


class Ingest:
    """Takes webhooks in. `buffered` is how many bytes of bodies are on their way, over all uploads."""

    def __init__(self, log: EventLog, routes: Routes, settings: Settings) -> None:
        self.log = log
        self.buffered = 0
        self.capacity = settings.ingest_buffer
        self._routes = routes
        self._settings = settings
        self._doors: dict[str, _Door] = {}
        self._revision = routes.revision
        self.full = error_answer(Overloaded())

    def begin(self, head: Head) -> Upload | Answer:
        """An upload to feed, or at once the answer: unknown input 404, wrong credentials 401, too long 413, too many
        bodies on their way 503."""
        parts = split_target(head.target)
        door = None if parts is None else self._door(parts[0])
        if parts is None or door is None:
            return NO_SUCH_INPUT
        headers = head.headers
        if door.auth is not None:
            given = _AUTHORIZATION.findall(headers)
            if len(given) != 1 or not door.auth(given[0].strip(_BLANKS)):
                return door.challenge
            headers = _AUTHORIZATION.sub(b"", headers)
        declared = head.content_length or 0
        if declared > door.max_body:
            return door.too_large
        if self.buffered + declared > self.capacity:
            return self.full
        return Upload(self, door, head, headers, parts[1], parts[2])

    def _door(self, input_id: str) -> _Door | None:
        if self._revision != self._routes.revision:
            self._revision = self._routes.revision
            self._doors.clear()
        door = self._doors.get(input_id)
        if door is None:
            route = self._routes.find(input_id)
            if route is None:
                return None
            door = self._doors[input_id] = _Door(*route, self._settings)
        return door


class Upload:
    """A webhook on its way in. Its bytes count against the ingest buffer as they arrive, until it is handed to the
    log, refused or abandoned."""

    __slots__ = ("_body", "_digest", "_door", "_event", "_ingest", "_size")

    def __init__(self, ingest: Ingest, door: _Door, head: Head, headers: bytes, path: bytes, query: bytes) -> None:
        self._ingest = ingest
        self._door = door
        self._event = (door.input.id, head.method, path, query, headers, head.remote_ip)
        self._body: bytes | bytearray = b""
        self._size = 0
        self._digest = None
        for name, pattern in door.dedupe_headers:
            match = pattern.search(headers)
            if match is not None:
                value = match[1].strip(_BLANKS)
                self._digest = _framed(door.input.id.encode(), head.method.encode(), path, query, name, value)
                break

    def feed(self, chunk: bytes) -> Answer | None:
        """Takes bytes of the body. Returns the refusal (413, 503) where they are too many; then the upload is over."""
        size = len(chunk)
        if self._size + size > self._door.max_body:
            self.abandon()
            return self._door.too_large
        ingest = self._ingest
        if ingest.buffered + size > ingest.capacity:
            self.abandon()
            return ingest.full
        ingest.buffered += size
        if self._size == 0:
            self._body = chunk
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + chunk
        else:
            self._body += chunk
        self._size += size
        if self._digest is not None:
            self._digest.update(chunk)
        return None

    def finish(self, answered: Callable[[Answer], None]) -> None:
        """Appends the event. `answered` is called once, from the event loop, when its outcome is known."""
        input_id, method, path, query, headers, remote_ip = self._event
        event = NewEvent(
            input_id,
            method,
            path,
            query,
            headers,
            bytes(self._body),
            remote_ip,
            None if self._digest is None else self._digest.digest(),
            self._door.window,
        )
        self.abandon()
        answer = self._door.answer

        def appended(future: asyncio.Future[Appended]) -> None:
            answered(answer if not future.cancelled() and future.exception() is None else _failed(future))

        asyncio.ensure_future(self._ingest.log.append(self._door.bucket.id, event)).add_done_callback(appended)

    def abandon(self) -> None:
        """Lets go of what was fed. May be repeated."""
        self._ingest.buffered -= self._size
        self._size = 0
        self._body = b""


def _failed(future: asyncio.Future[Appended]) -> Answer:
    error = Unknown() if future.cancelled() else future.exception()
    assert error is not None
    if not isinstance(error, RelayError):
        _log.error("append_failed", exc_info=error)
    return error_answer(error)


def _framed(*parts: bytes) -> hashlib._Hash:
    """A SHA-256 that took these parts, each behind its length, so that no two lists of parts look alike; what is fed
    to it afterwards is the last part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest
