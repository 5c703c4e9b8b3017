"""relay_tornado/outgoing/names.py: a name whose answer never comes is looked up anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay_tornado.outgoing import names
from relay_tornado.outgoing.names import Resolver
from tests.waiting import until


@pytest.mark.gen_test
async def test_an_answer_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there was no memory to give it, whoever asks gets an error, and the next one an answer."""

    def lose(*arguments: Any) -> None:
        lost.append(arguments)
        raise MemoryError

    loop, lost = asyncio.get_running_loop(), list[Any]()
    resolver = Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(names, "_LONGEST", 0.05)
        patch.setattr(loop, "call_soon_threadsafe", lose)
        patch.setattr("sys.unraisablehook", lambda _: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.resolve("localhost", 80), 20)
        await until(lambda: bool(lost))  # the thread may be slower than that
    assert await resolver.resolve("localhost", 80)
    resolver.close()
