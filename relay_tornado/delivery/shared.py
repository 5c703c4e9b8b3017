"""The parts that all deliveries share: log, consumers, frames, and what bounds and paces all of them together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import structlog

from relay_tornado.counters import Counters
from relay_tornado.delivery.bounds import WriteBudget
from relay_tornado.delivery.dispatch import Dispatcher
from relay_tornado.delivery.filter_time import FilterTime
from relay_tornado.delivery.frames import FrameCache
from relay_tornado.delivery.replay_pacing import ReplayPacing
from relay_tornado.delivery.subscription import Directory
from relay_tornado.errors import RelayError
from relay_tornado.log.contract import EventLog
from relay_tornado.log.ledgers import Ledgers
from relay_tornado.low_memory import try_log
from relay_tornado.model import BucketId, Gap
from relay_tornado.rate_limits import LogLimit, RepeatLimit

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that all deliveries of a relay share."""

    log: EventLog
    ledgers: Ledgers
    directory: Directory
    cache: FrameCache
    dispatcher: Dispatcher
    budget: WriteBudget
    pacing: ReplayPacing
    counters: Counters
    filter_time: FilterTime = field(default_factory=FilterTime)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """The tasks of deliveries at work, including those that have ended and are in their last write."""
    _gap_lines: LogLimit = field(default_factory=LogLimit)
    _unserved: RepeatLimit = field(default_factory=RepeatLimit)

    def misses(self, token: str, bucket_id: BucketId, gap: Gap) -> None:
        """A client of the token with this key misses events. That is counted, and logged with a rate limit, as a client
        may come back again and again."""
        self.counters.gaps[gap.reason] += 1
        try_log(
            partial(self._gap_lines.tell, _log.warning),
            "subscriber_missed_events",
            bucket=self.directory.name(bucket_id),
            token=token,
            reason=gap.reason,
            first=gap.from_seq,
            last=gap.to_seq,
        )

    def unserved(self, event: str, error: RelayError) -> None:
        """A subscriber can't be served now, as the log can't be read or written. That is logged once in a while, as
        thousands of subscribers may meet it, and come back again and again."""
        reason = str(error)
        if self._unserved.due(reason):
            try_log(_log.error, event, code=error.code, reason=reason)
