"""Who somebody is: tokens found by their secret in memory, and compared in constant time."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from relay_tornado.counters import Counters
from relay_tornado.errors import Unauthorized
from relay_tornado.ids import hash_secret
from relay_tornado.model import Token
from relay_tornado.registry.contract import Kind, Registry
from relay_tornado.registry.uses import Uses

API_KEY = "whr"
"""The key that SDKs send along with an API key as the secret: the secret alone decides then."""

REFUSED = "the key or secret is wrong, revoked or expired: check both, or make a new token with `relay token create`"
"""The one answer to every failure, so that it tells nobody which half was right."""


class Access:
    """The tokens by the hash of their secret, kept right by the registry's changes.

    A revoked token is not in the registry any more (`registry.get("token", key)` is None), an expired one is, and
    `Token.expired` says so: that is how whoever holds a live socket tells the one from the other.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        counters: Counters | None = None,
        uses: Uses | None = None,
    ) -> None:
        """`clock` gives unix seconds; `counters` takes up the failures, `uses` when each token was used."""
        self._counters = Counters() if counters is None else counters
        self._uses = Uses() if uses is None else uses
        self._registry = registry
        self._clock = clock
        self._keys: dict[str, str] = {}
        self._hashes: dict[str, tuple[str, ...]] = {}
        self._end_watch = registry.watch(self._changed)
        for token in registry.list("token"):
            self._changed("token", token.key)

    def authenticate(self, key: str, secret: str) -> Token:
        """The token with this key and secret; for the key "whr" the one with this secret.

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
        """Whether this is the secret of a token that is there, expired or not. It counts as no try."""
        return hash_secret(text) in self._keys

    def used(self, token: Token) -> None:
        """Its holder showed something else that stands for its secret: a session's cookie."""
        self._uses.note(token.key, self._clock())

    def close(self) -> None:
        """Follows the registry no longer. May be repeated."""
        self._end_watch()

    def _find(self, secret: str) -> Token | None:
        # The lookup is by a hash that nobody can steer byte by byte, so its time tells nothing of a stored secret.
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


def _encoded(text: str) -> bytes:
    # compare_digest takes only ASCII as str; a client may send anything, lone surrogates too.
    return text.encode("utf-8", "surrogatepass")
