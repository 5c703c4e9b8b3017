"""Accepts webhooks, independent of the transport: head and body in, answer out.

Whatever the head alone decides is decided before the body is read.

    upload = ingest.begin(head)            an Answer if the head alone decides
    refusal = upload.feed(chunk)           an Answer if the body is too large; then the upload is over
    upload.finish(answered)                calls answered(answer) once, when the event is committed
    upload.abandon()                       if the sender is gone

For a webhook that has been read whole, as most are, with less work:

    place = endpoints.find(target, host)   None if it is for no input
    refusal = ingest.take(place, …, done)  an Answer; else done(outcome) is called once, when the event is committed
    answer = ingest.answer(place, outcome)
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec
import structlog

from relay_tornado.counters import Counters
from relay_tornado.errors import BucketGone, Malformed, NotFound, Overloaded, RelayError, TooLarge, Unknown
from relay_tornado.ingest.endpoints import Endpoint, Endpoints, Place, without_tokens
from relay_tornado.ingest.refusals import DAMAGED, Refusals
from relay_tornado.log.contract import Done, EventLog
from relay_tornado.model import KIB, Appended, Bucket, BucketId, Input, NewEvent
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.shares import Shares
from relay_tornado.wire.answers import NO_SUCH_INPUT, Answer, error_answer, text_answer

AT_ONCE = 32 * KIB
"""Bytes of the largest body that is taken however full the buffer is, if it arrives whole: it waits for nothing more.
Otherwise a few senders that stall could keep everybody out."""

MOST_METHOD = 40
"""Characters of a method. A method does not count towards an event's size, so it must be short."""

_log = structlog.get_logger(__name__)


class Answers(Protocol):
    """Lets senders wait for a client's answer."""

    def wait(
        self, bucket: Bucket, input: Input, appended: Appended, answered: Callable[[Answer], None]
    ) -> Callable[[], None]:
        """Calls `answered` once, perhaps at once. Returns a function that ends the wait without an answer."""


class Head(NamedTuple):
    """A request's head. `target` is as received; `headers` is the raw header block, as in `NewEvent`. `content_length`
    is None if the length is known only at the body's end (chunked). `host` is the Host header, which is used only if
    the target is no ingest URL."""

    method: str
    target: bytes
    headers: bytes
    content_length: int | None
    remote_ip: str
    host: str = ""


class Ingest:
    """Accepts webhooks. `buffer` holds the bytes of bodies being received, by input: bodies that stall fill the share
    of their input only. Once `stopping` is set, no sender begins to wait for a client's answer: the relay would end
    before it."""

    def __init__(
        self,
        log: EventLog,
        routes: Routes,
        settings: Settings,
        answers: Answers,
        clock: Callable[[], float] = time.monotonic,
        counters: Counters | None = None,
        queue_full: Callable[[BucketId, int], bool] = lambda bucket_id, coming: False,
        shows_token: Callable[[str], bool] = lambda header: False,
    ) -> None:
        """`clock` returns monotonic seconds, by which rates are measured. `counters` counts the refusals. `queue_full`
        says whether the queue of one of a bucket's outputs is full, given the bucket's id and the number of its events
        that are being committed. `shows_token` says whether the value of an Authorization header shows the secret of a
        token, which is not stored."""
        self.counters = Counters() if counters is None else counters
        self.log = log
        self.answers = answers
        self.buffer: Shares[str] = Shares(settings.ingest_buffer)
        self.stopping = False
        self.endpoints = Endpoints(routes, settings, clock)
        self.refusals = Refusals()
        self._clock = clock
        self._queue_full = queue_full
        self._shows_token = shows_token
        self._coming: Counter[BucketId] = Counter()

    @property
    def buffered(self) -> int:
        """The number of bytes of bodies being received, over all uploads."""
        return self.buffer.held

    def begin(self, head: Head, place: Place | None = None) -> Upload | Answer:
        """Returns an upload to feed, or the refusal: unknown input 404, method too long 400, wrong credentials 401,
        body too large 413, buffer full or stopping 503, output's queue full or rate exceeded 429. `place` is the
        target, if known already."""
        place = place or self.endpoints.find(head.target, head.host)
        if place is None:
            self.counters.rejected("not_found")
            parts = self.endpoints.locate(head.target, head.host)
            self.refusals.add_unknown("" if parts is None else parts[0], head.remote_ip)
            return NO_SUCH_INPUT
        if len(head.method) > MOST_METHOD:
            self.counters.rejected("invalid")
            return _LONG_METHOD
        if self.stopping and place.endpoint.waits:
            self.counters.rejected("unavailable")
            return _STOPPING
        headers = self._admit(place.endpoint, head.headers, head.content_length or 0)
        return headers if isinstance(headers, Answer) else Upload(self, place, head, headers)

    def take(self, place: Place, method: str, headers: bytes, body: bytes, remote_ip: str, done: Done) -> Answer | None:
        """Takes a webhook that has been read whole: its raw header block and its body. Returns the same refusals as
        `begin` and `Upload`; otherwise `done` is called once, later, with the outcome for `answer`. Not for a place
        whose senders wait for a client's answer."""
        endpoint, path, query = place
        admitted = self._admit(endpoint, headers, len(body))
        if isinstance(admitted, Answer):
            return admitted
        spent = True
        try:
            if endpoint.plain:
                event = NewEvent(endpoint.input.id, method, path, query, admitted, body, remote_ip)
            else:
                digest = place.digest(method, admitted)
                if digest is not None:
                    digest.update(body)
                judged = self.judge(place, method, admitted, body, remote_ip, digest)
                if isinstance(judged, Answer):
                    return judged
                event = judged
            self.submit(endpoint, event, done)
            spent = False
        finally:
            if spent:
                endpoint.give_back()
        return None

    def answer(self, place: Place, outcome: Appended | BaseException) -> Answer:
        """The answer to the sender of a webhook with this outcome."""
        if isinstance(outcome, Appended):
            return place.endpoint.answer
        place.endpoint.give_back()
        if isinstance(outcome, BucketGone) and self.endpoints.has(place.endpoint.bucket.id):
            # A deleted bucket's record is removed before its log, so the file is damaged, and may be restored.
            outcome = Malformed("the bucket's log is missing")
        elif isinstance(outcome, asyncio.CancelledError):
            outcome = Unknown()
        self.counters.rejected(outcome.code if isinstance(outcome, RelayError) else RelayError.code)
        if isinstance(outcome, Malformed):  # events of other buckets may be stored, so /readyz does not tell it
            self.refusals.add(place.endpoint.bucket, place.endpoint.input, DAMAGED, str(outcome))
        if not isinstance(outcome, RelayError):
            _log.error("append_failed", exc_info=outcome)
        return error_answer(outcome)

    def _admit(self, endpoint: Endpoint, headers: bytes, declared: int) -> bytes | Answer:
        """The headers to store of a webhook whose body has `declared` bytes; or the refusal."""
        allowed = self.allow(endpoint, headers, declared)
        if isinstance(allowed, Answer):
            return allowed
        if declared > AT_ONCE and not self.buffer.fits(endpoint.input.id, declared):
            self.counters.rejected("overloaded")
            return _FULL
        if self.crowded(endpoint):
            return _QUEUE_FULL
        if endpoint.limiters:
            now = self._clock()
            wait = max(limiter.wait(now) for limiter in endpoint.limiters)
            if wait:
                self.refused(endpoint, "rate_limited")
                return _too_fast(wait)
            for limiter in endpoint.limiters:
                limiter.take()
        return allowed

    def crowded(self, endpoint: Endpoint) -> bool:
        """Whether the bucket rejects webhooks because the queue of one of its outputs is full."""
        if not endpoint.queues:
            return False
        bucket_id = endpoint.bucket.id
        if not self._queue_full(bucket_id, self._coming[bucket_id]):
            return False
        self.refused(endpoint, "queue_full")
        return True

    def submit(self, endpoint: Endpoint, event: NewEvent, done: Done) -> None:
        """Hands an event to the log. If a queue of the bucket is bounded, the event counts as queued from now on:
        otherwise all webhooks that arrive before the next commit would be let in."""
        bucket_id = endpoint.bucket.id
        if not endpoint.queues:
            self.log.submit(bucket_id, event, done)
            return

        def settled(outcome: Appended | BaseException) -> None:
            self._came(bucket_id)
            done(outcome)

        self._coming[bucket_id] += 1
        try:
            self.log.submit(bucket_id, event, settled)
        except BaseException:
            self._came(bucket_id)
            raise

    def _came(self, bucket_id: BucketId) -> None:
        self._coming[bucket_id] -= 1
        if not self._coming[bucket_id]:
            del self._coming[bucket_id]

    def allow(self, endpoint: Endpoint, headers: bytes, size: int) -> bytes | Answer:
        """As `_admit`, but checks only the requirements of the input and its bucket, not the load."""
        if endpoint.challenge is None:
            headers = without_tokens(headers, self._shows_token)
        else:
            rest = endpoint.authorized(headers)
            if rest is None:
                self.refused(endpoint, "unauthorized")
                return endpoint.challenge
            headers = rest
        if size > endpoint.max_body:
            self.refused(endpoint, "too_large")
            return endpoint.too_large
        return headers

    def refused(self, endpoint: Endpoint, reason: str, why: str = "") -> None:
        """Counts a webhook that its input or bucket refuses, for one of the reasons in `refusals.HINTS`."""
        self.counters.rejected(reason)
        self.refusals.add(endpoint.bucket, endpoint.input, reason, why)

    def judge(
        self, place: Place, method: str, headers: bytes, body: bytes, remote_ip: str, digest: hashlib._Hash | None
    ) -> NewEvent | Answer:
        """The event, with the verdict on its signature; or the refusal, if the input rejects wrong signatures."""
        verdict = place.endpoint.verdict(headers, body)
        if verdict is not None and not verdict.verified and place.endpoint.reject:
            self.refused(place.endpoint, "signature", verdict.reason)
            return text_answer(401, f"This webhook's signature does not pass: {verdict.reason}. It was not stored.")
        return place.event(method, headers, body, remote_ip, digest, verdict)

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
        """Appends an event that a person made: credentials and rate limits are not checked. Its signature is judged and
        the verdict stored, but never rejected. Dedupe applies, except to a resent copy (`resend_of`). Raises NotFound
        and TooLarge."""
        endpoint = self.endpoints.get(input_id)
        if endpoint is None:
            raise NotFound(f"there is no input {input_id[:100]!r} (any more)")
        if len(body) > endpoint.max_body:
            raise TooLarge(f"the body is larger than the {endpoint.max_body} bytes that this bucket takes")
        place = Place(endpoint, path, query)
        digest = place.digest(method, headers) if resend_of is None else None
        if digest is not None:
            digest.update(body)
        event = place.event(method, headers, body, remote_ip, digest, endpoint.verdict(headers, body))
        event = msgspec.structs.replace(event, resend_of=resend_of, target=target, edited=edited)
        return self.log.append(endpoint.bucket.id, event)


class Upload:
    """A webhook that is being received. Its bytes count against the ingest buffer as they arrive, until it is handed to
    the log, refused or abandoned; those of a small body that arrives whole do not."""

    __slots__ = (
        *("_body", "_digest", "_head", "_headers", "_held", "_ingest", "_leave", "_left", "_place", "_size", "_spent"),
    )

    def __init__(self, ingest: Ingest, place: Place, head: Head, headers: bytes) -> None:
        self._ingest = ingest
        self._place = place
        self._head = head
        self._headers = headers
        self._body: bytes | bytearray = b""
        self._size = self._held = 0
        self._spent = bool(place.endpoint.limiters)
        self._left = False
        self._leave: Callable[[], None] | None = None
        self._digest = place.digest(head.method, headers)

    def feed(self, chunk: bytes) -> Answer | None:
        """Takes bytes of the body. Returns the refusal (413, 503) if they are too many; then the upload is over."""
        size, ingest, endpoint = len(chunk), self._ingest, self._place.endpoint
        total = self._size + size
        if total > endpoint.max_body:
            self.abandon()
            ingest.refused(endpoint, "too_large")
            return endpoint.too_large
        whole = size <= AT_ONCE and self._size == 0 and size == self._head.content_length
        try:
            if not whole:  # else the log gets it at once
                buffer, user = ingest.buffer, endpoint.input.id
                if not buffer.fits(user, size, self._held):
                    return self._overloaded()
                buffer.take(user, size)
                self._held += size
            if self._size == 0:
                self._body = chunk
            elif isinstance(self._body, bytes):
                self._body = bytearray(self._body) + chunk
            else:
                self._body += chunk
        except MemoryError:
            return self._overloaded()
        self._size = total
        if self._digest is not None:
            self._digest.update(chunk)
        return None

    def finish(self, answered: Callable[[Answer], None]) -> None:
        """Appends the event. `answered` is called once, from the event loop, when the outcome is known; at once if the
        input or its bucket now refuses the event, or if memory is short."""
        ingest = self._ingest
        try:
            event = self._event()
        except MemoryError:
            event = self._overloaded()
        except BaseException:
            self.abandon()
            raise
        if isinstance(event, Answer):
            self.abandon()
            answered(event)
            return
        spent, self._spent = self._spent, False
        self.abandon()
        place, endpoint = self._place, self._place.endpoint

        def appended(outcome: Appended | BaseException) -> None:
            try:
                if endpoint.waits and not isinstance(outcome, BaseException):
                    if not self._left:
                        self._leave = ingest.answers.wait(endpoint.bucket, endpoint.input, outcome, answered)
                    return
                answer = ingest.answer(place, outcome)
            except BaseException:
                answered(_FAILED)  # otherwise the sender would wait for an answer forever
                raise
            answered(answer)

        try:
            ingest.submit(endpoint, event, appended)
        except BaseException:
            if spent:
                endpoint.give_back()
            raise

    def _event(self) -> NewEvent | Answer:
        """The event to append; or the refusal."""
        body, head = bytes(self._body), self._head
        refusal = self._look_again(body)
        if refusal is not None:
            return refusal
        if self._ingest.crowded(self._place.endpoint):
            return _QUEUE_FULL
        return self._ingest.judge(self._place, head.method, self._headers, body, head.remote_ip, self._digest)

    def _look_again(self, body: bytes) -> Answer | None:
        """Applies changes made to the input or its bucket while the body arrived: an event of a bucket that is
        ephemeral by now must not be written to the disk, and one of a bucket that no longer is must be. Returns the
        refusal if the webhook no longer meets their requirements, or if they are gone."""
        ingest, before = self._ingest, self._place.endpoint
        endpoint = ingest.endpoints.get(before.input.id)
        if endpoint is None:
            ingest.counters.rejected("not_found")
            ingest.refusals.add_unknown(before.input.id, self._head.remote_ip)
            return NO_SUCH_INPUT
        if endpoint.bucket is before.bucket:
            return None
        headers = ingest.allow(endpoint, self._head.headers, self._size)
        if isinstance(headers, Answer):
            return headers
        self._place = self._place._replace(endpoint=endpoint)
        if endpoint.challenge is not None:
            # Otherwise the credentials that the bucket's auth took out before stay out.
            self._headers = headers
        self._digest = self._place.digest(self._head.method, self._headers)
        if self._digest is not None:
            self._digest.update(body)
        return None

    @property
    def head_size(self) -> int:
        """The bytes of the head, which no buffer counts."""
        return len(self._head.target) + len(self._head.headers)

    @property
    def waits(self) -> bool:
        """Whether the sender waits for a client's answer once its webhook is stored; `finish` has the last word."""
        return self._place.endpoint.waits

    def leave(self) -> None:
        """The sender has left and no longer waits for a client's answer. May be repeated."""
        self._left = True
        if self._leave is not None:
            self._leave()

    def _overloaded(self) -> Answer:
        self.abandon()
        self._ingest.counters.rejected("overloaded")
        return _FULL

    def abandon(self) -> None:
        """Releases the bytes that were fed, unless the log has them. May be repeated."""
        if self._held:
            held, self._held = self._held, 0
            self._ingest.buffer.give_back(self._place.endpoint.input.id, held)
        self._size = 0
        self._body = b""
        if self._spent:
            self._spent = False
            self._place.endpoint.give_back()


def _too_fast(wait: float) -> Answer:
    seconds = math.ceil(wait)
    return text_answer(
        429,
        f"Webhooks come in faster than the rate of this input or its bucket allows. Send it again in {seconds} s.",
        ("Retry-After", str(seconds)),
    )


_FAILED = error_answer(RelayError())
_FULL = error_answer(Overloaded())
_LONG_METHOD = text_answer(400, f"The method of this request is longer than {MOST_METHOD} characters.")
_STOPPING = text_answer(
    503,
    "The relay is stopping, and could not wait for the answer. This webhook was not stored: send it again later.",
    ("Retry-After", "5"),
)
_QUEUE_FULL = text_answer(
    429,
    "The queue for this bucket's destination is full. This webhook was not stored: send it again later.",
    ("Retry-After", "5"),
)
