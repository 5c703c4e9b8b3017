"""relay_tornado/forwarding/bounds.py: what all outputs share goes to whoever has a use for it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from relay_tornado.forwarding.bounds import Slots


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
