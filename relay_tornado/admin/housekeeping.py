"""Background upkeep: reconciles registry and log at a start, and removes old events, expired buckets, and expired
tokens of commands."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import structlog

from relay_tornado.admin.growth import Growth
from relay_tornado.errors import BucketGone, Conflict, RelayError, Unavailable
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.log.retention_clock import RetentionClock
from relay_tornado.model import Bucket, BucketId, Retention, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.settings import Settings

_logger = structlog.get_logger(__name__)

_KEPT = "it takes no events, and no log is removed"
_LOOK = 0.25
"""Seconds between two looks whether a log has grown far beyond its retention."""
_DAMAGED = "the file is damaged: run `relay check`, and restore a backup"


@contextmanager
def _logged(ignored: type[RelayError], event: str, **what: str) -> Iterator[None]:
    """Ends the block at an error, and logs it, unless it is an `ignored` one: the upkeep goes on."""
    try:
        yield
    except ignored:
        pass
    except (RelayError, sqlite3.Error) as error:
        _logger.warning(event, **what, reason=str(error))
    except Exception:
        _logger.exception(event, **what)


class Housekeeping:
    """The upkeep of one relay's buckets."""

    def __init__(
        self,
        log: EventLog,
        registry: Registry,
        settings: Settings,
        ledgers: Ledgers,
        remove: Callable[[Bucket, int], Awaitable[None]],
        revoke: Callable[[Token, int], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        """`remove` removes a bucket with all its content, and `revoke` a token, unless it was changed after this
        revision; `ledgers` are the consumers, and `clock` returns unix seconds."""
        self._now = clock
        self._remove = remove
        self._revoke = revoke
        self._ledgers = ledgers
        self._log = log
        self._registry = registry
        self._interval = settings.retention_interval
        self._clock = RetentionClock(settings.retention_grace)
        self._growth = Growth(log)
        self._over: Collection[str] = ()
        """The keys of the tokens that had expired at the last pass."""
        self._overtaken: dict[BucketId, int] = {}
        """By bucket, how many events were removed that a consumer still needed, since the first warning."""

    async def reconcile(self) -> None:
        """Completes interrupted changes, which are two steps without a common transaction. Nothing else may change
        buckets meanwhile."""
        await self._reconcile_logs()
        await self._reconcile_outputs()

    async def _reconcile_logs(self) -> None:
        """Drops each log without a bucket.

        No interrupted step leaves a bucket without its log, or parts of a bucket other than its log. If either is
        found, the file is damaged, and a log without a known bucket may be needed: then nothing is dropped, and nothing
        is created in its place.
        """
        logs = set(await self._log.buckets())
        buckets = {bucket.id: bucket for bucket in self._registry.list("bucket")}
        missing, strange = buckets.keys() - logs, logs - buckets.keys()
        for bucket_id in missing:
            _logger.error(
                "bucket_without_log",
                bucket_id=bucket_id,
                bucket=buckets[bucket_id].name,
                consequence=_KEPT,
                hint=_DAMAGED,
            )
        try:
            hidden = strange & set(await self._registry.traces()) if strange else strange
        except Unavailable as error:
            _logger.error("logs_not_reconciled", reason=str(error), consequence="no log is removed", hint=_DAMAGED)
            return
        for bucket_id in hidden:
            _logger.error("bucket_without_record", bucket_id=bucket_id, consequence=_KEPT, hint=_DAMAGED)
        if missing or hidden:
            return
        for bucket_id in strange:
            _logger.info("log_without_bucket", bucket_id=bucket_id, consequence="it is removed")
            await self.drop_log(bucket_id)

    async def drop_log(self, bucket_id: BucketId) -> None:
        """Drops the log of a bucket that no longer exists for anybody. If that fails, only its rows take space, until
        the next start."""
        try:
            await self._log.drop(bucket_id)
        except RelayError as error:
            hint = "it is removed at the next start"
            _logger.warning("bucket_log_kept", bucket_id=bucket_id, reason=str(error), hint=hint)

    async def _reconcile_outputs(self) -> None:
        """Removes the positions of outputs that are not public (any more). If a bucket's record can't be found, nothing
        of it is removed: consumers are removed with their log."""
        public = {
            bucket.id: {str(each.n) for each in bucket.outputs if not each.internal}
            for bucket in self._registry.list("bucket")
        }
        for stored in await self._ledgers.store.list():
            key = stored.key
            if key.kind != "output" or key.bucket_id not in public or key.name in public[key.bucket_id]:
                continue
            try:
                await self._ledgers.delete(key)
            except RelayError as error:  # removed at the next start, or when the output becomes public
                _logger.warning("output_position_kept", output=key.name, bucket=key.bucket_id, reason=str(error))

    async def trim_all(self) -> int:
        """Removes expired buckets and left tokens, and the events of the other buckets beyond their retention; returns
        the number of events removed. If a bucket can't be trimmed, that is logged, and the others still are."""
        by_age = self._clock.by_age()
        if by_age:
            await self._expire()
            await self._expire_tokens()
        # Nobody can connect with an expired token, so it does not hold events; it still counts while the clock is in
        # doubt.
        now = self._now()
        self._over = [token.key for token in self._registry.list("token") if by_age and token.expired(now)]
        left = 0
        buckets = self._registry.list("bucket")
        there = {bucket.id for bucket in buckets}
        self._growth.forget(there)
        for gone in self._overtaken.keys() - there:
            del self._overtaken[gone]
        for bucket in buckets:
            left += await self._try_to_trim(bucket, by_age, self._over)
        return left

    async def trim_grown(self) -> int:
        """Removes events of the logs that got events since the last call and have grown far beyond their limits on
        events or bytes; returns the number of events removed. A log can outgrow a disk between two passes."""
        left = 0
        for bucket_id in self._growth.take():
            bucket = self._registry.get("bucket", bucket_id)
            with suppress(BucketGone):
                if bucket is not None and self._growth.is_due(bucket):
                    left += await self._try_to_trim(bucket, False, self._still_over())
        return left

    def _still_over(self) -> Collection[str]:
        """The keys of the tokens that had expired at the last pass, without those that were prolonged since."""
        now = self._now()
        tokens = [self._registry.get("token", key) for key in self._over]
        return [token.key for token in tokens if token is not None and token.expired(now)]

    async def _try_to_trim(self, bucket: Bucket, by_age: bool, over: Collection[str]) -> int:
        """Does what `_trim` does. If that fails, it is logged."""
        left = 0
        # Without a log the bucket was deleted since its record was read.
        with _logged(BucketGone, "trim_failed", bucket_id=bucket.id):
            left = await self._trim(bucket, by_age, over)
        self._growth.trimmed(bucket.id)
        return left

    async def _expire(self) -> None:
        """Removes expired buckets, with the same care about the clock as for events: not soon after a start, nor while
        the clock is in doubt."""
        for each in self._registry.list("bucket"):
            bucket = self._registry.get("bucket", each.id)  # as it is now
            if bucket is None or not bucket.expired(self._now()):
                continue
            named = {"bucket_id": bucket.id, "bucket": bucket.name}
            with _logged(Conflict, "expired_bucket_kept", **named):  # Conflict: it was changed, perhaps to keep it
                await self._remove(bucket, self._registry.revision("bucket", bucket.id))
                _logger.info("bucket_expired", **named)

    async def _expire_tokens(self) -> None:
        """Removes the expired tokens of commands that were killed. Others stay, as somebody may prolong them."""
        for each in self._registry.list("token"):
            token = self._registry.get("token", each.key)  # as it is now
            if token is not None and token.left_behind(self._now()):
                with _logged(Conflict, "expired_token_kept", token=token.key):
                    await self._revoke(token, self._registry.revision("token", token.key))

    async def _trim(self, bucket: Bucket, by_age: bool, over: Collection[str]) -> int:
        """Trims a bucket without waiting for the consumers of tokens with the keys in `over`; returns the number of
        events removed."""
        age = self._clock.age(bucket.retention.max_age) if by_age else None
        keep = dataclasses.replace(bucket.retention, max_age=age)
        if by_age:
            await self._log.forget_repeats(bucket.id)
        floor = await self._ledgers.store.floor(bucket.id, but=over) if keep.wait_for_consumers else None
        left = await self._log.trim(bucket.id, keep, floor)
        forced = 0
        if keep.wait_for_consumers and keep.hard_max_bytes is not None:
            forced = await self._log.trim(bucket.id, Retention(None, None, keep.hard_max_bytes), None)
            left += forced
        if forced or bucket.id in self._overtaken:
            await self._tell_overtaken(bucket, floor, forced)
        if left:
            self._ledgers.trimmed(bucket.id, (await self._log.bounds(bucket.id)).first)
        return left

    async def _tell_overtaken(self, bucket: Bucket, floor: int | None, forced: int) -> None:
        """Logs once that events were removed although consumers waited for them, and once when no consumer lacks
        any."""
        behind = 0 if floor is None else max(0, (await self._log.bounds(bucket.id)).first - floor)
        taken = min(forced, behind)
        if taken and bucket.id not in self._overtaken:
            _logger.warning("consumers_overtaken", bucket_id=bucket.id, bucket=bucket.name, events=taken)
        if behind:
            self._overtaken[bucket.id] = self._overtaken.get(bucket.id, 0) + taken
        elif events := self._overtaken.pop(bucket.id, 0):
            _logger.info("consumers_overtaken_no_more", bucket_id=bucket.id, bucket=bucket.name, events=events)

    async def run(self) -> None:
        """Runs a pass every interval until cancelled, and trims logs that outgrow their limits meanwhile; a pass that
        fails is logged."""
        watch = self._log.watch(None, self._growth.came)
        try:
            while True:
                left = await self._wait()
                try:
                    left += await self.trim_all()
                except Exception:
                    _logger.exception("housekeeping_failed")
                if left:
                    _logger.info("events_left", count=left)
        finally:
            watch.close()

    async def _wait(self) -> int:
        """Waits for the next pass; returns how many events were removed meanwhile."""
        loop, left = asyncio.get_running_loop(), 0
        end = loop.time() + self._interval
        while (seconds := end - loop.time()) > 0:
            await asyncio.sleep(min(seconds, _LOOK))
            left += await self.trim_grown()
        return left
