"""A start's checks that block, on a thread of their own: the event loop hears a stop meanwhile, and ends them."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Generic, TypeVar

from relay_tornado.errors import NO_THREAD
from relay_tornado.low_memory import run_in_thread

T = TypeVar("T")

_AGAIN: Final = 0.02
"""Seconds between two interrupts of a statement: one that comes before the statement begins has no effect."""

_LOOK: Final = 1.0
"""Seconds between two looks at a thread that has not told its end."""

_LOST: Final = 10.0
"""Seconds after which a thread that is not at work, and has told no end, counts as lost."""


class Halted(Exception):
    """The work ended early: nobody waits for it any more."""


class Halt:
    """Whether a start was stopped: told in the event loop, and read by the work on the thread."""

    def __init__(self) -> None:
        self._halted = False
        self._raw: sqlite3.Connection | None = None

    def halted(self) -> bool:
        return self._halted

    def set(self) -> None:
        self._halted = True

    def check(self) -> None:
        """Raises Halted if the start was stopped. For work that has not changed anything yet, or can undo it."""
        if self._halted:
            raise Halted

    @contextmanager
    def interrupting(self, raw: sqlite3.Connection) -> Iterator[None]:
        """Meanwhile a stop interrupts the statement that this connection runs, which raises
        sqlite3.OperationalError."""
        self._raw = raw
        try:
            yield
        finally:
            self._raw = None

    async def run(self, work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> T:
        """Does the work on a thread of its own, and returns or raises what it does; OSError if no thread can be
        started, or it can't tell its end for lack of memory. A cancelled caller waits until the work has ended, also if
        it is cancelled again, so that nothing is still done when the lock is released; `drop` gets the result that it
        has all the same."""
        thread = _Thread(work)
        try:
            running = run_in_thread(thread)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, NO_THREAD) from error
        try:
            await self._ended(running, thread, _LOOK)
        except asyncio.CancelledError:
            self.set()
            ended = False
            while not ended:
                with suppress(asyncio.CancelledError):
                    with suppress(OSError):
                        await self._ended(running, thread, _AGAIN)
                    ended = True
            if running.done() and running.exception() is None:
                drop(running.result())
            raise
        return running.result()

    async def _ended(self, running: asyncio.Future[T], thread: _Thread[T], every: float) -> None:
        """Waits for the work's end. Raises OSError if the thread is lost."""
        idle = 0.0
        while not running.done():
            self._interrupt()
            await asyncio.wait([running], timeout=every)
            idle = 0.0 if thread.working else idle + every
            if idle >= _LOST and not running.done() and thread.is_lost():
                raise OSError(errno.EAGAIN, NO_THREAD)

    def _interrupt(self) -> None:
        if self._halted and (raw := self._raw) is not None:
            with suppress(sqlite3.ProgrammingError):  # it was closed just now
                raw.interrupt()


class _Thread(Generic[T]):
    """The work of a thread. It says itself whether it is done: without memory, the event loop is never told."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.working = False
        self._work = work
        self._lost = False

    def __call__(self) -> T:
        self.working = True  # first: `is_lost` looks the other way round
        try:
            if self._lost:
                raise Halted
            return self._work()
        finally:
            self.working = False

    def is_lost(self) -> bool:
        """Whether it is not at work. Then it does nothing any more, should it begin later."""
        self._lost = True
        return not self.working
