"""relay_tornado/handlers/alarms.py: each is woken once, when it is due, and one timer serves them all."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from structlog.testing import capture_logs

from relay_tornado.handlers import alarms as module
from relay_tornado.handlers.alarms import Alarms
from relay_tornado.low_memory import watch_timers
from tests.delivery.virtual import event_loop as event_loop
from tests.delivery.virtual import virtual_test
from tests.failing import once


class Sleeper:
    """Notes when it was woken."""

    def __init__(self) -> None:
        self.woken: list[float] = []

    def wake(self) -> None:
        self.woken.append(asyncio.get_running_loop().time())


@virtual_test
@pytest.mark.parametrize("seed", range(5))
async def test_each_is_woken_when_it_is_due(seed: int) -> None:
    """Not before, hardly later, and not where it was cancelled."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    alarms = Alarms()
    due: dict[Sleeper, float] = {}
    cancelled = []
    for _ in range(300):
        sleeper = Sleeper()
        at = loop.time() + chance.choice([0.0, 0.001, 0.5, 1.9, 3.0, 20.0, chance.uniform(0, 30)])
        set_for = alarms.set(sleeper, at)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0, 0.2))
        if chance.random() < 0.3 and not sleeper.woken:
            alarms.cancel(sleeper, set_for)
            alarms.cancel(sleeper, set_for)
            cancelled.append(sleeper)
        else:
            due[sleeper] = at
    await asyncio.sleep(40)
    for sleeper, at in due.items():
        assert len(sleeper.woken) == 1
        assert -1e-6 <= sleeper.woken[0] - at <= 0.26
    assert not any(sleeper.woken for sleeper in cancelled)
    assert not alarms._sleepers
    assert alarms._timer.at is None


@virtual_test
async def test_soon_is_soon() -> None:
    """A time that is near is kept to a hundredth of a second."""
    loop = asyncio.get_running_loop()
    alarms, sleeper = Alarms(), Sleeper()
    at = loop.time() + 0.123
    alarms.set(sleeper, at)
    await asyncio.sleep(1)
    assert at <= sleeper.woken[0] + 1e-6
    assert sleeper.woken[0] <= at + 0.011


@virtual_test
async def test_many_at_once_give_the_loop_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are due at one time are woken in several turns where that takes long, each once."""
    monkeypatch.setattr(module, "_SLICE", 0.0005)

    class Slow(Sleeper):
        def wake(self) -> None:
            super().wake()
            end = time.perf_counter() + 0.0002
            while time.perf_counter() < end:
                pass

    loop = asyncio.get_running_loop()
    alarms = Alarms()
    sleepers = [Slow() for _ in range(50)]
    at = [alarms.set(sleeper, loop.time() + 5) for sleeper in sleepers]
    assert len(set(at)) == 1
    gone: list[Slow] = []
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asleep = [sleeper for sleeper in sleepers if not sleeper.woken]
        if asleep and not gone:
            gone.append(asleep[0])
            sleepers.remove(asleep[0])
            alarms.cancel(asleep[0], at[0])
        if asleep:
            loop.call_soon(turn)

    loop.call_at(at[0], turn)
    await asyncio.sleep(10)
    assert turns > 5
    assert not gone[0].woken
    assert all(len(sleeper.woken) == 1 for sleeper in sleepers)


@virtual_test
async def test_whoever_fails_keeps_nobody_asleep() -> None:
    """And one that is woken may go to sleep again."""

    class Failing(Sleeper):
        def wake(self) -> None:
            super().wake()
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    alarms = Alarms()

    class Again(Sleeper):
        def wake(self) -> None:
            super().wake()
            if len(self.woken) < 5:
                alarms.set(self, loop.time() + 1)

    sleepers = [Failing(), Sleeper(), Failing(), Again()]
    for sleeper in sleepers:
        alarms.set(sleeper, loop.time() + 1)
    with capture_logs() as logs:
        await asyncio.sleep(10)
    assert [len(sleeper.woken) for sleeper in sleepers] == [1, 1, 1, 5]
    assert [entry["event"] for entry in logs] == ["alarm_failed"] * 2


def test_what_is_overdue_on_uvloop() -> None:
    """It makes no timer for it, but a handle that knows no time: who goes to sleep meanwhile is woken as ever."""
    uvloop = pytest.importorskip("uvloop", reason="it comes with the extra `fast`")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        alarms = Alarms()
        sleepers = [Sleeper() for _ in range(3)]
        for sleeper, ahead in zip(sleepers, (-1.0, 0.05, -2.0), strict=True):
            alarms.set(sleeper, loop.time() + ahead)
        async with asyncio.timeout(60):
            while not all(sleeper.woken for sleeper in sleepers):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [len(sleeper.woken) for sleeper in sleepers] == [1, 1, 1]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


@virtual_test
async def test_whoever_is_woken_may_cancel_the_others() -> None:
    """Also all of those who are due with it, at another time; who is left is woken."""
    loop = asyncio.get_running_loop()
    alarms, late = Alarms(), Sleeper()
    others = [Sleeper(), Sleeper()]
    set_for: dict[Sleeper, float] = {}

    class Cancelling(Sleeper):
        def wake(self) -> None:
            super().wake()
            for other, at in set_for.items():
                alarms.cancel(other, at)

    first = Cancelling()
    alarms.set(first, loop.time() - 2)
    for other, ahead in zip(others, (-1.0, -0.5), strict=True):
        set_for[other] = alarms.set(other, loop.time() + ahead)
    alarms.set(late, loop.time() + 1)
    await asyncio.sleep(5)
    assert [len(each.woken) for each in (first, *others, late)] == [1, 0, 0, 1]
    assert not alarms._sleepers


@virtual_test
@pytest.mark.parametrize("name", ["perf_counter", "call_at"])
async def test_alarms_without_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sleeps is woken all the same: at once, or where there is none for the timer, when it is looked for."""
    loop = asyncio.get_running_loop()
    alarms, first, second = Alarms(), Sleeper(), Sleeper()
    if name == "perf_counter":
        alarms.set(first, loop.time() + 1)
        monkeypatch.setattr(module.time, "perf_counter", once(time.perf_counter))
        loop.set_exception_handler(lambda loop, context: None)
    else:
        alarms.set(first, loop.time() + 3)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", once(loop.call_at))
            alarms.set(second, loop.time() + 1)
        rounds = watch_timers()
        await asyncio.sleep(3.5)
        rounds.cancel()
        assert len(second.woken) == 1
    await asyncio.sleep(5)
    assert len(first.woken) == 1
