"""relay_tornado/delivery/fetching.py: how much of what was taken is read at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from relay_tornado.consumer_progress import Taken
from relay_tornado.delivery.fetching import fetch
from relay_tornado.log.consumers import Key
from tests.log.worlds import MemoryWorld, event, make


@pytest.mark.parametrize("seqs", [(1, 2, 3), (1, 3, 5), (5, 1, 2)])
@pytest.mark.parametrize(("more", "count"), [(-1, 1), (0, 1), (1, 2), (1_000_000, 3)])
@pytest.mark.gen_test
async def test_no_more_than_fit_are_read(seqs: tuple[int, ...], more: int, count: int) -> None:
    """Once what was read fills the size, no further stretch is read; one event is always read."""
    log = MemoryWorld().log
    await make(log)
    for _ in range(5):
        await log.append("b", event(b"x" * 1000))
    ledger: Any = SimpleNamespace(key=Key("b", "client", "w"))
    taken = [Taken(seq, 1, 0) for seq in seqs]
    found = await fetch(log, ledger, taken, event(b"x" * 1000).size + more)
    assert [getattr(each, "seq", each) for each in found] == list(seqs[:count])
