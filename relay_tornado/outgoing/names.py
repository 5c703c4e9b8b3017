"""The addresses that a name stands for, looked up beside the event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final, TypeAlias

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread

Socket: TypeAlias = tuple[int, Any]
"""An address family and a socket address of it."""

_LOOKUPS: Final = 32
"""Names that are looked up at once."""
_LONGEST: Final = 60.0
"""Seconds after which an answer is not waited for any more: there may have been no memory to give it, or to ask."""


class Resolver:
    """Looks names up; an address, in whatever form, is none."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_LOOKUPS)
        self._pending: dict[tuple[str, int], asyncio.Task[list[Socket]]] = {}

    async def resolve(self, host: str, port: int) -> list[Socket]:
        """Every address that the host stands for. Raises OSError."""
        try:
            return numeric(host, port)
        except socket.gaierror:
            pass
        # One lookup of a name at a time: a name whose servers are slow, which may take half a minute, holds one thread,
        # not all, and nobody who ends waits for it, as for those of an executor.
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
        """Looks up nothing more."""
        for pending in self._pending.values():
            pending.cancel()


def numeric(host: str, port: int) -> list[Socket]:
    """The address that a host is, without a look-up. Raises OSError where it is a name."""
    return _lookup(host, port, socket.AI_NUMERICHOST)


def _lookup(host: str, port: int, flags: int) -> list[Socket]:
    found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags)
    return [(family, address) for family, _, _, _, address in found]
