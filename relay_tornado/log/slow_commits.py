"""Logs that commits of events are slow: every sender waits for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from relay_tornado.low_memory import try_log
from relay_tornado.model import RateLimit
from relay_tornado.rate_limits import LogLimit

SLOW: Final = 1.0
"""Seconds from which a commit is slow: a good disk syncs in 5 ms, and some senders give up after 5 s."""

PAUSE: Final = 600.0
"""Seconds between two log lines."""

_log = structlog.get_logger(__name__)


class SlowCommits:
    """Call `took` for each commit. The first slow one is logged at once, then one every 10 minutes while there are
    more, with how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._limit = LogLimit(RateLimit(1, PAUSE), clock)

    def took(self, seconds: float) -> None:
        """A commit took so many seconds."""
        if seconds < SLOW or (left_out := self._limit.due()) is None:
            return
        try_log(
            _log.warning,
            "commits_slow",
            seconds=round(seconds, 1),
            count=left_out + 1,
            consequence="senders wait as long for their answer",
            hint="the disk is slow, shared or failing: `relay doctor` measures a sync; see iotop, dmesg and smartctl. "
            "Or the machine was suspended, or had no processor time",
        )
