"""A relay in which one allocation of Python's fails, the n-th from when it is told so.

`python -m tests.faults.starved serve …` is `relay serve …` that obeys what comes over a socket, whose descriptor is in
the variable STARVED: n is to fail, or the failing is over (`OVER`). Each is answered once it is so; to the second with
whether the failure has come (`CAME`). Who acknowledges by receipt is asked every INTERVAL seconds.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import asyncio
import os
import socket
from itertools import repeat
from typing import Any

from relay_tornado.cli import entry, serve
from relay_tornado.delivery import receipts

OVER = b"over"
ARMED = b"armed"
CAME = b"came"
NOT_YET = b"not yet"

_run = serve._run


async def _run_starved(*arguments: Any) -> None:
    channel = socket.socket(fileno=int(os.environ.pop("STARVED")))
    heard = bytearray(16)
    left = 0

    def obey() -> None:
        nonlocal left
        size = channel.recv_into(heard)
        if not size:  # whoever tells it what to do is gone
            os._exit(1)
        if heard.startswith(OVER):
            channel.send(_over(left))
            return
        left = int(heard[:size])
        channel.send(ARMED)
        _testcapi.set_nomemory(left, left + 1)

    asyncio.get_running_loop().add_reader(channel, obey)
    await _run(*arguments)


def _over(most: int) -> bytes:
    """Whether one of the last allocations has failed, of which there were at most so many more."""
    try:
        for _ in repeat(None, most + 1):
            bytes(600)
    except MemoryError:
        return NOT_YET
    finally:
        _testcapi.remove_mem_hooks()
    return CAME


if __name__ == "__main__":
    receipts.INTERVAL = float(os.environ.pop("INTERVAL"))  # type: ignore[misc]
    serve._run = _run_starved  # type: ignore[assignment]
    entry.main()
