"""What is done without being asked for: registry and log brought in line at a start, and old events removed."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

import structlog

from relay_tornado.errors import BucketGone, RelayError
from relay_tornado.ids import new_epoch
from relay_tornado.log.contract import EventLog
from relay_tornado.log.retention import RetentionClock
from relay_tornado.registry.contract import Registry
from relay_tornado.settings import Settings

_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a start had to mend: buckets that had no log, and logs that had no bucket."""

    created: int
    dropped: int


class Housekeeping:
    """The upkeep of one relay's buckets."""

    def __init__(self, log: EventLog, registry: Registry, settings: Settings) -> None:
        self._log = log
        self._registry = registry
        self._interval = settings.retention_interval
        self._clock = RetentionClock(settings.retention_grace)

    async def reconcile(self) -> Reconciled:
        """Makes an empty log for each bucket without one, and drops each log without a bucket.

        Making and deleting a bucket are two steps each, with no transaction around them; this completes the second
        one. Nothing else may make or delete buckets meanwhile.
        """
        logs = set(await self._log.buckets())
        buckets = {bucket.id for bucket in self._registry.list("bucket")}
        for bucket_id in buckets - logs:
            _logger.warning("bucket_without_log", bucket_id=bucket_id, consequence="it starts empty")
            await self._log.create(bucket_id, new_epoch())
        for bucket_id in logs - buckets:
            _logger.info("log_without_bucket", bucket_id=bucket_id, consequence="it is removed")
            await self._log.drop(bucket_id)
        return Reconciled(created=len(buckets - logs), dropped=len(logs - buckets))

    async def trim_all(self) -> int:
        """One pass over all buckets. A bucket that can't be trimmed now is logged, and keeps no other from it."""
        by_age = self._clock.by_age()
        left = 0
        for bucket in self._registry.list("bucket"):
            keep = bucket.retention if by_age else dataclasses.replace(bucket.retention, max_age=None)
            try:
                left += await self._log.trim(bucket.id, keep, None)
            except BucketGone:
                continue  # deleted since the list was read
            except RelayError as error:
                _logger.warning("trim_failed", bucket_id=bucket.id, reason=str(error))
        return left

    async def run(self) -> None:
        """A pass every interval, until it is cancelled; a pass that fails is logged, and the next one comes."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                left = await self.trim_all()
            except Exception:
                _logger.exception("housekeeping_failed")
            else:
                if left:
                    _logger.info("events_left", count=left)
