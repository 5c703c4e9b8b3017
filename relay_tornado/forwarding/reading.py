"""Reads one output's events from the log, one at a time, and finds out what became of one that is not there."""

from __future__ import annotations

from typing import NamedTuple

import structlog

from relay_tornado.errors import BucketGone, CursorLost, RelayError
from relay_tornado.forwarding.shared import Shared
from relay_tornado.log.lineage import epoch_at
from relay_tornado.model import BucketId, Event
from relay_tornado.rate_limits import RepeatLimit

_log = structlog.get_logger(__name__)


class Removed(NamedTuple):
    """The event was removed by retention: the log begins at `first`."""

    first: int


class Lost(NamedTuple):
    """The event of this epoch is damaged, or its content was never stored; that says nothing of the events before
    it."""

    epoch: str
    error: CursorLost


class Reading:
    """Of one output."""

    def __init__(self, shared: Shared, bucket_id: BucketId, output_id: str) -> None:
        self._shared = shared
        self._bucket_id = bucket_id
        self._output_id = output_id
        self._unread = RepeatLimit(shared.monotonic)

    def peek(self, seq: int) -> Event | None:
        """The event if it is in memory."""
        try:
            events = self._shared.log.peek(self._bucket_id, seq - 1, 1, 1)
        except (CursorLost, BucketGone):
            return None  # `load` finds out more
        return events[0] if events else None

    async def load(self, seq: int) -> Event | Removed | Lost | None:
        """The event; None if it can't be read now. Raises BucketGone."""
        try:
            events = await self._shared.log.read(self._bucket_id, seq - 1, 1, 1)
        except CursorLost as lost:
            bounds = await self._shared.log.bounds(self._bucket_id)
            return Removed(bounds.first) if seq < bounds.first else Lost(epoch_at(bounds.epochs, seq), lost)
        except BucketGone:
            raise
        except RelayError as error:
            why = str(error)
            if self._unread.due(why):  # it is tried again each second
                _log.warning("event_not_read", output=self._output_id, reason=why)
            return None
        return events[0] if events else None
