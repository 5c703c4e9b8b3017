"""A token as it is made: its scope by ids, its expiry, and its secret, which is given out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relay_tornado.errors import Invalid
from relay_tornado.ids import hash_secret, new_secret, new_uuid
from relay_tornado.model import Bucket, BucketId, Token
from relay_tornado.wire.rest import TokenFields, load

_TOKEN_FIELDS = TokenFields()


def new_token(options: Mapping[str, Any], buckets: Iterable[Bucket], now: float) -> tuple[Token, str]:
    """A token with these options (as `TokenFields` has them) and its secret. Raises Invalid.

    `buckets` are all that there are: a scope is resolved now, so a bucket made anew under an old name is not in it.
    """
    given = load(_TOKEN_FIELDS, options)
    expires_at = given.get("expires_at")
    if expires_at is not None and expires_at <= now:
        raise Invalid("expires_at: lies in the past: name a time to come, or leave it out", "expires_at")
    secret = new_secret()
    token = Token(
        key=new_uuid(),
        secret_hash=hash_secret(secret),
        created_at=now,
        description=given.get("description", ""),
        buckets=_scope(given.get("buckets"), buckets),
        api_access=given.get("api_access", True),
        expires_at=expires_at,
    )
    return token, secret


def _scope(wanted: Sequence[str] | None, buckets: Iterable[Bucket]) -> frozenset[BucketId] | None:
    if wanted is None:
        return None
    if not wanted:
        raise Invalid("buckets: is empty: name at least one bucket, or leave it out for all of them", "buckets")
    ids = {}
    for bucket in buckets:
        ids[bucket.name] = ids[bucket.id] = bucket.id
    unknown = [each for each in wanted if each not in ids]
    if unknown:
        raise Invalid(f"buckets: there is no bucket {unknown[0]!r}: make it first, or correct its name", "buckets")
    return frozenset(ids[each] for each in wanted)
