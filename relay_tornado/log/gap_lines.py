"""Logs the gaps that consumers meet: one that is behind a fast retention meets them one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from relay_tornado.log.consumers import Key, span
from relay_tornado.model import Gap, GapReason, RateLimit
from relay_tornado.rate_limits import LogLimit

PAUSE: Final = 600.0
"""Seconds between two log lines about one consumer and reason."""

_MOST: Final = 10_000
"""How many consumers are remembered; the one whose last gap is the oldest is forgotten first."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Line:
    limit: LogLimit
    left_out: Gap | None = None
    """The gaps that were left out since the last line, merged into one."""


class GapLines:
    """Call `tell` for each gap. A consumer's first one for a reason is logged at once, then there is one line in 10
    minutes while more come, with how many were left out; `first` and `last` span these, too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._lines: dict[Key, dict[GapReason, _Line]] = {}

    def tell(self, key: Key, bucket: str, gap: Gap) -> None:
        """A consumer of the bucket with this name ("" if it is deleted) met a gap."""
        with suppress(MemoryError):
            self._tell(key, bucket, gap)

    def forget(self, key: Key) -> None:
        """The consumer is deleted: the first gap of another one with its name is logged at once."""
        self._lines.pop(key, None)

    def _tell(self, key: Key, bucket: str, gap: Gap) -> None:
        lines = self._lines[key] = self._lines.pop(key, {})
        if len(self._lines) > _MOST:
            del self._lines[next(iter(self._lines))]
        line = lines.get(gap.reason)
        if line is None:
            line = lines[gap.reason] = _Line(LogLimit(RateLimit(1, PAUSE), self._clock))
        whole = gap if line.left_out is None else span((line.left_out, gap))
        left_out = line.limit.due()
        line.left_out = whole if left_out is None else None
        if left_out is None:
            return
        _log.warning(
            "consumer_gap",
            bucket=bucket,
            bucket_id=key.bucket_id,
            kind=key.kind,
            consumer=key.name,
            reason=gap.reason,
            first=whole.from_seq,
            last=whole.to_seq,
            **({"left_out": left_out} if left_out else {}),
        )
