"""relay_tornado/rescue.py: a task that the loop has lost goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.rescue import rescue, wake
from tests.failing import once
from tests.waiting import until

pytestmark = pytest.mark.gen_test


def _lose(future: asyncio.Future[Any], result: object) -> None:
    """Has the future done, and whoever waits for it never hear of it: as where a wake-up could not be scheduled."""
    for callback, _ in list(future._callbacks or ()):
        future.remove_done_callback(callback)
    future.set_result(result)


async def test_a_lost_task_goes_on() -> None:
    """It is the same task, at the place where it was, with those who wait for it; others are left alone."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    steps: list[int] = []

    async def inner() -> int:
        return await future

    async def outer() -> int:
        found = await inner()
        steps.append(found)
        await asyncio.sleep(0)
        return found + 1

    async def other() -> int:
        count = 0
        while not lost.done():
            await asyncio.sleep(0)
            count += 1
        return count

    lost = loop.create_task(outer(), name="lost")
    told: list[asyncio.Task[int]] = []
    lost.add_done_callback(told.append)
    await asyncio.sleep(0)
    spinning = loop.create_task(other())
    _lose(future, 7)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not lost.done()
    with capture_logs() as logs:
        rescue(loop, {"message": "", "exception": MemoryError()})
        assert await lost == 8
        assert await spinning > 0
    assert (steps, told) == ([7], [lost])
    assert [(entry["event"], entry["task"]) for entry in logs if "task" in entry] == [("task_rescued", "lost")]


async def test_a_lost_task_may_be_cancelled() -> None:
    """One that was cancelled where it was lost ends so."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    lost = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    _lose(future, None)
    lost.cancel()
    rescue(loop, {"message": "", "exception": MemoryError()})
    with pytest.raises(asyncio.CancelledError):
        await lost


async def test_who_could_not_be_woken_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to schedule a wake-up, the one who waits goes on all the same."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(rescue)
    future: asyncio.Future[None] = loop.create_future()
    waiting = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", once(loop.call_soon))
        with pytest.raises(MemoryError):
            wake(future)
    await until(waiting.done)
    loop.set_exception_handler(before)
