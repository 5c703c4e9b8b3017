"""Signatures of senders: checks that a webhook was sent by someone who knows an input's secret, and signs webhooks.

| provider | headers | signature |
| --- | --- | --- |
| github | X-Hub-Signature-256 | `sha256=` hex HMAC of the body |
| standard-webhooks | webhook-id, webhook-timestamp, webhook-signature | `v1,` base64 HMAC of `id.timestamp.body` |
| stripe | Stripe-Signature | `t=`, `v1=` hex HMAC of `t.body` |
| slack | X-Slack-Signature, X-Slack-Request-Timestamp | `v0=` hex HMAC of `v0:timestamp:body` |
| shopify | X-Shopify-Hmac-Sha256 | base64 HMAC of the body |
| gitlab | X-Gitlab-Token | the secret itself, which says nothing about the body |

HMAC is HMAC-SHA256, over the raw bytes. The key is the secret as UTF-8; for standard-webhooks it is the secret decoded
from base64, without a leading `whsec_`. (GitLab's newer signing tokens, and senders that run on Svix, use
standard-webhooks; Svix's own header names, svix-id and so on, are accepted, too.) A timestamp may differ from the clock
by 300 s, either way. Each secret is tried on each signature, so that both can be rotated.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from relay_tornado.errors import Invalid
from relay_tornado.wire import headers as wire_headers

TOLERANCE: Final = 300
"""The most seconds by which a timestamp may differ from the clock."""
MAX_SECRETS: Final = 10
MAX_SECRET: Final = 1024
"""The most bytes of a secret."""

_CANDIDATES: Final = 32
"""The most signatures of one request that are compared."""
_PARTS: Final = 64
"""The most elements of a list in a header that are read."""

_TIMESTAMP: Final = re.compile(rb"[0-9]{1,12}")


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The result of an input's check of a webhook. `reason` says why in words, and holds nothing secret."""

    verified: bool
    reason: str


class Verifier:
    """Checks the signatures of one provider with one or more secrets.

    Raises Invalid, with the field "provider", "secrets" or "secrets[n]", if the provider is unknown or a secret is not
    valid.
    """

    __slots__ = ("_keys", "_scheme")

    def __init__(self, provider: str, secrets: Sequence[str]) -> None:
        self._scheme = _scheme(provider)
        if not secrets:
            raise Invalid("is missing: give the secret that the provider shows", "secrets")
        if len(secrets) > MAX_SECRETS:
            raise Invalid(
                f"holds {len(secrets)} secrets: write one, or up to {MAX_SECRETS} while one is being changed", "secrets"
            )
        self._keys = [_key(self._scheme, secret, f"secrets[{index}]") for index, secret in enumerate(secrets)]

    def verify(self, headers: bytes, body: bytes, now: float) -> Verdict:
        """The verdict on a webhook with this raw header block, received at `now` (unix seconds). Never raises."""
        claim = self._scheme.read(_Headers(headers))
        if isinstance(claim, str):
            return Verdict(False, claim)
        far = None if claim.timestamp is None else _too_far(claim.timestamp, now)
        if far is not None:
            return Verdict(False, far)
        message = claim.prefix + body
        candidates = claim.candidates[:_CANDIDATES]
        noun, count = self._scheme.noun, len(self._keys)
        for number, key in enumerate(self._keys, 1):
            wanted = self._scheme.signature(key, message)
            if any(hmac.compare_digest(candidate, wanted) for candidate in candidates):
                which = "the secret" if count == 1 else f"secret {number} of {count}"
                return Verdict(True, f"the {noun} matches {which}")
        which = "the secret" if count == 1 else f"any of the {count} secrets"
        return Verdict(False, f"the {noun} does not match {which}")


def sign(provider: str, secret: str, body: bytes, now: float, message_id: str) -> list[tuple[str, str]]:
    """The headers that the provider would send with this body at `now`, for a test event or a public output.

    `message_id` goes into the header with the delivery's id, if the provider has one. Raises Invalid as `Verifier`
    does, with the field "secret".
    """
    scheme = _scheme(provider)
    return scheme.headers(_key(scheme, secret, "secret"), body, str(int(now)), message_id)


class _Headers:
    """The values of a raw header block by name."""

    __slots__ = ("_lines",)

    def __init__(self, block: bytes) -> None:
        self._lines = wire_headers.parse(block)

    def all(self, name: str) -> list[bytes]:
        wanted = name.lower().encode()
        return [value for line_name, value in self._lines if line_name.lower() == wanted]

    def first(self, name: str) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


class _Claim(NamedTuple):
    """A request's claim: one of the candidates is the signature of prefix and body, made at that time."""

    candidates: list[bytes]
    prefix: bytes = b""
    timestamp: bytes | None = None


class _Scheme:
    """How one provider signs. This base class has what the providers share."""

    noun = "signature"

    def key(self, secret: str) -> bytes:
        """The key of a secret. Raises ValueError if the secret is not valid."""
        return secret.encode()

    def signature(self, key: bytes, message: bytes) -> bytes:
        """The signature in its form in the header, without the prefix."""
        return hmac.digest(key, message, "sha256").hex().encode()

    def read(self, headers: _Headers) -> _Claim | str:
        """A request's claim, or what is missing for one, in words."""
        raise NotImplementedError

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        """The headers of a signed request; `timestamp` is in unix seconds."""
        raise NotImplementedError


class _GitHub(_Scheme):
    def read(self, headers: _Headers) -> _Claim | str:
        values = headers.all("X-Hub-Signature-256")
        if not values:
            return "no X-Hub-Signature-256 header"
        candidates = [value[7:].lower() for value in values if value.startswith(b"sha256=")]
        return _Claim(candidates) if candidates else "no sha256= in the X-Hub-Signature-256 header"

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        signature = self.signature(key, body).decode()
        return [("X-Hub-Signature-256", f"sha256={signature}"), ("X-GitHub-Delivery", message_id)]


class _InBase64(_Scheme):
    """Signatures are HMAC-SHA256 in Base64."""

    def signature(self, key: bytes, message: bytes) -> bytes:
        return binascii.b2a_base64(hmac.digest(key, message, "sha256"), newline=False)


class _StandardWebhooks(_InBase64):
    def key(self, secret: str) -> bytes:
        text = secret.removeprefix("whsec_").rstrip("=")
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)

    def read(self, headers: _Headers) -> _Claim | str:
        family = "webhook"
        values = headers.all("webhook-signature")
        if not values:
            values = headers.all("svix-signature")
            if not values:
                return "no webhook-signature header"
            family = "svix"
        message_id, timestamp = headers.first(f"{family}-id"), headers.first(f"{family}-timestamp")
        if not message_id:
            return f"no {family}-id header"
        if timestamp is None:
            return f"no {family}-timestamp header"
        words = b" ".join(values).split(b" ", _PARTS)[:_PARTS]
        candidates = [word[3:] for word in words if word.startswith(b"v1,")]
        if not candidates:
            return f"no v1 signature in the {family}-signature header"
        return _Claim(candidates, b"%b.%b." % (message_id, timestamp), timestamp)

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        signature = self.signature(key, f"{message_id}.{timestamp}.".encode() + body).decode()
        return [("webhook-id", message_id), ("webhook-timestamp", timestamp), ("webhook-signature", f"v1,{signature}")]


class _Stripe(_Scheme):
    def read(self, headers: _Headers) -> _Claim | str:
        values = headers.all("Stripe-Signature")
        if not values:
            return "no Stripe-Signature header"
        parts = [part.partition(b"=") for part in b",".join(values).split(b",", _PARTS)[:_PARTS]]
        timestamps = [value.strip() for key, _, value in parts if key.strip() == b"t"]
        candidates = [value.strip().lower() for key, _, value in parts if key.strip() == b"v1"]
        if not timestamps:
            return "no t= in the Stripe-Signature header"
        if not candidates:
            return "no v1= in the Stripe-Signature header"
        return _Claim(candidates, timestamps[0] + b".", timestamps[0])

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        signature = self.signature(key, f"{timestamp}.".encode() + body).decode()
        return [("Stripe-Signature", f"t={timestamp},v1={signature}")]


class _Slack(_Scheme):
    def read(self, headers: _Headers) -> _Claim | str:
        values = headers.all("X-Slack-Signature")
        timestamp = headers.first("X-Slack-Request-Timestamp")
        if not values:
            return "no X-Slack-Signature header"
        if timestamp is None:
            return "no X-Slack-Request-Timestamp header"
        candidates = [value[3:].lower() for value in values if value.startswith(b"v0=")]
        if not candidates:
            return "no v0= in the X-Slack-Signature header"
        return _Claim(candidates, b"v0:%b:" % timestamp, timestamp)

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        signature = self.signature(key, f"v0:{timestamp}:".encode() + body).decode()
        return [("X-Slack-Request-Timestamp", timestamp), ("X-Slack-Signature", f"v0={signature}")]


class _Shopify(_InBase64):
    def read(self, headers: _Headers) -> _Claim | str:
        candidates = headers.all("X-Shopify-Hmac-Sha256")
        return _Claim(candidates) if candidates else "no X-Shopify-Hmac-Sha256 header"

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        signature = self.signature(key, body).decode()
        return [("X-Shopify-Hmac-Sha256", signature), ("X-Shopify-Webhook-Id", message_id)]


class _GitLab(_Scheme):
    """A token is compared by its hash, so that the time of the comparison does not reveal its length."""

    noun = "token"

    def signature(self, key: bytes, message: bytes) -> bytes:
        return hashlib.sha256(key).digest()

    def read(self, headers: _Headers) -> _Claim | str:
        candidates = [hashlib.sha256(value).digest() for value in headers.all("X-Gitlab-Token")[:_CANDIDATES]]
        return _Claim(candidates) if candidates else "no X-Gitlab-Token header"

    def headers(self, key: bytes, body: bytes, timestamp: str, message_id: str) -> list[tuple[str, str]]:
        return [("X-Gitlab-Token", key.decode()), ("Idempotency-Key", message_id)]


_SCHEMES: Final[Mapping[str, _Scheme]] = {
    "github": _GitHub(),
    "standard-webhooks": _StandardWebhooks(),
    "stripe": _Stripe(),
    "slack": _Slack(),
    "shopify": _Shopify(),
    "gitlab": _GitLab(),
}

PROVIDERS: Final = tuple(_SCHEMES)


def _scheme(provider: str) -> _Scheme:
    scheme = _SCHEMES.get(provider)
    if scheme is None:
        raise Invalid(f"write one of {', '.join(PROVIDERS)}", "provider")
    return scheme


def _key(scheme: _Scheme, secret: str, field: str) -> bytes:
    if not secret:
        raise Invalid("is empty; write the secret that the provider shows", field)
    if secret != secret.strip() or not secret.isprintable():
        raise Invalid("has white space around it, or a control character in it; write the secret alone", field)
    if len(secret.encode()) > MAX_SECRET:
        raise Invalid(f"is longer than {MAX_SECRET} bytes", field)
    try:
        key = scheme.key(secret)
    except ValueError:
        key = b""
    if not key:
        raise Invalid("is no base64; write the secret that the provider shows, with its whsec_", field)
    return key


def _too_far(timestamp: bytes, now: float) -> str | None:
    """Why a timestamp is refused, in words, or None."""
    if not _TIMESTAMP.fullmatch(timestamp):
        return "the timestamp is no whole number of unix seconds"
    age = now - int(timestamp)
    if abs(age) <= TOLERANCE:
        return None
    how = f"{math.ceil(age)} s old" if age > 0 else f"{math.ceil(-age)} s ahead of the clock"
    return f"the timestamp is {how}; {TOLERANCE} s are allowed"
