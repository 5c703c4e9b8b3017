"""Finds the input that a request is for, and keeps what is derived once from its record: answer, limits, checks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from relay_tornado.errors import Invalid
from relay_tornado.model import Bucket, BucketAuth, BucketId, Input, NewEvent, Output, RateLimit, Verify
from relay_tornado.rate_limits import Limiter
from relay_tornado.registry.routes import Routes
from relay_tornado.settings import Settings
from relay_tornado.signatures import Verdict, Verifier
from relay_tornado.wire.answers import Answer, static_answer, text_answer

WEBHOOKS_PREFIX = b"/v1/webhooks/"
DELIVERY_IDS = ("X-GitHub-Delivery", "webhook-id", "Idempotency-Key", "X-Shopify-Webhook-Id")
"""The headers that dedupe "auto" looks for, in this order; the first that is present and not empty is used."""

_PLACES = 4096
_LONGEST_PLACE = 256
"""The number of targets, of at most so many bytes, whose places are kept."""

_PREFIX = re.compile(rb"/+v1/+webhooks/+")
_WITH_STRAY = re.compile(rb"([^#%]*)(?:(?:#|%23).*|(?:%(?:09|0[ad]|20))++)", re.IGNORECASE | re.DOTALL)
"""An id with a fragment, which is no part of a request, or with encoded blanks and line ends: what senders append whose
URL was copied with more than it has."""
_ORIGIN = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_BLANKS = b" \t\r"
_log = structlog.get_logger(__name__)


def origin_form(target: bytes) -> bytes:
    """Path and query of a request target: of an absolute-form one (`http://host/path`) the part after the host."""
    if target[:1] == b"/":
        return target
    match = _ORIGIN.match(target)
    if match is None:
        return target
    rest = target[match.end() :]
    return rest if rest[:1] == b"/" else b"/" + rest


def split_target(target: bytes) -> tuple[str, bytes, bytes] | None:
    """Input id, path (with its slash, or empty) and query of an ingest URL's target; None if it is no such URL. Before
    the id, each slash may be several."""
    target = origin_form(target)
    match = _PREFIX.match(target)
    if match is None:
        return None
    rest, _, query = target[match.end() :].partition(b"?")
    input_id, slash, path = rest.partition(b"/")
    stray = _WITH_STRAY.fullmatch(input_id)
    return (stray[1] if stray else input_id).decode("latin-1"), slash + path, query


def _authority(target: bytes, host: str) -> str:
    """The host that a request is for. The one in an absolute-form target overrules the Host header (RFC 9112, section
    3.2.2)."""
    match = None if target[:1] == b"/" else _ORIGIN.match(target)
    return host if match is None else match[1].rpartition(b"@")[2].decode("latin-1")


def _header_pattern(name: str) -> re.Pattern[bytes]:
    """Matches a header's lines in a raw block; the first group is the value with its surrounding blanks."""
    return re.compile(rb"^%b:(.*)\n" % re.escape(name.encode()), re.IGNORECASE | re.MULTILINE)


_AUTHORIZATION = _header_pattern("Authorization")


def without_tokens(headers: bytes, shows_token: Callable[[str], bool]) -> bytes:
    """A raw header block without the Authorization lines whose values show one of the relay's tokens. A browser that
    was asked for one, by REST or /metrics, sends it to every URL beside those, and a reader of events must not have
    it."""
    if b"authorization:" not in headers.lower():  # costs less than the pattern
        return headers
    return _AUTHORIZATION.sub(
        lambda line: b"" if shows_token(line[1].strip(_BLANKS).decode("latin-1")) else line[0], headers
    )


class Endpoint:
    """An input as its senders see it: its answer, its limits, and the credentials and signatures it checks."""

    __slots__ = (
        "_credentials",
        "_verify",
        "answer",
        "bucket",
        "challenge",
        "dedupe_headers",
        "input",
        "limiters",
        "max_body",
        "plain",
        "queues",
        "reject",
        "too_large",
        "waits",
        "window",
    )

    def __init__(self, bucket: Bucket, input: Input, settings: Settings, limiters: tuple[Limiter, ...]) -> None:
        self.bucket = bucket
        self.input = input
        self.answer = static_answer(input)
        self.limiters = limiters
        self._verify = None if input.verify is None else _verifier(input.verify)
        self.reject = input.verify is not None and input.verify.on_failure == "reject"
        default = settings.large_max_body if bucket.large_webhooks else settings.max_body
        self.max_body = default if bucket.max_body is None else bucket.max_body
        self.too_large = text_answer(413, f"The body is larger than the {self.max_body} bytes that this bucket takes.")
        self._credentials: Callable[[bytes], bool] | None = None
        self.challenge: Answer | None = None
        """The answer to a sender without the bucket's credentials; None if the bucket has none."""
        if bucket.auth.type != "none":
            self._credentials = _check(bucket.auth)
            scheme = 'Basic realm="webhooks", charset="UTF-8"' if bucket.auth.type == "basic" else "Bearer"
            self.challenge = Answer(
                401, (("Content-Type", "text/plain"), ("WWW-Authenticate", scheme)), b"Unauthorized"
            )
        names: tuple[str, ...] = () if bucket.dedupe is None else (bucket.dedupe.header,)
        if names == ("auto",):
            names = DELIVERY_IDS
        self.dedupe_headers = tuple((name.lower().encode(), _header_pattern(name)) for name in names)
        self.window = 0.0 if bucket.dedupe is None else bucket.dedupe.window
        self.waits = bool(input.response_from_output)
        """Whether a sender waits for a client's answer once its webhook is stored."""
        self.queues = any(map(_queues, bucket.outputs))
        self.plain = self._verify is None and not self.dedupe_headers and not bucket.ephemeral

    def authorized(self, headers: bytes) -> bytes | None:
        """The headers without the bucket's credentials; None if the sender did not give them."""
        given = _AUTHORIZATION.findall(headers)
        if self._credentials is None or len(given) != 1 or not self._credentials(given[0].strip(_BLANKS)):
            return None
        return _AUTHORIZATION.sub(b"", headers)

    def verdict(self, headers: bytes, body: bytes) -> Verdict | None:
        """The verdict on a webhook's signature; None if the input checks none."""
        return None if self._verify is None else self._verify(headers, body, time.time())

    def give_back(self) -> None:
        """Gives the limiters back what a webhook took whose sender is told that it was not stored."""
        for limiter in self.limiters:
            limiter.give_back()


def _queues(output: Output) -> bool:
    """Whether the queue of the output is bounded."""
    throttle = output.throttle
    return not output.internal and isinstance(throttle, Mapping) and bool(throttle.get("max_queue_depth"))


def _verifier(verify: Verify) -> Callable[[bytes, bytes, float], Verdict]:
    try:
        return Verifier(verify.provider, verify.secrets).verify
    except Invalid as error:
        # The settings were checked when they were given. If the check can't be made, nothing passes it.
        verdict = Verdict(False, "the input's signature check can't be made")
        _log.error("verify_not_understood", reason=str(error))
        return lambda headers, body, now: verdict


def _check(auth: BucketAuth) -> Callable[[bytes], bool]:
    """Whether the value of an Authorization header has these credentials."""
    basic = auth.type == "basic"
    scheme = b"basic" if basic else b"bearer"
    expected = hashlib.sha256((f"{auth.username}:{auth.password}" if basic else auth.token).encode()).digest()

    def check(value: bytes) -> bool:
        named, _, given = value.partition(b" ")
        given = given.strip()
        if basic:
            try:
                given = base64.b64decode(given, validate=True)
            except binascii.Error:
                return False
        return named.lower() == scheme and hmac.compare_digest(hashlib.sha256(given).digest(), expected)

    return check


class Place(NamedTuple):
    """The target of a request: an input's endpoint, and the path and query after it, as in `NewEvent`."""

    endpoint: Endpoint
    path: bytes
    query: bytes

    def digest(self, method: str, headers: bytes) -> hashlib._Hash | None:
        """The digest by which a repeat is recognised, still without the body; None if the input does not dedupe."""
        for name, pattern in self.endpoint.dedupe_headers:
            match = pattern.search(headers)
            value = b"" if match is None else match[1].strip(_BLANKS)
            if value:
                return _framed(self.endpoint.input.id.encode(), method.encode(), self.path, self.query, name, value)
        return None

    def event(
        self,
        method: str,
        headers: bytes,
        body: bytes,
        remote_ip: str,
        digest: hashlib._Hash | None,
        verdict: Verdict | None,
    ) -> NewEvent:
        """The event to store."""
        endpoint = self.endpoint
        repeat = None if digest is None else _checked(digest.digest(), verdict)
        verified, why = (None, "") if verdict is None else (verdict.verified, verdict.reason)
        return NewEvent(
            endpoint.input.id, method, self.path, self.query, headers, body, remote_ip, repeat, endpoint.window,
            None, None, False, verified, why, endpoint.bucket.ephemeral,
        )  # fmt: skip


def _framed(*parts: bytes) -> hashlib._Hash:
    """A SHA-256 of these parts, each preceded by its length, so that no two lists of parts look alike. Whatever is fed
    to it afterwards is the last part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest


def _checked(digest: bytes, verdict: Verdict | None) -> bytes:
    """The digest of what a signature check covers, so that a forged webhook can't keep the genuine one out."""
    return digest if verdict is None else hashlib.sha256(digest + bytes((verdict.verified,))).digest()


class Endpoints:
    """The endpoints of all inputs, each made at its first request, and again after its record has changed."""

    def __init__(self, routes: Routes, settings: Settings, clock: Callable[[], float]) -> None:
        """`clock` returns monotonic seconds, by which rates are measured."""
        self._routes = routes
        self._settings = settings
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._places: dict[bytes, Place] = {}
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self._revision = routes.revision

    def find(self, target: bytes, host: str) -> Place | None:
        """The place that a request is for; None if it is for no input. `host` is the Host header."""
        if self._revision != self._routes.revision:
            self._renew()
        return self._places.get(target) or self._look_up(target, host)

    def _look_up(self, target: bytes, host: str) -> Place | None:
        parts = self.locate(target, host)
        endpoint = None if parts is None else self.get(parts[0])
        if parts is None or endpoint is None:
            return None
        place = Place(endpoint, parts[1], parts[2])
        if target.startswith(WEBHOOKS_PREFIX) and len(target) <= _LONGEST_PLACE:
            if len(self._places) >= _PLACES:
                self._places.clear()
            self._places[target] = place
        return place

    def locate(self, target: bytes, host: str) -> tuple[str, bytes, bytes] | None:
        """Input id, path and query that a request is for, found by its ingest URL, or by an input's own domain and path
        prefix; None if it is for no input. `host` is the Host header."""
        parts = split_target(target)
        if parts is not None:
            return parts
        path, _, query = origin_form(target).partition(b"?")
        found = self._routes.locate(_authority(target, host), path)
        return None if found is None else (found[0].id, found[1], query)

    def has(self, bucket_id: BucketId) -> bool:
        """Whether there is a record of this bucket, whatever its log says."""
        return self._routes.bucket(bucket_id) is not None

    def get(self, input_id: str) -> Endpoint | None:
        """The endpoint of the input with this id, or None."""
        if self._revision != self._routes.revision:
            self._renew()
        endpoint = self._endpoints.get(input_id)
        if endpoint is None:
            route = self._routes.find(input_id)
            if route is None:
                return None
            bucket, found = route
            limiters = (
                self._limiter(("input", input_id), found.rate_limit),
                self._limiter(("bucket", bucket.id), bucket.rate_limit),
            )
            endpoint = Endpoint(bucket, found, self._settings, tuple(each for each in limiters if each is not None))
            self._endpoints[input_id] = endpoint
        return endpoint

    def _renew(self) -> None:
        """Forgets everything derived from records, because one has changed."""
        self._revision = self._routes.revision
        self._endpoints.clear()
        self._places.clear()
        self._forget_limiters()

    def _limiter(self, key: tuple[str, str], limit: RateLimit | None) -> Limiter | None:
        """The limiter of an input or a bucket, with the tokens that it had left."""
        if limit is None:
            return None
        limiter = self._limiters.get(key)
        if limiter is None or limiter.limit != limit:
            limiter = self._limiters[key] = Limiter(limit, self._clock())
        return limiter

    def _forget_limiters(self) -> None:
        """Drops the limiters whose input or bucket is gone or no longer has a limit."""
        for key in list(self._limiters):
            kind, name = key
            route = self._routes.find(name)
            made = self._routes.bucket(name) if kind == "bucket" else None if route is None else route[1]
            if made is None or made.rate_limit is None:
                del self._limiters[key]
