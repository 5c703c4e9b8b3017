"""The synchronous client, interrupted (Ctrl-C) before each step that Python makes in the thread that waits."""

from __future__ import annotations

import asyncio
import dis
import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from relay_tornado.client import sync
from relay_tornado.client.errors import RelayClientError
from relay_tornado.client.event import EventData
from relay_tornado.client.sync import Subscription
from tests.client.world import TIMEOUT


class Numbers:
    """An asynchronous subscription: its events are numbered, and each takes a moment."""

    def __init__(self, late: float) -> None:
        self.late = late
        self.given = 0
        self.closed = 0

    async def __aenter__(self) -> None:
        await asyncio.sleep(0)

    async def __anext__(self) -> Any:
        await asyncio.sleep(self.late)
        self.given += 1
        return SimpleNamespace(**dict.fromkeys(EventData.__dataclass_fields__, self.given))

    async def aclose(self) -> None:
        self.closed += 1


def interrupted(before: int, call: Callable[[], Any]) -> tuple[Any, bool]:
    """What a call returns, None where it was interrupted; and whether there was such a step before which it was."""
    left = before

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_name in ("_remove", "__del__"):
            # What is done when something dies, a loop of an earlier test for one: no error comes out of it.
            return None
        frame.f_trace_opcodes = True
        # Python looks for signals at calls and where it jumps back, never before it returns what is there.
        if event == "opcode" and not dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN"):
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return step

    tracer = sys.gettrace()
    gc.disable()  # it calls back, too
    sys.settrace(step)
    try:
        return call(), left < 0
    except KeyboardInterrupt:
        return None, True
    finally:
        sys.settrace(tracer)
        gc.enable()


@pytest.mark.parametrize("late", [0.0, 0.002], ids=["at once", "late"])
def test_an_interrupt_anywhere_loses_no_event(late: float) -> None:
    """Whatever step of the wait it hits, the next call has the event that this one would have had, and close ends."""
    numbers = Numbers(late)
    events = Subscription(numbers)  # type: ignore[arg-type]
    got = [next(events).seq]
    for before in range(100_000):
        event, hit = interrupted(before, events.__next__)
        event = event or events.next(TIMEOUT)
        assert event is not None
        got.append(event.seq)
        if not hit:
            break
    assert before > 100
    assert got == list(range(1, len(got) + 1))
    events.close()
    assert numbers.closed == 1


def test_an_interrupt_anywhere_ends_the_close() -> None:
    """A second Ctrl-C, while the first one's close waits: what it hits is left, and nothing hangs."""
    for before in range(0, 100_000, 7):
        numbers = Numbers(0)
        events = Subscription(numbers)  # type: ignore[arg-type]
        assert next(events).seq == 1
        _, hit = interrupted(before, events.close)
        events.close()
        if not hit:
            break
    assert before > 100


@pytest.mark.parametrize("begun", [False, True])
def test_a_close_anywhere_in_a_wait_ends_it(begun: bool) -> None:
    """From another thread, at whatever step of `next`: that gives its event or ends, and nothing stays."""
    threads = set(threading.enumerate())
    for before in range(100_000):
        numbers = Numbers(0.002)
        events = Subscription(numbers)  # type: ignore[arg-type]
        if begun:
            assert next(events).seq == 1
        left = before

        def step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename != sync.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == -1:
                    closing = threading.Thread(target=events.close)  # noqa: B023 - it is of this round
                    closing.start()
                    closing.join(TIMEOUT)
            return step

        tracer = sys.gettrace()
        sys.settrace(step)
        try:
            event = events.next()
        finally:
            sys.settrace(tracer)
        if left >= 0:
            break
        assert event is None or event.seq == 1 + begun
        assert events.next() is None
        assert set(threading.enumerate()) <= threads
    assert before > 50
    events.close()


def test_who_still_waits_at_the_end_is_told() -> None:
    """Where what it waits for does not end with the subscription, too: the loop ends."""
    events = Subscription(Numbers(TIMEOUT))  # type: ignore[arg-type]
    events.__enter__()
    closing = threading.Timer(0.1, events.close)
    closing.start()
    assert list(events) == []
    closing.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_is_told() -> None:
    """The thread of its loop is not there: an error says so, and a close returns, where both would wait for ever."""
    events = Subscription(Numbers(0))  # type: ignore[arg-type]
    assert next(events).seq == 1

    def go_on() -> None:
        with pytest.raises(RelayClientError, match="closed"):
            next(events)
        events.close()

    child = multiprocessing.get_context("fork").Process(target=go_on)
    child.start()
    child.join(TIMEOUT / 3)
    child.kill()
    child.join()
    assert child.exitcode == 0
    assert next(events).seq == 2
    events.close()
