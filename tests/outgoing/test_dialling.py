"""relay_tornado/outgoing/dialling.py, on the loops of asyncio and of uvloop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay_tornado.outgoing.dialling import connect
from tests.needs import uvloops
from tests.ports import silent


def descriptors() -> int:
    """How many descriptors are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloops])
def test_connections(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Of several addresses the one that answers counts; what is refused says so. Neither those that were tried in vain
    nor one that nobody waits for any more leaves a socket, or a look at one, whose number the next one has."""

    async def check(port: int) -> None:
        good, refusing, mute = [(socket.AF_INET, (f"127.0.0.{last}", port)) for last in (1, 2, 3)]
        before = descriptors()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await connect([refusing])
            waiting = asyncio.ensure_future(connect([mute]))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for addresses in ([good], [refusing, good], [mute, good]):
                with await connect(addresses) as made:
                    assert made.getpeername() == good[1]
        assert descriptors() <= before  # less where another test's leave meanwhile

    with asyncio.Runner(loop_factory=loop) as runner, ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        stack.enter_context(silent("127.0.0.3", port))
        runner.run(asyncio.wait_for(check(port), 20))
