"""The committed state of one log in memory, and the arithmetic that all engines share.

Invariants: 1 <= first <= head + 1; epochs ascend by from_seq, and the first one begins with the log; `last_at` never
decreases.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay_tornado.log.ephemeral import Fleeting
from relay_tornado.log.tail import Recent
from relay_tornado.model import Bounds, BucketId, Epoch, Retention


class LogState:
    """One log. Changes only in the event loop, after the commit that changed it.

    `open`: this process opened the newest epoch. `gone`: the log is dropped. `bytes_checked`: `bytes` was compared with
    the events.
    """

    __slots__ = (
        "bucket_id",
        "bytes",
        "bytes_checked",
        "epochs",
        "first",
        "fleeting",
        "gone",
        "head",
        "key",
        "last_at",
        "open",
        "recent",
    )

    def __init__(self, key: int, bucket_id: BucketId, epochs: Sequence[Epoch], open: bool, first: int = 1) -> None:
        self.key = key
        self.bucket_id = bucket_id
        self.first = first
        self.head = first - 1
        self.bytes = 0
        self.last_at = 0.0
        self.epochs = tuple(epochs)
        self.open = open
        self.gone = False
        self.bytes_checked = False
        self.recent = Recent()
        self.fleeting = Fleeting()

    def bounds(self) -> Bounds:
        return Bounds(self.first, self.head, self.epochs, self.open)


def keep_from_count(head: int, keep: Retention) -> int:
    """The oldest seq that the limit on the number of events keeps; head + 1 if it keeps none."""
    return 1 if keep.max_events is None else max(head - max(keep.max_events, 0) + 1, 1)


def age_limit(keep: Retention, now: float) -> float | None:
    """The time before which events are too old; None without a limit on age."""
    return None if keep.max_age is None else now - keep.max_age


def excess_bytes(held: int, keep: Retention) -> int:
    """By how many bytes a log exceeds its limit on bytes."""
    return 0 if keep.max_bytes is None else max(held - keep.max_bytes, 0)
