"""The positions of durable tokens: a consumer by receipt in every bucket that such a token reads.

They are made before the token's record is put, so that nothing that comes after it is missed, and removed after it; in
a bucket that is made later, before that is put: there they begin at the first event. A bucket that is ephemeral no
longer has them, at its head, before its record says so, and one that becomes ephemeral loses them after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import structlog

from relay_tornado.errors import BucketGone, RelayError
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.model import Bucket, Token

_log = structlog.get_logger(__name__)


def _has(token: Token | None, bucket: Bucket) -> bool:
    """Whether the token has a position in this bucket."""
    return token is not None and token.keeps_position(bucket)


async def begin(
    ledgers: Ledgers, log: EventLog, buckets: Iterable[Bucket], before: Token | None, token: Token, now: float
) -> None:
    """Positions at the head where the token is to have one and had none. Raises Unavailable, NoSpace, Unknown."""
    for bucket in buckets:
        if _has(token, bucket) and not _has(before, bucket):
            with suppress(BucketGone):
                head = (await log.bounds(bucket.id)).head
                await ledgers.store.create(Key(bucket.id, "token", token.key), head, Terms(receipt=True), now)


async def follow(ledgers: Ledgers, bucket: Bucket, tokens: Iterable[Token], now: float) -> None:
    """Positions at the first event of a bucket that is being made, but for tokens that have expired: those would only
    keep its events. Raises Unavailable, NoSpace, Unknown."""
    for token in tokens:
        if _has(token, bucket) and not token.expired(now):
            await ledgers.store.create(Key(bucket.id, "token", token.key), 0, Terms(receipt=True), now)


async def stay(
    ledgers: Ledgers, log: EventLog, before: Bucket, bucket: Bucket, tokens: Iterable[Token], now: float
) -> None:
    """Positions at the head of a bucket that is ephemeral no longer, but for tokens that have expired. Raises
    Unavailable, NoSpace, Unknown."""
    if before.ephemeral:
        for token in tokens:
            if not token.expired(now):
                await begin(ledgers, log, [bucket], None, token, now)


async def fade(ledgers: Ledgers, before: Bucket, bucket: Bucket, tokens: Iterable[Token]) -> None:
    """Removes the positions in a bucket that is ephemeral from now on."""
    if bucket.ephemeral:
        for token in tokens:
            if _has(token, before):
                await _remove(ledgers, Key(bucket.id, "token", token.key))


async def end(ledgers: Ledgers, buckets: Iterable[Bucket], before: Token, token: Token | None) -> None:
    """Removes the positions that the token has no more. What can't be removed now is so at the next start."""
    for bucket in buckets:
        if _has(before, bucket) and not _has(token, bucket):
            await _remove(ledgers, Key(bucket.id, "token", before.key))


async def reconcile(
    ledgers: Ledgers, log: EventLog, buckets: Sequence[Bucket], tokens: Sequence[Token], now: float
) -> None:
    """Completes what a crash, or a change at the same time, left: removes positions of tokens that have none, and makes
    those that are not there; in a bucket that is younger than the token at its first event, else at the head. What
    can't be made now is so at the next start, or by the token's client.
    """
    by_id = {bucket.id: bucket for bucket in buckets}
    by_key = {token.key: token for token in tokens}
    there = set()
    for stored in await ledgers.store.list():
        bucket = by_id.get(stored.key.bucket_id)
        if stored.key.kind == "token" and bucket is not None:
            if _has(by_key.get(stored.key.name), bucket):
                there.add(stored.key)
            else:
                await _remove(ledgers, stored.key)
    for bucket in buckets:
        lacking = [token for token in tokens if _has(token, bucket) and Key(bucket.id, "token", token.key) not in there]
        try:
            await follow(ledgers, bucket, [each for each in lacking if each.created_at <= bucket.created_at], now)
            for token in lacking:
                if token.created_at > bucket.created_at:
                    await begin(ledgers, log, [bucket], None, token, now)
        except BucketGone:
            continue
        except RelayError as error:
            _log.warning("token_positions_lacking", bucket_id=bucket.id, reason=str(error))


async def _remove(ledgers: Ledgers, key: Key) -> bool:
    try:
        return await ledgers.delete(key)
    except RelayError as error:
        _log.warning("token_position_kept", token=key.name, bucket_id=key.bucket_id, reason=str(error))
        return False
