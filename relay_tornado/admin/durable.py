"""The positions of durable tokens: a consumer moved by receipts in every bucket that such a token reads.

They are created before the token's record is stored, so that no later event is missed, and removed after it is. In a
new bucket they are created before its record is stored, at the first event. A bucket that stops being ephemeral gets
them at its head before its record says so, and one that becomes ephemeral loses them afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

import structlog

from relay_tornado.errors import BucketGone, RelayError
from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.low_memory import Lock
from relay_tornado.model import Bucket, Token
from relay_tornado.registry.contract import Registry

_TOGETHER = 64
"""Positions that are created in one transaction."""

_log = structlog.get_logger(__name__)


class TokenPositions:
    """Creates and removes the positions. Methods that create some return their keys, except those in `but`, which exist
    already; they raise Unavailable, NoSpace and Unknown. An expired token gets none in a bucket that is created or
    changed: it would only keep the bucket's events."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        ledgers: Ledgers,
        clock: Callable[[], float],
        turn: Callable[[str], Lock],
    ) -> None:
        """`turn` returns the lock for changing one bucket (by id) or token (by key)."""
        self._log = log
        self._registry = registry
        self._ledgers = ledgers
        self._clock = clock
        self._turn = turn

    async def begin(self, before: Token | None, token: Token, but: Collection[Key] = ()) -> Collection[Key]:
        """Creates positions at the head of each bucket in which the token newly has one."""
        new = [
            key
            for bucket in (self._buckets() if token.durable else ())
            if (key := _key(bucket, token)) not in but and token.keeps_position(bucket) and not _had(before, bucket)
        ]
        await self._make(new)
        return set(new)

    async def follow(self, bucket: Bucket, first: int, but: Collection[Key] = ()) -> Collection[Key]:
        """Creates positions in a new bucket, at `first`, its first event."""
        following = self._following(bucket, but)
        await self._make(following, first - 1)
        return following

    async def stay(self, before: Bucket, bucket: Bucket, but: Collection[Key] = ()) -> Collection[Key]:
        """Creates positions at the head of a bucket that stops being ephemeral."""
        following = self._following(bucket, but) if before.ephemeral else []
        await self._make(following)
        return following

    def _following(self, bucket: Bucket, but: Collection[Key]) -> Sequence[Key]:
        now = self._clock()
        tokens = [each for each in self._tokens().values() if each.keeps_position(bucket) and not each.expired(now)]
        return [key for token in tokens if (key := _key(bucket, token)) not in but]

    async def complete(self, made: Collection[Key], positions: Awaitable[Collection[Key]]) -> Collection[Key]:
        """Creates positions once more after their record is stored: a bucket and a token that are created at the same
        time do not see each other before. If that fails, the token's client creates them, or the next start. Returns
        them and the ones `made` before: of those, `tidy` removes what a concurrent change could not see."""
        try:
            return {*made, *await positions}
        except RelayError as error:
            _log.warning("token_positions_lacking", reason=str(error))
            return made

    async def tidy(self, made: Collection[Key]) -> None:
        """Removes those of the positions that are no longer wanted. Waits for changes of their bucket and token that
        are under way, which may want them again. The caller holds the turn of no bucket or token; whoever takes both
        takes the bucket's first."""
        for key in made:
            if self._unwanted(key):
                async with self._turn(key.bucket_id), self._turn(key.name):
                    if self._unwanted(key):
                        await self._remove(key)

    def _unwanted(self, key: Key) -> bool:
        bucket, token = self._registry.get("bucket", key.bucket_id), self._registry.get("token", key.name)
        return bucket is not None and not _had(token, bucket)

    async def fade(self, before: Bucket, bucket: Bucket) -> None:
        """Removes all positions in a bucket that is now ephemeral, also of a token that was revoked meanwhile: that no
        longer found the bucket. Those that can't be removed now are at the next start."""
        if before.ephemeral or not bucket.ephemeral:
            return
        with suppress(RelayError):
            for stored in await self._ledgers.store.list(bucket.id):
                if stored.key.kind == "token":
                    await self._remove(stored.key)

    async def end(self, before: Token, token: Token | None) -> None:
        """Removes the positions that the token no longer has; as `fade`."""
        for bucket in self._buckets() if before.durable else ():
            if before.keeps_position(bucket) and not _had(token, bucket):
                await self._remove(_key(bucket, before))

    async def reconcile(self) -> None:
        """Completes changes that a crash or a concurrent change left unfinished: removes positions that no token has,
        and creates missing ones, at the first event in a bucket younger than the token, otherwise at the head. If that
        fails, the next start creates them, or the token's client.
        """
        buckets, tokens = {bucket.id: bucket for bucket in self._buckets()}, self._tokens()
        there = set()
        for stored in await self._ledgers.store.list():
            bucket = buckets.get(stored.key.bucket_id)
            if stored.key.kind == "token" and bucket is not None:
                if _had(tokens.get(stored.key.name), bucket):
                    there.add(stored.key)
                else:
                    await self._remove(stored.key)
        for bucket in buckets.values():
            keeping = [token for token in tokens.values() if token.keeps_position(bucket)]
            lacking = {key: token for token in keeping if (key := _key(bucket, token)) not in there}
            younger, older = [], []
            for key, token in lacking.items():
                if token.created_at > bucket.created_at:
                    younger.append(key)
                elif not token.expired(self._clock()):
                    older.append(key)
            try:
                await self._make(younger)
                await self._make(older, 0)
            except RelayError as error:
                _log.warning("token_positions_lacking", bucket_id=bucket.id, reason=str(error))

    def _buckets(self) -> Sequence[Bucket]:
        return self._registry.list("bucket")

    def _tokens(self) -> dict[str, Token]:
        """The durable tokens by key. There may be as many other tokens as buckets, so they are left out of loops over
        both."""
        return {token.key: token for token in self._registry.list("token") if token.durable}

    async def _make(self, keys: Sequence[Key], floor: int | None = None) -> None:
        """Creates positions after `floor`, or (None) at the heads of their buckets, in small transactions."""
        for start in range(0, len(keys), _TOGETHER):
            floors = {}
            for key in keys[start : start + _TOGETHER]:
                with suppress(BucketGone):
                    floors[key] = (await self._log.bounds(key.bucket_id)).head if floor is None else floor
            await self._ledgers.store.create_some(floors, Terms(receipt=True), self._clock())

    async def _remove(self, key: Key) -> None:
        try:
            await self._ledgers.delete(key)
        except RelayError as error:
            _log.warning("token_position_kept", token=key.name, bucket_id=key.bucket_id, reason=str(error))


def _key(bucket: Bucket, token: Token) -> Key:
    return Key(bucket.id, "token", token.key)


def _had(token: Token | None, bucket: Bucket) -> bool:
    """Whether the token existed, and had a position in this bucket."""
    return token is not None and token.keeps_position(bucket)
