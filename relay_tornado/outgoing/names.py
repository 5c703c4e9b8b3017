"""Resolves names to addresses, in threads beside the event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final, TypeAlias

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread

Socket: TypeAlias = tuple[int, Any]
"""An address family, and a socket address of that family."""

_LOOKUPS: Final = 32
"""Maximum number of concurrent look-ups."""
_LONGEST: Final = 60.0
"""Seconds after which a look-up is given up: for lack of memory, there may have been no answer, or no question."""


class Resolver:
    """Resolves names. Addresses, in whatever form, need no look-up."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_LOOKUPS)
        self._pending: dict[tuple[str, int], asyncio.Task[list[Socket]]] = {}

    async def resolve(self, host: str, port: int) -> list[Socket]:
        """All addresses of a host. Raises OSError."""
        try:
            return numeric(host, port)
        except socket.gaierror:
            pass
        # One look-up per name at a time. A name whose servers are slow, which may take half a minute, holds one thread,
        # not all. A process that ends does not wait for it, as it would for an executor's threads.
        pending = self._pending.get((host, port))
        if pending is None:
            pending = self._pending[host, port] = asyncio.create_task(self._look_up(host, port))
            pending.add_done_callback(lambda done: self._done(host, port, done))
        return await asyncio.shield(pending)

    async def _look_up(self, host: str, port: int) -> list[Socket]:
        try:
            async with self._turns, asyncio.timeout(_LONGEST):
                return await run_in_thread(partial(_lookup, host, port, 0))
        except RuntimeError:
            raise OSError(NO_THREAD) from None

    def _done(self, host: str, port: int, done: asyncio.Task[list[Socket]]) -> None:
        del self._pending[host, port]
        if not done.cancelled():
            done.exception()

    def close(self) -> None:
        """Cancels all look-ups."""
        for pending in self._pending.values():
            pending.cancel()


def numeric(host: str, port: int) -> list[Socket]:
    """The address of a host that is an address, without a look-up. Raises OSError if the host is a name."""
    return _lookup(host, port, socket.AI_NUMERICHOST)


def _lookup(host: str, port: int, flags: int) -> list[Socket]:
    found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags)
    return [(family, address) for family, _, _, _, address in found]
