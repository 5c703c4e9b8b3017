"""relay_tornado/lateness.py: a time limit that ends late, since the loop stood still, is extended once."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from relay_tornado import lateness
from relay_tornado.low_memory import watch_timers
from tests.delivery.virtual import VirtualLoop, virtual_test
from tests.delivery.virtual import event_loop as event_loop
from tests.failing import once


def stand_still(seconds: float) -> None:
    """The loop does nothing for so long, as in a machine that is suspended."""
    cast(VirtualLoop, asyncio.get_running_loop()).passed += seconds


async def spend(limit: float, still: float, seconds: float, times: int = 1) -> None:
    """Within the limit, the loop stands still and turns a few times, so many times, and then time passes."""
    async with lateness.Timeout(limit):
        for _ in range(times):
            stand_still(still)
            for _ in range(5):
                await asyncio.sleep(0)
        await asyncio.sleep(seconds)


@virtual_test
async def test_a_limit_ends_in_time() -> None:
    with pytest.raises(TimeoutError):
        await spend(10, 0, 60)
    assert asyncio.get_running_loop().time() == pytest.approx(10)


@virtual_test
async def test_what_came_while_the_loop_stood_still_is_in_time() -> None:
    """However many turns of the loop it takes to read it."""
    await spend(10, 40, 9.9)


@pytest.mark.parametrize(("late", "end"), [(3, 16), (60, 80)])
@virtual_test
async def test_an_extension_is_as_long_as_the_loop_was_late(late: float, end: float) -> None:
    """As long as the limit at most."""
    with pytest.raises(TimeoutError):
        await spend(10, 10 + late, 100)
    assert asyncio.get_running_loop().time() == pytest.approx(end)


@virtual_test
async def test_a_limit_is_extended_once() -> None:
    """A loop that is late every time comes to an end."""
    with pytest.raises(TimeoutError):
        await spend(10, 13, 0, times=9)
    assert asyncio.get_running_loop().time() == pytest.approx(26)


@virtual_test
async def test_a_limit_that_was_kept_ends_nothing() -> None:
    await spend(10, 0, 1)
    await asyncio.sleep(60)


@virtual_test
async def test_a_cancellation_passes() -> None:
    task = asyncio.create_task(spend(10, 0, 5))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_test
async def test_a_limit_whose_end_finds_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends a moment later: the body may wait for something that never comes."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    rounds = watch_timers()
    monkeypatch.setattr(asyncio.Timeout, "reschedule", once(asyncio.Timeout.reschedule, 1))
    with pytest.raises(TimeoutError):
        await spend(10, 0, 60)
    rounds.cancel()
    assert asyncio.get_running_loop().time() < 20
