"""relay_tornado/rescue.py: a task that the loop has lost goes on."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado.rescue import Lock, _at, rescue, surely, wake
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
            wake(future, None)
    await until(waiting.done)
    loop.set_exception_handler(before)


async def test_who_waits_for_a_lock_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever releases it hears of nothing, and who was not woken has it all the same."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(rescue)
    lock = Lock()
    await lock.acquire()
    waiting = loop.create_task(lock.acquire())
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", once(loop.call_soon))
        lock.release()
    await until(waiting.done)
    assert lock.locked()
    loop.set_exception_handler(before)


async def test_what_has_to_be_done_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as memory is short for it; other errors are its caller's, and are raised at once."""
    monkeypatch.setattr("relay_tornado.rescue.AGAIN", 0.001)
    done: list[int] = []
    with capture_logs() as logs:
        surely(once(once(done.append), after=1), 7)
        surely(once(done.append), 8)
        assert not done
        await until(lambda: sorted(done) == [7, 8])
    assert [entry["event"] for entry in logs] == ["done_again"] * 3
    with pytest.raises(ZeroDivisionError):
        surely(lambda: 1 // 0)


async def test_what_failed_over_it_tells_of_want_too() -> None:
    """Where an error is met in the place of the want of memory, tasks are looked for as well."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    lost = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    _lose(future, 7)
    error = asyncio.InvalidStateError()
    error.__context__ = MemoryError()
    rescue(loop, {"message": "", "exception": error})
    assert await lost == 7


async def test_where_a_task_is_can_be_seen() -> None:
    """What it waits for, who waits for it, and what it is at: private parts of asyncio's, which another Python may not
    have."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    async def sleeps() -> None:
        await asyncio.sleep(0)

    async def waits() -> None:
        await future

    sleeping, waiting = loop.create_task(sleeps()), loop.create_task(waits())
    told: list[object] = []
    waiting.add_done_callback(told.append)
    await asyncio.sleep(0)
    assert waiting._fut_waiter is future  # type: ignore[attr-defined]
    assert sleeping._fut_waiter is None  # type: ignore[attr-defined]
    assert [callback for callback, _ in waiting._callbacks] == [told.append]  # type: ignore[attr-defined]
    assert not sleeping._callbacks  # type: ignore[attr-defined]
    assert type(_at(waiting)).__name__ == "FutureIter"
    at = _at(sleeping)
    assert isinstance(at, types.GeneratorType)
    assert at.gi_code.co_name == "__sleep0"
    future.set_result(None)
    await asyncio.wait((sleeping, waiting))


async def test_a_task_can_begin_anew() -> None:
    """Its `__init__`, called once more, schedules a step and keeps the place where it is."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    task = loop.create_task(asyncio.wait_for(future, None), name="task")
    await asyncio.sleep(0)
    _lose(future, 7)
    asyncio.Task.__init__(task, task.get_coro(), loop=loop, name=task.get_name())
    assert await task == 7
    assert task not in asyncio.all_tasks()
