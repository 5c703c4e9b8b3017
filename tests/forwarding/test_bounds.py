"""relay_tornado/forwarding/bounds.py: what all outputs share goes to whoever has a use for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

import pytest

from relay_tornado import low_memory
from relay_tornado.forwarding.bounds import SMALL_EVENT, Memory, Slots
from tests.failing import once
from tests.waiting import until


@pytest.mark.gen_test
async def test_who_needs_a_slot_no_more_keeps_it_from_nobody() -> None:
    """Those who wait are woken one after the other until one takes what is free, and no more of them."""
    loop = asyncio.get_running_loop()
    slots = Slots(1)
    woken = []
    taken = []

    def wake(name: str) -> None:
        woken.append(name)
        if name != "idle":
            loop.call_soon(take, name)

    def take(name: str) -> None:
        if slots.take(name, partial(wake, name)):
            taken.append(name)

    for name in ("first", "idle", "second", "third"):
        take(name)
    assert taken == ["first"]
    slots.give_back()
    for _ in range(9):
        await asyncio.sleep(0)
    assert (woken, taken) == (["idle", "second"], ["first", "second"])
    slots.give_back()
    for _ in range(9):
        await asyncio.sleep(0)
    assert taken == ["first", "second", "third"]


@pytest.mark.gen_test
async def test_all_who_wait_for_a_slot_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there was no memory to go on to the next one."""
    monkeypatch.setattr(low_memory, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(low_memory, "_LATE", 0.01)
    loop = asyncio.get_running_loop()
    rounds = low_memory.watch_timers()
    slots, woken = Slots(1), list[str]()
    assert slots.take("one", lambda: None)
    for name in ("idle", "other"):
        assert not slots.take(name, partial(woken.append, name))
    monkeypatch.setattr(loop, "call_soon", once(loop.call_soon))
    with suppress(MemoryError):
        slots.give_back()
    await until(lambda: woken == ["idle", "other"], timeout=20)
    rounds.cancel()


@pytest.mark.gen_test
async def test_all_who_wait_for_memory_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there was none to wake one of them."""
    monkeypatch.setattr(low_memory, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(low_memory, "_LATE", 0.01)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(low_memory.exception_handler)
    rounds = low_memory.watch_timers()
    memory = Memory(2 * SMALL_EVENT)
    assert memory.take("one", 2 * SMALL_EVENT)
    waiting = [asyncio.create_task(memory.room()) for _ in range(3)]
    await asyncio.sleep(0)
    monkeypatch.setattr(loop, "call_soon", once(loop.call_soon, after=1))
    with suppress(MemoryError):
        memory.give_back("one", 2 * SMALL_EVENT)
    await asyncio.gather(*waiting)
    rounds.cancel()


@pytest.mark.gen_test
async def test_an_output_holds_an_eighth_of_the_memory_or_one_event() -> None:
    """Small events do not count. Of large ones it may hold an eighth of the memory, or a single one; in all outputs
    hold no more than there is, or a single one."""
    memory, large = Memory(64 * SMALL_EVENT), SMALL_EVENT + 1
    assert memory.take("one", SMALL_EVENT)
    assert memory.used == 0
    for _ in range(2):
        assert [memory.take("one", large) for _ in range(8)] == [True] * 7 + [False]
        assert memory.take("other", 9 * SMALL_EVENT)
        assert not memory.take("third", 48 * SMALL_EVENT)
        memory.give_back("other", 9 * SMALL_EVENT)
        for _ in range(7):
            memory.give_back("one", large)
        assert memory.used == 0
        assert memory.take("one", 65 * SMALL_EVENT)
        assert not memory.take("other", large)
        memory.give_back("one", 65 * SMALL_EVENT)


def test_what_fits_exactly() -> None:
    """All of the memory, and all of an output's share; what counts begins above a small event."""
    memory = Memory(16 * SMALL_EVENT)
    assert memory.take("small", SMALL_EVENT)
    memory.give_back("small", SMALL_EVENT)
    assert memory.used == 0
    share = SMALL_EVENT + 1, SMALL_EVENT - 1 + SMALL_EVENT
    memory = Memory(8 * sum(share))
    for owner in range(8):
        assert memory.take(owner, share[1])
    assert not memory.take(0, share[0] + 1)
    for owner in range(8):
        assert memory.take(owner, share[0])
    assert not memory.take("another", share[0])
    for owner in range(8):
        for size in share:
            memory.give_back(owner, size)
    assert memory.used == 0


@pytest.mark.gen_test
async def test_who_waits_for_memory_no_more_keeps_it_from_nobody() -> None:
    memory = Memory(2 * SMALL_EVENT)
    assert memory.take("one", 2 * SMALL_EVENT)
    gone, patient = (asyncio.create_task(memory.room()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait((gone,))
    memory.give_back("one", 2 * SMALL_EVENT)
    await asyncio.wait_for(patient, 20)
