"""The committed state of one log in memory, and the arithmetic that all engines share.

Invariants: 1 <= first <= head + 1; epochs ascend by from_seq, and the first one begins with the log; `last_at` never
decreases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay_tornado.log.ephemeral import EphemeralEvents
from relay_tornado.log.tail import Recent
from relay_tornado.model import Bounds, BucketId, Epoch, Retention


@dataclass(eq=False, slots=True)
class LogState:
    """One log. Changes only in the event loop, after the commit that changed it.

    `open`: this process opened the newest epoch. `gone`: the log is dropped. `bytes_checked`: `bytes` was compared with
    the events.
    """

    key: int
    bucket_id: BucketId
    epochs: tuple[Epoch, ...]
    open: bool
    first: int = 1
    head: int = field(init=False)
    bytes: int = 0
    last_at: float = 0.0
    gone: bool = False
    bytes_checked: bool = False
    recent: Recent = field(default_factory=Recent)
    ephemeral: EphemeralEvents = field(default_factory=EphemeralEvents)

    def __post_init__(self) -> None:
        self.head = self.first - 1

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
