"""The addresses that a name stands for, looked up beside the event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, TypeAlias

from relay_tornado.errors import NO_THREAD
from relay_tornado.rescue import begin_thread

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
        # One lookup of a name at a time: a name whose servers are slow holds one thread, not all.
        pending = self._pending.get((host, port))
        if pending is None:
            pending = self._pending[host, port] = asyncio.create_task(self._look_up(host, port))
            pending.add_done_callback(lambda done: self._done(host, port, done))
        return await asyncio.shield(pending)

    async def _look_up(self, host: str, port: int) -> list[Socket]:
        async with self._turns, asyncio.timeout(_LONGEST):
            return await _aside(host, port)

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


def _aside(host: str, port: int) -> asyncio.Future[list[Socket]]:
    """Looks a name up in a thread of its own: a process that ends waits for those of an executor, and whose servers are
    silent takes half a minute. Raises OSError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Socket]] = loop.create_future()

    def end(found: list[Socket] | Exception) -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look() -> None:
        found: list[Socket] | Exception
        try:
            found = _lookup(host, port, 0)
        except Exception as error:
            found = error
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(end, found)

    try:
        begin_thread(look)
    except RuntimeError:
        raise OSError(NO_THREAD) from None
    return answer


def _lookup(host: str, port: int, flags: int) -> list[Socket]:
    found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, flags)
    return [(family, address) for family, _, _, _, address in found]
