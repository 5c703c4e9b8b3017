"""relay_tornado/search/pacing.py: the more the relay has to do, the longer the index rests."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import NoReturn

import pytest

from relay_tornado.search import pacing as module
from relay_tornado.search.pacing import Pacing


class Relay:
    """What it has taken in, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events = 0

    def pacing(self) -> Pacing:
        return Pacing(lambda: self.events, lambda: self.now)


@pytest.mark.parametrize(("rate", "times"), [(0, 0.25), (150, 1.25), (750, 5.25), (30_000, 20.0)])
def test_as_long_as_the_relay_is_busy(rate: int, times: float) -> None:
    """In times of what the work took; at most so many."""
    relay = Relay()
    pacing = relay.pacing()
    for _ in range(3):
        pacing.begin()
        relay.now += 0.02
        relay.events += int(rate * 0.02)
        assert pacing.due() == pytest.approx(0.02 * times)


def test_it_notices_at_once_that_the_relay_has_nothing_to_do() -> None:
    """And that it has: within a piece of work."""
    relay = Relay()
    pacing = relay.pacing()
    for events, times in ((600, 20.0), (0, 0.25), (600, 20.0)):
        pacing.begin()
        relay.now += 0.02
        relay.events += events
        assert pacing.due() == pytest.approx(0.02 * times)


def test_no_rest_is_long() -> None:
    """Also where the machine was away in the middle of the work."""
    relay = Relay()
    pacing = relay.pacing()
    pacing.begin()
    relay.now += 60
    relay.events += 1_000_000
    assert pacing.due() == 0.5


def test_each_piece_of_work_has_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as is due for it, and not for those before it once more."""
    relay = Relay()
    pacing = relay.pacing()
    rests: list[float] = []
    monkeypatch.setattr(pacing, "_working", SimpleNamespace(acquire=lambda *, timeout: rests.append(timeout)))
    pacing.begin()
    for work in (0.02, 0.04):
        relay.now += work
        pacing.rest()
    assert rests == pytest.approx([0.005, 0.01])


def test_the_end_ends_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stops the relay does not wait for it."""
    monkeypatch.setattr(module, "_LONGEST", 3600.0)
    relay = Relay()
    pacing = relay.pacing()
    pacing.begin()
    relay.now += 3600
    relay.events += 1 << 40
    assert pacing.due() == 3600
    thread = threading.Thread(target=pacing.rest)
    thread.start()
    pacing.end()
    thread.join()


def test_a_rest_without_memory_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is called in the event loop: everything would stand still. Python's own events have a lock that is not
    released without memory for the call."""

    def lost(*_: object) -> NoReturn:
        raise MemoryError

    pacing = Relay().pacing()
    with monkeypatch.context() as patch, suppress(MemoryError):
        patch.setattr(threading.Condition, "__exit__", lost)
        pacing.rest()
    end = threading.Thread(target=pacing.end, daemon=True)
    end.start()
    end.join(60)
    assert not end.is_alive()
