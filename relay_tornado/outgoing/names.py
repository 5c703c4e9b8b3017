"""Resolves names to addresses, in threads beside the event loop."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final, TypeAlias

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread
from relay_tornado.outgoing.lacks import check_descriptors

Socket: TypeAlias = tuple[int, Any]
"""An address family, and a socket address of that family."""

_LOOKUPS: Final = 32
"""Maximum number of concurrent look-ups; as many more of slow names."""
_SLOW: Final = 1.0
"""Seconds after which a look-up counts as slow."""
_MOST_SLOW: Final = 10_000
"""Maximum number of names that are remembered as slow."""
_LONGEST: Final = 60.0
"""Seconds after which a look-up is given up: for lack of memory, there may have been no answer, or no question."""


class Resolver:
    """Resolves names. Addresses, in whatever form, need no look-up. Slow names hold up no others: they have look-ups of
    their own."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_LOOKUPS)
        self._slow_turns = asyncio.Semaphore(_LOOKUPS)
        self._slow: dict[str, None] = {}
        """Names whose last look-up was slow."""
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
        turns = self._slow_turns if host in self._slow else self._turns
        await turns.acquire()
        try:
            async with asyncio.timeout(_LONGEST):
                found = run_in_thread(partial(_lookup, host, port, 0))
                try:
                    await asyncio.wait((found,), timeout=_SLOW)
                    self._note(host, slow=not found.done())
                    if not found.done() and turns is self._turns and not self._slow_turns.locked():
                        await self._slow_turns.acquire()  # does not wait
                        turns.release()
                        turns = self._slow_turns
                    return await found
                finally:
                    found.cancel()
        except TimeoutError:
            raise OSError(f"its name was not found within {_LONGEST:g} seconds") from None
        except RuntimeError:
            raise OSError(NO_THREAD) from None
        except socket.gaierror:
            check_descriptors()
            raise
        finally:
            turns.release()

    def _note(self, host: str, *, slow: bool) -> None:
        self._slow.pop(host, None)
        if slow:
            self._slow[host] = None
            if len(self._slow) > _MOST_SLOW:
                del self._slow[next(iter(self._slow))]

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
