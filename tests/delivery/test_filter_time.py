"""relay_tornado/delivery/filter_time.py: how long a token's filters wait."""

import asyncio

import pytest

from relay_tornado import rules
from relay_tornado.delivery.filter_time import FilterTime


def test_the_filters_of_a_token_wait_for_what_all_have_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times as long as they took together; those that were quick cost nothing, nor do those of other tokens."""
    monkeypatch.setattr(rules, "_QUICK", 0.01)
    now = 100.0
    times = FilterTime(lambda: now)
    assert times.wait("a") == 0
    assert not times.took("a", 0.01)
    assert times.wait("a") == 0
    assert times.took("a", 0.1)
    times.took("a", 0.2)
    assert round(times.wait("a"), 6) == 2.7
    assert times.wait("b") == 0
    now += 2.0
    assert round(times.wait("a"), 6) == 0.7
    now += 5.0
    assert times.wait("a") == 0
    times.took("a", 0.1)
    assert round(times.wait("a"), 6) == 0.9


@pytest.mark.gen_test
async def test_whoever_waits_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may have come first."""
    monkeypatch.setattr(rules, "_QUICK", 0.01)
    now = 100.0
    times = FilterTime(lambda: now)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(round(seconds, 6))
        now += seconds + 0.001
        if len(waits) == 1:
            times.took("a", 0.2)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert not await times.turn("a")
    times.took("a", 0.1)
    assert await times.turn("a")
    assert waits == [0.9, 1.8]
    assert not await times.turn("a")
