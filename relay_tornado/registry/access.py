"""Authentication: tokens found in memory by their secret, and compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable
from contextlib import suppress

from relay_tornado.counters import Counters
from relay_tornado.errors import Unauthorized
from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.registry.uses import Uses

API_KEY = "whr"
"""The key that SDKs send with an API key as the secret: only the secret is checked then."""

REFUSED = "the key or secret is wrong, revoked or expired: check both, or make a new token with `relay token create`"
"""The one answer to every failure, so that it does not tell which half was right."""

_WHO = "say who you are: Authorization: Basic with key:secret, or Authorization: Bearer <secret>"


class Access:
    """The tokens by the hash of their secret, kept up to date from the registry's changes.

    A revoked token is no longer in the registry (`registry.get("token", key)` is None). An expired one is, and
    `Token.expired` says so. The owner of a live socket tells the two apart in this way.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        counters: Counters | None = None,
        uses: Uses | None = None,
    ) -> None:
        """`clock` returns unix seconds; `counters` counts the failures, `uses` notes when each token was used."""
        self._counters = Counters() if counters is None else counters
        self._uses = Uses() if uses is None else uses
        self._registry = registry
        self._clock = clock
        self._keys: dict[str, str] = {}
        self._hashes: dict[str, tuple[str, ...]] = {}
        registry.watch(self._changed)
        for token in registry.list("token"):
            self._changed("token", token.key)

    def authenticate(self, key: str, secret: str) -> Token:
        """The token with this key and secret; for the key "whr", the one with this secret.

        Raises Unauthorized, with the same message whatever was wrong.
        """
        token = self._find(secret)
        expected = API_KEY if key == API_KEY else token.key if token is not None else ""
        same = hmac.compare_digest(_encoded(key), _encoded(expected))
        now = self._clock()
        if token is None or not same or token.expired(now):
            self._counters.auth_failures += 1
            raise Unauthorized(REFUSED)
        self._uses.note(token.key, now)
        return token

    def by_secret(self, secret: str) -> Token:
        """The token with this secret (`Authorization: Bearer`). Raises Unauthorized."""
        return self.authenticate(API_KEY, secret)

    def knows(self, text: str) -> bool:
        """Whether this is the secret of an existing token, expired or not. It does not count as an attempt."""
        return hash_secret(text) in self._keys

    def known_in(self, header: str) -> bool:
        """Whether the value of an Authorization header shows a secret that `knows` knows."""
        try:
            return self.knows(credentials(header)[1])
        except Unauthorized:
            return False

    def used(self, token: Token) -> None:
        """Notes a use of the token by other means than its secret: a session's cookie."""
        self._uses.note(token.key, self._clock())

    def _find(self, secret: str) -> Token | None:
        # The lookup is by a hash, which a caller can't steer byte by byte, so its time reveals nothing of a stored
        # secret.
        digest = hash_secret(secret)
        key = self._keys.get(digest)
        token = self._registry.get("token", key) if key is not None else None
        return token if token is not None and token.opens(digest, self._clock()) else None

    def _changed(self, kind: Kind, key: str) -> None:
        if kind != "token":
            return
        for before in self._hashes.pop(key, ()):
            self._keys.pop(before, None)
        token = self._registry.get("token", key)
        if token is None:
            self._uses.forget(key)
        else:
            hashes = (token.secret_hash, token.previous_hash) if token.previous_hash else (token.secret_hash,)
            self._hashes[key] = hashes
            self._keys.update(dict.fromkeys(hashes, key))


def credentials(header: str) -> tuple[str, str]:
    """The key and the secret in the value of an Authorization header: Basic with both, or Bearer with the secret alone.
    Raises Unauthorized if it is neither."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return API_KEY, value
    if scheme.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            key, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
            if colon:
                return key, secret
    raise Unauthorized(_WHO)


def _encoded(text: str) -> bytes:
    # compare_digest takes only ASCII as str; a client may send anything, lone surrogates too.
    return text.encode("utf-8", "surrogatepass")
