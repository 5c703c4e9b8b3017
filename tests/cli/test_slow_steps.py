"""When a step that takes long is told, and what counts as progress."""

from __future__ import annotations

import _thread
import signal
import threading
from unittest.mock import Mock

import pytest

from relay_tornado.cli import slow_steps
from relay_tornado.cli.slow_steps import EXTENSION, _Watch, reported
from relay_tornado.steps import Step, Steps


class Told:
    """What a watch has told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, int | None]] = []
        self.states: list[str] = []

    def say(self, step: Step, seconds: int, percent: int | None) -> None:
        self.said.append((step.name, seconds, percent))


@pytest.fixture
def told() -> Told:
    return Told()


def watch(steps: Steps, told: Told) -> _Watch:
    return _Watch(steps, told.say, told.states.append)


def test_at_growing_intervals(told: Told) -> None:
    """A step is told after 5 s, then after twice as many each time, then every 5 min; the next one begins anew."""
    time = 0.0
    steps = Steps("first", lambda: time)
    one = watch(steps, told)
    for now in range(2000):
        one._tell_of_step(now)
    assert [seconds for _, seconds, _ in told.said] == [5, 10, 20, 40, 80, 160, 320, 620, 920, 1220, 1520, 1820]
    time = 2000.0
    steps.begin("second")
    steps.advance(1, 4)
    for now in range(2000, 2009):
        one._tell_of_step(now)
    assert told.said[-1] == ("second", 5, 25)
    assert told.states[0] == "STATUS=starting: first (5 s)"
    assert told.states[-1] == "STATUS=starting: second (5 s, 25 %)"


def test_a_quick_start_says_nothing(told: Told) -> None:
    with reported(Steps("quick"), told.say, lambda _: None):
        pass
    assert told.said == []


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_start_goes_on_without_the_thread(
    told: Told, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Signals still reach it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(_thread, "start_new_thread", Mock(side_effect=error))
    try:
        with reported(Steps("quick"), told.say, lambda _: None):
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_is_progress(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another step, more of it, processor time or blocks of a disk; not the little that a process uses that hangs."""
    used = [0.0, 0]
    monkeypatch.setattr(slow_steps, "_usage", lambda: tuple(used))
    steps = Steps("first")
    one = watch(steps, told)
    assert one._goes_on()  # as for the first time
    assert not one._goes_on()
    used[0] += 0.01
    assert not one._goes_on()
    used[0] += 0.1
    assert one._goes_on()
    used[1] += 8  # as by what is told
    assert not one._goes_on()
    used[1] += 100
    assert one._goes_on()
    steps.advance(1, 2)
    assert one._goes_on()
    steps.begin("second")
    assert one._goes_on()
    assert not one._goes_on()


def test_the_service_manager_is_asked_for_time_while_there_is_progress(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that hangs is no longer extended."""
    monkeypatch.setattr(slow_steps, "_LOOK", 0.0)
    monkeypatch.setattr(slow_steps, "_TICK", 0.001)
    monkeypatch.setattr(slow_steps, "_usage", lambda: (0.0, 0))
    steps, extended = Steps("first"), threading.Semaphore(0)
    looked = threading.Semaphore(0)
    goes_on = _Watch._goes_on

    def look(self: _Watch) -> bool:
        looked.release()
        return goes_on(self)

    def tell(state: str) -> None:
        told.states.append(state)
        extended.release()

    monkeypatch.setattr(_Watch, "_goes_on", look)
    with reported(steps, told.say, tell):
        for done in range(3):
            steps.advance(done + 1, 10)
            assert extended.acquire(timeout=60)
        for _ in range(20):
            assert looked.acquire(timeout=60)
        known = len(told.states)
        for _ in range(20):
            assert looked.acquire(timeout=60)
        assert len(told.states) == known
    assert set(told.states) == {f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}"}
