"""relay_tornado/delivery/fetching.py: how much of what was taken is read at once, and what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.consumer_changes import RETENTION
from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.fetching import fetch
from relay_tornado.errors import CursorLost
from relay_tornado.log.consumers import Key
from relay_tornado.model import Bounds, Event, Retention
from tests.log.worlds import MANY, MemoryWorld, event, make


class Ledger:
    """What a share is told of its missing events; `trimmed` are the firsts that it was told of."""

    def __init__(self) -> None:
        self.key = Key("b", "client", "w")
        self.live = True
        self.progress = SimpleNamespace(generation=0)
        self.trimmed: list[int] = []

    def trim(self, first: int) -> None:
        self.trimmed.append(first)

    def miss(self, seq: int, lost: CursorLost) -> str:
        return f"{seq} missing"


class Damaged:
    """A log that can't read some events: for each of these, what it says is the next one that it may have."""

    def __init__(self, log: Any, lost: dict[int, int]) -> None:
        self.log = log
        self.lost = lost

    async def read(self, bucket_id: str, after: int, limit: int, size: int) -> Sequence[Event]:
        if after + 1 in self.lost:
            raise CursorLost(self.lost[after + 1])
        good = [seq - after - 1 for seq in self.lost if seq > after]
        return await self.log.read(bucket_id, after, min([limit, *good]), size)  # type: ignore[no-any-return]

    async def bounds(self, bucket_id: str) -> Bounds:
        return await self.log.bounds(bucket_id)  # type: ignore[no-any-return]


async def fetched(log: Any, ledger: Any, *seqs: int) -> list[Any]:
    """The seqs of what was read, and what is said of what is missing."""
    found = await fetch(log, ledger, [Taken(seq, 1, 0) for seq in seqs], MANY)
    return [getattr(each, "seq", each) for each in found]


@pytest.mark.parametrize("seqs", [(1, 2, 3), (1, 3, 5), (5, 1, 2)])
@pytest.mark.parametrize(("more", "count"), [(-1, 1), (0, 1), (1, 2), (1_000_000, 3)])
@pytest.mark.gen_test
async def test_no_more_than_fit_are_read(seqs: tuple[int, ...], more: int, count: int) -> None:
    """Once what was read fills the size, no further stretch is read; one event is always read."""
    log = MemoryWorld().log
    await make(log)
    for _ in range(5):
        await log.append("b", event(b"x" * 1000))
    ledger: Any = Ledger()
    taken = [Taken(seq, 1, 0) for seq in seqs]
    found = await fetch(log, ledger, taken, event(b"x" * 1000).size + more)
    assert [getattr(each, "seq", each) for each in found] == list(seqs[:count])


@pytest.mark.gen_test
async def test_what_retention_took_is_told_and_no_more() -> None:
    """The first event that is kept is read."""
    log, ledger = MemoryWorld().log, Ledger()
    await make(log, events=5)
    await log.trim("b", Retention(None, 3, None), None)
    assert await fetched(log, ledger, 1, 2, 3, 4) == [RETENTION, RETENTION, 3, 4]
    assert ledger.trimmed == [3]
    assert await fetched(log, ledger, 2, 5) == [RETENTION, 5]


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        ({2: 4, 3: 4}, [1, "2 missing", "3 missing", 4, 5]),
        ({1: 9}, [f"{seq} missing" for seq in range(1, 6)]),
        ({1: 1}, ["1 missing", 2, 3, 4, 5]),
    ],
    ids=["a stretch", "to the end", "one"],
)
@pytest.mark.gen_test
async def test_what_can_not_be_read_is_missing_and_no_more(lost: dict[int, int], found: list[Any]) -> None:
    """Up to the next event that the log may have; of that which is no later, only the one that was asked for."""
    log, ledger = MemoryWorld().log, Ledger()
    await make(log, events=5)
    assert await fetched(Damaged(log, lost), ledger, 1, 2, 3, 4, 5) == found
    assert ledger.trimmed == []


@pytest.mark.parametrize("how", ["deleted", "moved"])
@pytest.mark.gen_test
async def test_nothing_is_missing_of_a_consumer_that_is_elsewhere(how: str) -> None:
    """One that was deleted or moved meanwhile: what was read before comes out."""
    log, ledger = MemoryWorld().log, Ledger()
    await make(log, events=3)
    if how == "deleted":
        ledger.live = False
    else:
        ledger.progress.generation = 1
    assert await fetched(Damaged(log, {2: 3}), ledger, 1, 2, 3) == [1]
