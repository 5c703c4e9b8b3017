"""relay_tornado/low_memory.py: work in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from relay_tornado.low_memory import run_in_thread
from tests.waiting import until

pytestmark = pytest.mark.gen_test


async def test_work_in_a_thread_of_its_own() -> None:
    """What it returns or raises comes back, or is dropped where nobody waits any more."""
    assert await run_in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)
    may = threading.Event()
    dropped: list[int] = []

    def late() -> int:
        may.wait(60)
        return 8

    waiting = run_in_thread(late, dropped.append)
    failing = run_in_thread(lambda: late() // 0)
    waiting.cancel()
    failing.cancel()
    may.set()
    await until(lambda: dropped == [8])


async def test_work_that_outlives_its_loop() -> None:
    """What it returns is dropped then too."""
    may = threading.Event()
    dropped: list[bool] = []

    async def begins() -> None:
        run_in_thread(lambda: may.wait(60), dropped.append)

    await asyncio.to_thread(asyncio.run, begins())
    may.set()
    await until(lambda: dropped == [True])
