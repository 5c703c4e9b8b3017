"""Steps of a consumer's progress."""

from __future__ import annotations

from relay_tornado.consumer_changes import Changes
from relay_tornado.consumer_progress import Progress, Taken


def seqs(taken: list[Taken]) -> list[int]:
    return [one.seq for one in taken]


def take(progress: Progress, head: int, limit: int = 100, now: float = 0.0) -> list[Taken]:
    return progress.take(head, limit, now)


def stored(progress: Progress) -> Changes:
    changes = progress.changes()
    assert changes is not None
    return changes
