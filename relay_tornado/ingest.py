"""What accepts a webhook: head and body in, answer out. It knows no transport, and decides from the head alone
what can be decided there.

    upload = ingest.begin(head)            an Answer where the head alone decides
    refusal = upload.feed(chunk)           an Answer where the body is too much; then it is over
    upload.finish(answered)                calls answered(answer) once, when the event is committed
    upload.abandon()                       where the sender is gone

And for one that is here whole, as most are, with less to do:

    place = ingest.find(target, host)      None where it is for no input
    refusal = ingest.take(place, …, done)  an Answer; else done(outcome) is called once, when the event is committed
    answer = ingest.answer(place, outcome)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec
import structlog

from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, Invalid, NotFound, Overloaded, RelayError, TooLarge, Unavailable, Unknown
from relay_tornado.limits import Limiter, retry_after
from relay_tornado.log.contract import Done, EventLog
from relay_tornado.model import Appended, Bucket, BucketAuth, BucketId, Input, NewEvent, RateLimit, Verify
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.signatures import Verdict, Verifier
from relay_tornado.wire.answers import NO_SUCH_INPUT, Answer, error_answer, static_answer, text_answer

PREFIX = b"/v1/webhooks/"
DELIVERY_IDS = ("X-GitHub-Delivery", "webhook-id", "Idempotency-Key", "X-Shopify-Webhook-Id")
"""The headers that dedupe "auto" looks for, in this order; the first that is there, and not empty, decides."""

MOST_METHOD = 40
"""Characters of a method. It is no part of an event's size, so it must be small."""

_PLACES = 4096
_LONGEST_PLACE = 256
"""How many targets, of at most so many bytes, are kept with what they are for."""

_ORIGIN = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_log = structlog.get_logger(__name__)


class Answers(Protocol):
    """Where senders wait for what a client answers."""

    def wait(
        self, bucket: Bucket, input: Input, appended: Appended, answered: Callable[[Answer], None]
    ) -> Callable[[], None]:
        """Calls `answered` once, perhaps at once; what it returns ends the wait without an answer."""


class Head(NamedTuple):
    """A request's head. `target` is as it came; `headers` is the raw header block, as in `NewEvent`;
    `content_length` is None where only the end of the body tells (chunked). `host` is the Host header, which only
    counts where the target is no ingest URL."""

    method: str
    target: bytes
    headers: bytes
    content_length: int | None
    remote_ip: str
    host: str = ""


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
    if not target.startswith(PREFIX):
        target = origin_form(target)
        if not target.startswith(PREFIX):
            return None
    rest, _, query = target[len(PREFIX) :].partition(b"?")
    input_id, slash, path = rest.partition(b"/")
    return input_id.decode("latin-1"), slash + path, query


def authority(target: bytes, host: str) -> str:
    """The host that a request is for: the one in an absolute-form target, which overrules the Host header (RFC 9112,
    section 3.2.2)."""
    match = None if target[:1] == b"/" else _ORIGIN.match(target)
    return host if match is None else match[1].rpartition(b"@")[2].decode("latin-1")


def header_pattern(name: str) -> re.Pattern[bytes]:
    """Finds a header's lines in a raw block; the first group is the value with its surrounding blanks."""
    return re.compile(rb"^%b:(.*)\n" % re.escape(name.encode()), re.IGNORECASE | re.MULTILINE)


_AUTHORIZATION = header_pattern("Authorization")
_BLANKS = b" \t\r"


class _Door:
    """What is worked out once for an input: its answer, its limits, and how its senders prove themselves."""

    __slots__ = (
        "answer",
        "auth",
        "bucket",
        "challenge",
        "dedupe_headers",
        "forwards",
        "input",
        "limiters",
        "max_body",
        "plain",
        "reject",
        "too_large",
        "verify",
        "waits",
        "window",
    )

    def __init__(self, bucket: Bucket, input: Input, settings: Settings, limiters: tuple[Limiter, ...]) -> None:
        self.bucket = bucket
        self.input = input
        self.answer = static_answer(input)
        self.limiters = limiters
        self.verify = None if input.verify is None else _verifier(input.verify)
        self.reject = input.verify is not None and input.verify.on_failure == "reject"
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
        self.waits = bool(input.response_from_output)
        self.forwards = any(not output.internal for output in bucket.outputs)
        self.plain = self.verify is None and not self.dedupe_headers and not bucket.ephemeral

    def digest(self, method: str, path: bytes, query: bytes, headers: bytes) -> hashlib._Hash | None:
        """What a repeat is recognised by, the body still to come; None where it is not."""
        for name, pattern in self.dedupe_headers:
            match = pattern.search(headers)
            value = b"" if match is None else match[1].strip(_BLANKS)
            if value:
                return _framed(self.input.id.encode(), method.encode(), path, query, name, value)
        return None

    def verdict(self, headers: bytes, body: bytes) -> Verdict | None:
        """On a webhook's signature; None where none is checked."""
        return None if self.verify is None else self.verify(headers, body, time.time())

    def give_back(self) -> None:
        """What was let in by its limits is not stored, as far as its sender is told."""
        for limiter in self.limiters:
            limiter.give_back()


class Place(NamedTuple):
    """What a request is for: an input's door, and the path and the query behind it, as in `NewEvent`."""

    door: _Door
    path: bytes
    query: bytes

    @property
    def waits(self) -> bool:
        """Whether the sender waits for a client's answer once its webhook is stored."""
        return self.door.waits


def _checked(digest: bytes, verdict: Verdict | None) -> bytes:
    """The digest of what a signature check has looked at: one that does not pass must not keep the true one out."""
    return digest if verdict is None else hashlib.sha256(digest + bytes((verdict.verified,))).digest()


def _verifier(verify: Verify) -> Callable[[bytes, bytes, float], Verdict]:
    try:
        return Verifier(verify.provider, verify.secrets).verify
    except Invalid as error:
        # It was checked when it was given. Nothing passes a check that can't be made.
        verdict = Verdict(False, verify.provider, "the input's signature check can't be made")
        _log.error("verify_not_understood", reason=str(error))
        return lambda headers, body, now: verdict


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

    def __init__(
        self,
        log: EventLog,
        routes: Routes,
        settings: Settings,
        answers: Answers,
        clock: Callable[[], float] = time.monotonic,
        counters: Counters | None = None,
    ) -> None:
        """`clock` gives seconds and never goes back; rates are measured by it. `counters` takes up the refusals."""
        self.counters = Counters() if counters is None else counters
        self.log = log
        self.answers = answers
        self.buffered = 0
        self.capacity = settings.ingest_buffer
        self._routes = routes
        self._settings = settings
        self._clock = clock
        self._doors: dict[str, _Door] = {}
        self._places: dict[bytes, Place] = {}
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self._revision = routes.revision
        self.full = error_answer(Overloaded())
        self.queue_full: Callable[[BucketId], bool] | None = None
        """Whether too many events of a bucket wait for one of its outputs; the composition root puts it here."""

    def begin(self, head: Head, place: Place | None = None) -> Upload | Answer:
        """An upload to feed, or at once the answer: unknown input 404, wrong credentials 401, too long 413, too many
        bodies on their way 503, too fast 429. `place` is what the head is for, where that is known already."""
        place = place or self.find(head.target, head.host)
        if place is None:
            self.counters.rejected("not_found")
            return NO_SUCH_INPUT
        if len(head.method) > MOST_METHOD:
            self.counters.rejected("invalid")
            return _LONG_METHOD
        headers = self._admit(place.door, head.headers, head.content_length or 0)
        return headers if isinstance(headers, Answer) else Upload(self, place, head, headers)

    def take(self, place: Place, method: str, headers: bytes, body: bytes, remote_ip: str, done: Done) -> Answer | None:
        """Takes a webhook that is here whole: its raw header block and its body. Returns the refusal, as `begin` and
        what follows it would; else `done` is called once, later, with what `answer` makes the answer of. Not for a
        place where senders wait (`waits`)."""
        door, path, query = place
        admitted = self._admit(door, headers, len(body))
        if isinstance(admitted, Answer):
            return admitted
        if door.plain:
            event = NewEvent(door.input.id, method, path, query, admitted, body, remote_ip)
        else:
            digest = door.digest(method, path, query, admitted)
            if digest is not None:
                digest.update(body)
            judged = self.judge(place, method, admitted, body, remote_ip, digest)
            if isinstance(judged, Answer):
                door.give_back()
                return judged
            event = judged
        self.log.submit(door.bucket.id, event, done)
        return None

    def answer(self, place: Place, outcome: Appended | BaseException) -> Answer:
        """What a sender is told of the outcome of its webhook."""
        if isinstance(outcome, Appended):
            return place.door.answer
        place.door.give_back()
        if isinstance(outcome, BucketGone) and self.has(place.door.bucket.id):
            # A deleted bucket's record goes before its log: the file is damaged, and may be restored.
            outcome = Unavailable("the bucket's log is missing")
        return _failed(outcome, self.counters)

    def _admit(self, door: _Door, headers: bytes, declared: int) -> bytes | Answer:
        """The headers to store of a webhook whose body has so many bytes; or the refusal."""
        if door.auth is not None:
            given = _AUTHORIZATION.findall(headers)
            if len(given) != 1 or not door.auth(given[0].strip(_BLANKS)):
                self.counters.rejected("unauthorized")
                return door.challenge
            headers = _AUTHORIZATION.sub(b"", headers)
        if declared > door.max_body:
            self.counters.rejected("too_large")
            return door.too_large
        if self.buffered + declared > self.capacity:
            self.counters.rejected("overloaded")
            return self.full
        if door.forwards and self.queue_full is not None and self.queue_full(door.bucket.id):
            self.counters.rejected("queue_full")
            return _QUEUE_FULL
        if door.limiters:
            now = self._clock()
            wait = max(limiter.wait(now) for limiter in door.limiters)
            if wait:
                self.counters.rejected("rate_limited")
                return _too_fast(wait)
            for limiter in door.limiters:
                limiter.take()
        return headers

    def judge(
        self, place: Place, method: str, headers: bytes, body: bytes, remote_ip: str, digest: hashlib._Hash | None
    ) -> NewEvent | Answer:
        """The event, with the verdict on its signature; or the refusal, where that does not pass and has to."""
        door = place.door
        verdict = door.verdict(headers, body)
        if verdict is not None and not verdict.verified and door.reject:
            self.counters.rejected("signature")
            return text_answer(401, f"This webhook's signature does not pass: {verdict.reason}. It was not stored.")
        return _event(place, method, headers, body, remote_ip, digest, verdict)

    def make(
        self,
        input_id: str,
        method: str,
        path: bytes,
        query: bytes,
        headers: bytes,
        body: bytes,
        remote_ip: str,
        *,
        resend_of: str | None = None,
        target: int | None = None,
        edited: bool = False,
    ) -> asyncio.Future[Appended]:
        """Appends an event that somebody made by hand: what its sender would have to prove, and how often one may
        send, does not count. Its signature is judged, and the verdict kept, but nothing is refused for it; dedupe
        counts as ever, but not for a copy (`resend_of`). Raises NotFound and TooLarge."""
        door = self._door(input_id)
        if door is None:
            raise NotFound(f"there is no input {input_id[:100]!r} (any more)")
        if len(body) > door.max_body:
            raise TooLarge(f"the body is larger than the {door.max_body} bytes that this bucket takes")
        verdict = door.verdict(headers, body)
        digest = door.digest(method, path, query, headers) if resend_of is None else None
        if digest is not None:
            digest.update(body)
        event = _event(Place(door, path, query), method, headers, body, remote_ip, digest, verdict)
        event = msgspec.structs.replace(event, resend_of=resend_of, target=target, edited=edited)
        return self.log.append(door.bucket.id, event)

    def find(self, target: bytes, host: str) -> Place | None:
        """Where a request goes; None where it is for no input. `host` is the Host header."""
        if self._revision != self._routes.revision:
            self._renew()
        return self._places.get(target) or self._look_up(target, host)

    def _look_up(self, target: bytes, host: str) -> Place | None:
        parts = self.locate(target, host)
        door = None if parts is None else self._door(parts[0])
        if parts is None or door is None:
            return None
        place = Place(door, parts[1], parts[2])
        if target.startswith(PREFIX) and len(target) <= _LONGEST_PLACE:
            if len(self._places) >= _PLACES:
                self._places.clear()
            self._places[target] = place
        return place

    def locate(self, target: bytes, host: str) -> tuple[str, bytes, bytes] | None:
        """Input id, path and query that a request is for, by its ingest URL or by an input's own domain and path
        prefix; None where it is for no input. `host` is the Host header."""
        parts = split_target(target)
        if parts is not None:
            return parts
        path, _, query = origin_form(target).partition(b"?")
        found = self._routes.locate(authority(target, host), path)
        return None if found is None else (found[0].id, found[1], query)

    def has(self, bucket_id: BucketId) -> bool:
        """Whether there is such a bucket, whatever the log says of it."""
        return self._routes.bucket(bucket_id) is not None

    def _door(self, input_id: str) -> _Door | None:
        if self._revision != self._routes.revision:
            self._renew()
        door = self._doors.get(input_id)
        if door is None:
            route = self._routes.find(input_id)
            if route is None:
                return None
            bucket, found = route
            limiters = (
                self._limiter(("input", input_id), found.rate_limit),
                self._limiter(("bucket", bucket.id), bucket.rate_limit),
            )
            door = _Door(bucket, found, self._settings, tuple(each for each in limiters if each is not None))
            self._doors[input_id] = door
        return door

    def _renew(self) -> None:
        """Forgets what was worked out of records that have changed."""
        self._revision = self._routes.revision
        self._doors.clear()
        self._places.clear()
        self._forget_limiters()

    def _limiter(self, key: tuple[str, str], limit: RateLimit | None) -> Limiter | None:
        """The limiter of an input or a bucket, as full as it was left."""
        if limit is None:
            return None
        limiter = self._limiters.get(key)
        if limiter is None or limiter.limit != limit:
            limiter = self._limiters[key] = Limiter(limit, self._clock())
        return limiter

    def _forget_limiters(self) -> None:
        """Lets go of those whose input or bucket is gone, or not limited any more."""
        for key in list(self._limiters):
            kind, name = key
            route = self._routes.find(name)
            made = self._routes.bucket(name) if kind == "bucket" else None if route is None else route[1]
            if made is None or made.rate_limit is None:
                del self._limiters[key]


class Upload:
    """A webhook on its way in. Its bytes count against the ingest buffer as they arrive, until it is handed to the
    log, refused or abandoned."""

    __slots__ = (
        "_body",
        "_digest",
        "_head",
        "_headers",
        "_ingest",
        "_leave",
        "_left",
        "_place",
        "_size",
        "_spent",
    )

    def __init__(self, ingest: Ingest, place: Place, head: Head, headers: bytes) -> None:
        self._ingest = ingest
        self._place = place
        self._head = head
        self._headers = headers
        self._body: bytes | bytearray = b""
        self._size = 0
        self._spent = bool(place.door.limiters)
        self._left = False
        self._leave: Callable[[], None] | None = None
        self._digest = place.door.digest(head.method, place.path, place.query, headers)

    def feed(self, chunk: bytes) -> Answer | None:
        """Takes bytes of the body. Returns the refusal (413, 503) where they are too many; then the upload is over."""
        size, ingest, door = len(chunk), self._ingest, self._place.door
        if self._size + size > door.max_body:
            self.abandon()
            ingest.counters.rejected("too_large")
            return door.too_large
        if ingest.buffered + size > ingest.capacity:
            self.abandon()
            ingest.counters.rejected("overloaded")
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
        """Appends the event. `answered` is called once, from the event loop, when its outcome is known; at once where
        its signature is refused."""
        ingest, place, head = self._ingest, self._place, self._head
        door = place.door
        event = ingest.judge(place, head.method, self._headers, bytes(self._body), head.remote_ip, self._digest)
        if isinstance(event, Answer):
            self.abandon()
            answered(event)
            return
        self._spent = False
        ingest.buffered -= self._size
        self._size = 0
        self._body = b""

        def appended(outcome: Appended | BaseException) -> None:
            if not door.waits or isinstance(outcome, BaseException):
                answered(ingest.answer(place, outcome))
            elif not self._left:
                self._leave = ingest.answers.wait(door.bucket, door.input, outcome, answered)

        ingest.log.submit(door.bucket.id, event, appended)

    @property
    def waits(self) -> bool:
        """Whether the sender waits for a client's answer once its webhook is stored."""
        return self._place.waits

    def leave(self) -> None:
        """The sender left after its webhook was whole: it waits for no client's answer. May be repeated."""
        self._left = True
        if self._leave is not None:
            self._leave()

    def abandon(self) -> None:
        """Lets go of what was fed. May be repeated."""
        self._ingest.buffered -= self._size
        self._size = 0
        self._body = b""
        if self._spent:
            self._spent = False
            self._place.door.give_back()


def _event(
    place: Place,
    method: str,
    headers: bytes,
    body: bytes,
    remote_ip: str,
    digest: hashlib._Hash | None,
    verdict: Verdict | None,
) -> NewEvent:
    door = place.door
    repeat = None if digest is None else _checked(digest.digest(), verdict)
    verified, why = (None, "") if verdict is None else (verdict.verified, verdict.reason)
    return NewEvent(
        door.input.id, method, place.path, place.query, headers, body, remote_ip, repeat, door.window,
        None, None, False, verified, why, door.bucket.ephemeral,
    )  # fmt: skip


def _failed(error: BaseException, counters: Counters) -> Answer:
    if isinstance(error, asyncio.CancelledError):
        error = Unknown()
    counters.rejected(error.code if isinstance(error, RelayError) else RelayError.code)
    if not isinstance(error, RelayError):
        _log.error("append_failed", exc_info=error)
    return error_answer(error)


def _too_fast(wait: float) -> Answer:
    seconds = retry_after(wait)
    return text_answer(
        429,
        f"Webhooks come in faster than the rate of this input or its bucket allows. Send it again in {seconds} s.",
        ("Retry-After", str(seconds)),
    )


_LONG_METHOD = text_answer(400, f"The method of this request is longer than {MOST_METHOD} characters.")
_QUEUE_FULL = text_answer(
    429,
    "As many webhooks as may be wait for this bucket's destination. This one was not stored: send it again later.",
    ("Retry-After", "5"),
)


def _framed(*parts: bytes) -> hashlib._Hash:
    """A SHA-256 that took these parts, each behind its length, so that no two lists of parts look alike; what is fed
    to it afterwards is the last part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest
