"""relay_tornado/handlers/admission.py: a few a turn of the loop, in their order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

from relay_tornado.handlers.admission import Admission
from relay_tornado.low_memory import Timer, watch_timers
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test


async def turn_of(admission: Admission) -> None:
    """Returns when the caller may proceed."""
    future = admission.enter()
    if future is not None:
        await future


@virtual_test
async def test_a_few_a_turn_in_their_order() -> None:
    """However many come at once; who gives up keeps nobody waiting."""
    admission = Admission(4)
    through: list[int] = []

    async def one(number: int) -> None:
        await turn_of(admission)
        through.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(50)]
    await asyncio.sleep(0)
    assert through == [0, 1, 2, 3]
    for number in (4, 10, 11):
        tasks[number].cancel()
    turns = 0
    while not all(task.done() for task in tasks):
        before = len(through)
        await asyncio.sleep(0)
        turns += 1
        assert len(through) - before <= 4
    assert through == [number for number in range(50) if number not in (4, 10, 11)]
    assert turns >= 11
    await asyncio.sleep(1)
    assert admission._timer.at is None


@virtual_test
async def test_nobody_waits_where_few_come() -> None:
    """Also again and again: each turn has as many."""
    loop = asyncio.get_running_loop()
    admission = Admission(4)
    for _ in range(10):
        for _ in range(4):
            turn = turn_of(admission)
            try:
                turn.send(None)
            except StopIteration:
                continue
            raise AssertionError("it waited")
        done = loop.create_future()
        loop.call_soon(done.set_result, None)
        await done
        await asyncio.sleep(0)


@virtual_test
async def test_what_comes_with_a_crowd_is_looked_at_in_small_pieces() -> None:
    """Python, which counts what is made less what is freed, would not: as much goes as comes."""
    admission = Admission(4)
    before: list[list[int]] = [[] for _ in range(4_000)]
    gc.collect()
    stay: list[list[int]] = []
    young = 0
    while before:
        before.pop()
        stay.append([])
        await turn_of(admission)
        if len(before) % 100 == 0:
            young = max(young, sum(len(gc.get_objects(generation=each)) for each in (0, 1)))
    assert young < 2_000


@virtual_test
@pytest.mark.parametrize("time", [0, 1, 2])
async def test_a_turn_without_memory(time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes where a turn could not be scheduled, and after one that could not be woken, has a turn."""
    admission = Admission(1)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    calls = 0
    call_soon = loop.call_soon

    def failing(callback: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.Handle:
        nonlocal calls
        calls += getattr(callback, "__func__", None) is Timer._over
        if calls == time + 1:
            calls += 1
            raise MemoryError
        return call_soon(callback, *arguments, **options)

    monkeypatch.setattr(loop, "call_soon", failing)
    rounds = watch_timers()
    for _ in range(5):
        with contextlib.suppress(MemoryError):
            await turn_of(admission)
    rounds.cancel()
    assert calls > time + 1
