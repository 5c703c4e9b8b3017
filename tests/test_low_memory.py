"""relay_tornado/low_memory.py: a task or a timer that the loop has lost goes on."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_tornado import low_memory as module
from relay_tornado.low_memory import Lock, Timer, _at, exception_handler, retry_until_done, wake, watch_timers
from tests.failing import once
from tests.needs import uvloops
from tests.starving import each_failing
from tests.waiting import until

pytestmark = pytest.mark.gen_test


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is found, and what failed is done again, in a moment."""
    monkeypatch.setattr(module, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(module, "_LATE", 0.05)


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
        exception_handler(loop, {"message": "", "exception": MemoryError()})
        assert await lost == 8
        assert await spinning > 0
    assert (steps, told) == ([7], [lost])
    assert [(entry["event"], entry["task"]) for entry in logs if "task" in entry] == [("task_rescued", "lost")]


class _Turn:
    """An awaitable of its own kind, which takes a turn of the loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_a_task_at_an_unknown_place_is_left_alone() -> None:
    """It may have gone on since it was looked at, and would take its steps twice."""
    loop = asyncio.get_running_loop()

    async def work() -> None:
        for _ in range(10):
            await _Turn()

    working = loop.create_task(work())
    await asyncio.sleep(0)
    with capture_logs() as logs:
        exception_handler(loop, {"message": "", "exception": MemoryError()})
        await working
    assert [entry for entry in logs if "task" in entry] == []


async def test_a_lost_task_may_be_cancelled() -> None:
    """One that was cancelled where it was lost ends so."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    lost = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    _lose(future, None)
    lost.cancel()
    exception_handler(loop, {"message": "", "exception": MemoryError()})
    with pytest.raises(asyncio.CancelledError):
        await lost


async def test_a_lost_task_is_found_by_two() -> None:
    """It goes on once: one that is stepped twice is cancelled twice later, and what it does at its end, too."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    forever: asyncio.Future[None] = loop.create_future()
    ends: list[str] = []

    async def work() -> None:
        await future
        try:
            await forever
        finally:
            ends.append("begun")
            for _ in range(3):
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            ends.append("done")

    lost = loop.create_task(work())
    await asyncio.sleep(0)
    _lose(future, None)
    for _ in range(2):
        exception_handler(loop, {"message": "", "exception": MemoryError()})
    for _ in range(10):
        await asyncio.sleep(0)
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    assert ends == ["begun", "done"]


async def test_who_could_not_be_woken_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to schedule a wake-up, the one who waits goes on all the same."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler)
    future: asyncio.Future[None] = loop.create_future()
    waiting = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", once(loop.call_soon))
        with pytest.raises(MemoryError):
            wake(future, None)
    await until(waiting.done)


async def test_who_waits_for_a_lock_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever releases it hears of nothing, and who was not woken has it all the same."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler)
    lock = Lock()
    await lock.acquire()
    waiting = loop.create_task(lock.acquire())
    await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", once(loop.call_soon))
        lock.release()
    await until(waiting.done)
    assert lock.locked()


@pytest.mark.usefixtures("soon")
async def test_who_waits_for_a_lock_is_found() -> None:
    """Also where there is no memory to look for whoever is the first of those who wait."""

    class Waiters(deque[asyncio.Future[bool]]):
        __iter__ = once(deque.__iter__)

    lock = Lock()
    await lock.acquire()
    waiting = [asyncio.create_task(lock.acquire())]
    await asyncio.sleep(0)
    assert lock._waiters
    lock._waiters = Waiters(lock._waiters)
    lock.release()
    waiting.append(asyncio.create_task(lock.acquire()))
    await until(waiting[0].done)
    assert lock.locked()
    lock.release()
    await until(waiting[1].done)


@pytest.mark.usefixtures("soon")
async def test_a_lock_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no memory to call what releases it."""
    lock = Lock()
    await lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Lock, "release", once(asyncio.Lock.release))
        lock.release()
    assert lock.locked()
    waiting = asyncio.create_task(lock.acquire())
    await until(waiting.done)


async def test_a_lock_is_released_wherever_memory_is_short() -> None:
    """Whichever allocation fails between its being taken and let go of."""
    locks: list[Lock] = []

    def make() -> Callable[[], None]:
        locks.append(lock := Lock())

        async def hold() -> None:
            async with lock:
                assert lock.locked()

        def step() -> None:
            with suppress(StopIteration):
                hold().send(None)

        return step

    for n in each_failing(make):
        await until(lambda: not locks[-1].locked(), f"the lock, where allocation {n} failed", 20)
    assert len(locks) > 2


@pytest.mark.usefixtures("soon")
async def test_what_has_to_be_done_is_done_again() -> None:
    """As often as memory is short for it; other errors are its caller's, and are raised at once."""
    done: list[int] = []
    with capture_logs() as logs:
        retry_until_done(once(once(done.append), after=1), 7)
        retry_until_done(once(done.append), 8)
        assert not done
        await until(lambda: sorted(done) == [7, 8])
    assert [entry["event"] for entry in logs] == ["done_again"] * 3
    with pytest.raises(ZeroDivisionError):
        retry_until_done(lambda: 1 // 0)


async def test_what_failed_over_it_tells_of_want_too() -> None:
    """Where an error is met in the place of the want of memory, tasks are looked for as well."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    lost = loop.create_task(asyncio.wait_for(future, None))
    await asyncio.sleep(0)
    _lose(future, 7)
    error = asyncio.InvalidStateError()
    error.__context__ = MemoryError()
    exception_handler(loop, {"message": "", "exception": error})
    assert await lost == 7
    assert not module._looks  # or it would be kept


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


LOOPS = ["asyncio", "uvloop"]


def on(loop: str, test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test on one of the loops that a relay runs on."""
    with asyncio.Runner(loop_factory=uvloops if loop == "uvloop" else asyncio.new_event_loop) as runner:
        runner.run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_timer(loop: str) -> None:
    """It calls once, at the last time that was set, and not where it was cancelled; then nothing is kept of it."""

    async def test() -> None:
        clock = asyncio.get_running_loop().time
        called: list[float] = []
        timer, other = Timer(lambda: called.append(clock())), Timer(lambda: called.append(0.0))
        timer.soon()
        timer.after(3600)
        timer.after(0.02)
        due = timer.at
        other.soon()
        other.cancel()
        other.cancel()
        assert due is not None
        await until(lambda: called)
        assert called[0] >= due - 0.002
        timer.soon()
        await until(lambda: len(called) == 2)
        assert (timer.at, other.at) == (None, None)
        assert not {timer, other} & Timer._armed.keys()

    on(loop, test)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("lost", ["call_at", "call_soon", "call"])
def test_a_timer_that_the_loop_has_not(loop: str, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was no memory to set it, or to call it, it is called all the same, once."""

    async def test() -> None:
        called: list[float] = []
        timer, rounds = Timer(lambda: called.append(0.0)), watch_timers()
        running = asyncio.get_running_loop()
        # An event loop of uvloop's can't be changed, so what the timer has of it is.
        short = SimpleNamespace(time=running.time, call_at=running.call_at, call_soon=running.call_soon)
        if lost != "call":
            setattr(short, lost, once(getattr(running, lost)))
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(module.asyncio, "get_running_loop", lambda: short)
            timer.soon() if lost == "call_soon" else timer.after(0.01)
        timer._loop = running
        assert [each["event"] for each in logs] == ([] if lost == "call" else ["timer_not_set"])
        if lost == "call":
            assert timer._handle is not None
            timer._handle.cancel()
        await until(lambda: called)
        await asyncio.sleep(0.1)
        rounds.cancel()
        assert called == [0.0]
        assert not {timer, rounds} & Timer._armed.keys()

    on(loop, test)


async def test_a_timer_that_is_only_late_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called once, where it is found before the loop comes to it."""
    monkeypatch.setattr(module, "_LATE", -1.0)
    called: list[int] = []
    timers = [Timer(lambda: called.append(1)) for _ in range(2)]
    timers[0].soon()
    timers[1].after(0.0)
    Timer.look()
    assert called == [1, 1]
    for _ in range(5):
        await asyncio.sleep(0)
    assert called == [1, 1]


@pytest.mark.usefixtures("soon")
async def test_a_step_without_memory() -> None:
    """It is done again, where it has not set a time itself or cancelled the timer; other errors are the loop's."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    done: list[int] = []

    def fails() -> None:
        done.append(3)
        raise ZeroDivisionError

    def cancels() -> None:
        cancelled.cancel()
        done.append(4)
        raise MemoryError

    def sets() -> None:
        later.after(3600)
        done.append(5)
        raise MemoryError

    rounds = watch_timers()
    failing, cancelled, later = Timer(fails), Timer(cancels), Timer(sets)
    Timer(once(once(lambda: done.append(1)), after=1)).soon()
    failing.soon()
    cancelled.soon()
    later.soon()
    with capture_logs() as logs:
        await until(lambda: 1 in done)
    await asyncio.sleep(0.1)
    assert sorted(done) == [1, 3, 4, 5]
    assert [type(each["exception"]) for each in told] == [MemoryError, ZeroDivisionError, MemoryError, MemoryError]
    assert cancelled.at is None
    later.cancel()
    assert [each["event"] for each in logs] == ["timer_failed"]
    rounds.cancel()


@pytest.mark.usefixtures("soon")
async def test_the_looks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there was no memory to set the next of them, and nobody else would look for it."""
    loop = asyncio.get_running_loop()
    rounds = watch_timers()
    usual = loop.call_at
    tries: list[float] = []

    def call_at(at: float, step: Callable[..., object], *what: Any, **options: Any) -> asyncio.TimerHandle:
        if step == rounds._over and not tries:
            tries.append(at)
            raise MemoryError
        return usual(at, step, *what, **options)

    monkeypatch.setattr(loop, "call_at", call_at)
    called: list[int] = []
    timer = Timer(lambda: called.append(1))
    with capture_logs():
        await until(lambda: tries)
    timer.soon()
    assert timer._handle is not None
    timer._handle.cancel()
    await until(lambda: called)
    rounds.cancel()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("where", ["loop", "timer"])
async def test_the_looks_themselves_may_be_lost(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on with the next want of memory that the loop or a timer hears of."""
    loop = asyncio.get_running_loop()
    rounds = watch_timers()
    assert rounds._handle is not None
    rounds._handle.cancel()
    called: list[int] = []
    timer = Timer(lambda: called.append(1))
    timer.soon()
    assert timer._handle is not None
    timer._handle.cancel()
    await asyncio.sleep(0.2)
    assert not called
    if where == "loop":
        exception_handler(loop, {"message": "", "exception": MemoryError()})
    else:
        other = Timer(lambda: None)
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(loop, "call_at", once(loop.call_at))
            other.after(3600)
        other.cancel()
    await until(lambda: called)
    rounds.cancel()
