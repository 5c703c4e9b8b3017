"""Remembers which inputs refuse webhooks and why, and logs it: a sender's owner may not look at the answers it gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from relay_tornado.model import Bucket, Input, RateLimit
from relay_tornado.rate_limits import Limiter
from relay_tornado.wire.answers import PROBED_INPUT

DAMAGED: Final = "unavailable"
"""The reason where damage in relay.db is met by the events of one bucket, and perhaps by no others."""

HINTS: Final[Mapping[str, str]] = {
    "not_found": "compare the sender's URL with `relay bucket show BUCKET`; a deleted input or bucket is in the log as "
    "bucket_changed or bucket_deleted",
    "unauthorized": "give the sender the bucket's credentials, or change them: relay bucket set BUCKET --auth",
    "too_large": "let the bucket take larger bodies: relay bucket set BUCKET --max-body SIZE",
    "rate_limited": "raise the limit: relay bucket set BUCKET --rate-limit, or relay input set INPUT --rate-limit",
    "queue_full": "an output does not keep up with its max_queue_depth: relay consumer list BUCKET",
    "signature": "compare the secret with the sender's, and this machine's clock with the time: relay input set INPUT "
    "--verify PROVIDER --verify-secret-file FILE (repeat it to keep the earlier secret, too)",
    DAMAGED: "relay.db is damaged: relay check says where, and what to do",
}
"""The refusals that are remembered, by their codes in `counters.REJECTIONS`, and what to do about each. The others are
about the relay, and /readyz names their cause. So are those of the code `DAMAGED` that no bucket is to blame for."""

PAUSE: Final = 600.0
"""Seconds between two log lines about one input and reason."""

RATE: Final = RateLimit(200, 200.0)
"""Lines at once, and the seconds in which as many more may come: a token with API access can make any number of inputs,
and more than are remembered would be logged each time."""

_MOST: Final = 1000
"""Maximum number of refusals that are remembered; the one that began first is forgotten first."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Refusal:
    """How often an input (names; "" if there is none) refused webhooks for a reason, `why` it did the last time, and
    when (unix seconds)."""

    bucket: str
    input: str
    reason: str
    why: str = ""
    count: int = 0
    at: float = 0.0
    told: float | None = None
    """When it was last logged, in monotonic seconds."""
    untold: int = 0


class Refusals:
    """The refusals since the start."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns unix seconds, `monotonic` monotonic seconds."""
        self._clock = clock
        self._monotonic = monotonic
        self._lines = Limiter(RATE, 0.0)
        self._refusals: dict[tuple[str, str, str], Refusal] = {}

    def add(self, bucket: Bucket, input: Input, reason: str, why: str = "") -> None:
        """An input refused a webhook; `reason` is one of `HINTS`. Logged at once, then every 10 minutes while it goes
        on."""
        with suppress(MemoryError):
            self._add((bucket.id, input.id, reason), bucket.name, input.name, why)

    def add_unknown(self, input_id: str, remote_ip: str) -> None:
        """A webhook came for no input. That of `relay doctor` does not count."""
        if input_id != PROBED_INPUT:
            with suppress(MemoryError):
                self._add(("", "", "not_found"), "", "", f"the last came from {remote_ip}")

    def documents(self) -> list[dict[str, Any]]:
        """The refusals as JSON data, those of the last time first, each with a `hint`."""
        return [
            {
                "bucket": each.bucket,
                "input": each.input,
                "reason": each.reason,
                "why": each.why,
                "count": each.count,
                "at": each.at,
                "hint": HINTS[each.reason],
            }
            for each in sorted(self._refusals.values(), key=lambda each: -each.at)
        ]

    def _add(self, key: tuple[str, str, str], bucket: str, input: str, why: str) -> None:
        found = self._refusals.get(key)
        if found is None:
            found = self._refusals[key] = Refusal(bucket, input, key[2])
            if len(self._refusals) > _MOST:
                del self._refusals[next(iter(self._refusals))]
        found.bucket, found.input, found.why, found.at = bucket, input, why, self._clock()
        found.count += 1
        found.untold += 1
        now = self._monotonic()
        if found.told is not None and now - found.told < PAUSE:
            return
        if self._lines.wait(now):
            return  # it is told with the next refusal for which there is a line
        self._lines.take()
        count, found.told, found.untold = found.untold, now, 0
        place = {"bucket": bucket, "input": input} if bucket else {}
        because = {"why": why} if why else {}
        _log.warning("webhooks_refused", **place, reason=key[2], **because, count=count, hint=HINTS[key[2]])
