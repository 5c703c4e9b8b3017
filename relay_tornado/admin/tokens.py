"""Creates, changes and rotates tokens: scopes by bucket ids, and expiry. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from relay_tornado.errors import Invalid, NotFound
from relay_tornado.ids import hash_secret, new_secret, new_uuid
from relay_tornado.model import DAY, Bucket, BucketId, Token
from relay_tornado.wire.fields import load
from relay_tornado.wire.rest import TokenFields

MAX_GRACE: Final = 366 * DAY
"""The longest time, in seconds, for which the secret before a rotation stays valid."""

_TOKEN_FIELDS = TokenFields()


def new_token(options: Mapping[str, Any], buckets: Iterable[Bucket], now: float) -> tuple[Token, str]:
    """A token with these options (of `TokenFields`) and its secret. Raises Invalid.

    `buckets` are all existing ones: a scope is resolved now, so a bucket created later under an old name is not in it.
    """
    secret = new_secret()
    bare = Token(key=new_uuid(), secret_hash=hash_secret(secret), created_at=now)
    return changed_token(bare, options, buckets), secret


def changed_token(token: Token, options: Mapping[str, Any], buckets: Iterable[Bucket]) -> Token:
    """The token with these options; an option left out keeps its value. An `expires_at` in the past ends it at once.

    Raises Invalid.
    """
    given = load(_TOKEN_FIELDS, options)
    if "buckets" in given:
        given["buckets"] = _scope(given["buckets"], buckets, token.buckets or frozenset())
    if "tunnels" in given:
        given["tunnels"] = tuple(given["tunnels"])
    return dataclasses.replace(token, **given)


def rotated_token(token: Token, grace: float, now: float) -> tuple[Token, str]:
    """The token with a new secret, and that secret; the previous one stays valid for `grace` more seconds.

    Raises Invalid.
    """
    if not 0 <= grace <= MAX_GRACE:
        raise Invalid(f"must be a number of seconds from 0 to {MAX_GRACE:.0f}", "grace")
    secret = new_secret()
    changed = dataclasses.replace(
        token,
        secret_hash=hash_secret(secret),
        previous_hash=token.secret_hash if grace else "",
        previous_until=now + grace if grace else 0.0,
    )
    return changed, secret


def no_such_token(key: str, tokens: Iterable[Token]) -> NotFound:
    """The error for a key that no token has. The text may be a secret, so it is not shown; if it is one, the error
    names its token's key."""
    digest = hash_secret(key)
    for token in tokens:
        if digest in (token.secret_hash, token.previous_hash):
            return NotFound(f"this is the secret of a token, not its key: its key is {token.key}")
    return NotFound("there is no token with this key: GET /v1/tokens lists the keys")


def _scope(
    wanted: Sequence[str] | None, buckets: Iterable[Bucket], had: frozenset[BucketId]
) -> frozenset[BucketId] | None:
    """The ids for names and ids. A bucket that is in the token's scope already may be gone."""
    if wanted is None:
        return None
    if not wanted:
        raise Invalid("is empty: name at least one bucket, or leave it out for all of them", "buckets")
    ids = {each: each for each in had}
    for bucket in buckets:
        ids[bucket.name] = ids[bucket.id] = bucket.id
    unknown = [each for each in wanted if each not in ids]
    if unknown:
        raise Invalid(f"there is no bucket {unknown[0][:100]!r}: make it first, or correct its name", "buckets")
    return frozenset(ids[each] for each in wanted)
