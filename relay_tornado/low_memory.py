"""What goes on where memory is short: tasks and timers that the event loop has lost, locks, threads, lines of the log.

asyncio makes some objects for each step of a task. Where one of them can't be made, the loop tells its exception
handler, and the task would stay for ever where it is, with whoever waits for it: the writer with everybody. Such a task
waits for nothing that is still to come, and has no place in the loop's queue; so it can be told from all others.

The same is so for what is to be called at a time, or in the next turn of the loop: a `Timer` knows when that was to be,
and whoever looks finds those that are late.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import sys
import types
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import structlog

T = TypeVar("T")

RETRY_DELAY: Final = 1.0
"""Seconds until something is done again for which there was no memory."""

_LATE: Final = 1.0
"""So many seconds late, and the loop has lost it, or is about to call it."""

Lost: TypeAlias = dict[asyncio.Task[Any], object]
"""Tasks, and what each of them is at."""

_looks: Final[list[Lost]] = []
"""What was found, and is still to be looked at once more."""

_log = structlog.get_logger(__name__)


class Timer:
    """Calls a step once, at a time that is set, or in the next turn of the loop. A step that there is no memory for, to
    have it called or within it, is called again a moment later: it may be repeated.

    `at` is when it is due, by the loop's clock; None where it is not set.
    """

    __slots__ = ("_handle", "_loop", "_step", "at")

    _armed: Final[dict[Timer, None]] = {}
    """Those that are set, whatever the loop knows of them."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._handle: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.at: float | None = None

    def set(self, at: float) -> None:
        """At this time and no other, by the clock of the running loop."""
        loop = self._arm(at)
        try:
            self._handle = loop.call_at(at, self._over)
        except MemoryError:
            self._lack(loop)

    def after(self, seconds: float) -> None:
        """So many seconds from now, and at no other time."""
        self.set(asyncio.get_running_loop().time() + seconds)

    def soon(self) -> None:
        """In the next turn of the running loop, and at no other time."""
        loop = self._arm(asyncio.get_running_loop().time())
        try:
            self._handle = loop.call_soon(self._over)
        except MemoryError:
            self._lack(loop)

    def cancel(self) -> None:
        """It is not called. May be repeated."""
        self.at = None
        self._forget()
        self._armed.pop(self, None)

    @classmethod
    def look(cls) -> None:
        """Calls those of the running loop that are late."""
        loop = asyncio.get_running_loop()
        late = loop.time() - _LATE
        for timer in [each for each in cls._armed if each._loop is loop]:
            if timer.at is not None and timer.at < late:
                timer._forget()
                try:
                    timer._over()
                except Exception:
                    try_log(_log.exception, "timer_failed")

    def _arm(self, at: float) -> asyncio.AbstractEventLoop:
        self._armed[self] = None
        self._forget()
        self._loop, self.at = asyncio.get_running_loop(), at
        return self._loop

    def _lack(self, loop: asyncio.AbstractEventLoop) -> None:
        """In an `except`. Has it looked for, by those who look for others, too, which may be lost themselves."""
        try_log(_log.exception, "timer_not_set")
        with suppress(MemoryError):
            loop.call_soon(Timer.look)

    def _forget(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _over(self) -> None:
        at, self.at, self._handle = self.at, None, None
        try:
            self._step()
        except MemoryError:
            if self in self._armed and self.at is None:
                self.at = at
            raise
        finally:
            if self.at is None:
                self._armed.pop(self, None)


def watch_timers() -> Timer:
    """Looks once a second for timers of the running loop that are late, until the one that is returned is cancelled."""

    def look() -> None:
        rounds.after(RETRY_DELAY)
        if rounds._handle is None:  # nobody would look whether this one is late
            rounds.soon()
        Timer.look()

    rounds = Timer(look)
    rounds.after(RETRY_DELAY)
    return rounds


def exception_handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: the default one, which has tasks looked for that were lost."""
    if _tells_of_want(context.get("exception")):
        loop.call_soon(_look, loop)
    with suppress(MemoryError):  # there may be none for words
        loop.default_exception_handler(context)


class LogWatch(logging.Handler):
    """Has the loop look for lost tasks where a want of memory is logged: what it kept from its end may have been waking
    one, in a library's code, and the loop hears of no exception that somebody catches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.ERROR)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        told: Any = record.msg.get("exc_info") if isinstance(record.msg, dict) else record.exc_info
        error = sys.exception() if told is True else told[1] if isinstance(told, tuple) else told
        with suppress(MemoryError, RuntimeError):  # the loop may have ended
            if _tells_of_want(error or None):
                self._loop.call_soon_threadsafe(_look, self._loop)


def wake(future: asyncio.Future[T], outcome: T | BaseException) -> None:
    """Has who waits for the future go on with a result or an error, also where there is no memory for that at first.
    Raises MemoryError then."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except MemoryError as error:
        future.get_loop().call_exception_handler({"message": "a task was not woken", "exception": error})
        raise


class Lock(asyncio.Lock):
    """One that whoever waits for it gets, also where there is no memory to wake him at first."""

    def release(self) -> None:
        try:
            super().release()
        except MemoryError as error:
            asyncio.get_running_loop().call_exception_handler({"message": "a task was not woken", "exception": error})
            if self.locked():  # there was none for the call
                Timer(self.release).after(RETRY_DELAY)
            else:
                # There may have been none to find out who waits; and behind him all others would wait.
                retry_until_done(self._wake_up_first)  # type: ignore[attr-defined]

    def __aexit__(self, kind: object, error: object, traceback: object) -> Coroutine[Any, Any, None]:
        # Before a coroutine is made, for which there may be no memory, as for a tuple of what is given here.
        self.release()
        return _nothing()


async def _nothing() -> None: ...


def retry_until_done(step: Callable[..., Any], *arguments: Any) -> None:
    """Does what may be repeated, and does it again a moment later where there is no memory for it."""
    try:
        step(*arguments)
    except MemoryError:
        Timer(partial(retry_until_done, step, *arguments)).after(RETRY_DELAY)
        try_log(_log.exception, "done_again")


def begin_thread(work: Callable[[], object]) -> None:
    """Begins a thread that ends with the process at the latest. Whoever starts a `threading.Thread` waits until it
    runs, and for ever where there is no memory for that. Raises RuntimeError where there is no thread to be had."""
    _thread.start_new_thread(work, ())


def run_in_thread(work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> asyncio.Future[T]:
    """Does work that blocks in a thread of its own; what comes of it once nobody waits any more is dropped. Where
    memory is short nothing may come: wait for a while. Raises RuntimeError where there is no thread to be had."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def end(found: T) -> None:
        if done.done():
            drop(found)
        else:
            done.set_result(found)

    def fail(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        step: Callable[[], object]
        try:
            step = partial(end, work())
        except Exception as error:
            step = partial(fail, error)
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(step)

    begin_thread(run)
    return done


def try_log(log: Callable[..., Any], event: str, **what: Any) -> None:
    """Logs it, where there is memory for words."""
    with suppress(MemoryError):
        log(event, **what)


def _tells_of_want(error: BaseException | None) -> bool:
    """Whether memory was short, also where that was met and something else failed over it."""
    while error is not None and not isinstance(error, MemoryError | SystemError):
        error = error.__context__
    return error is not None


def _look(loop: asyncio.AbstractEventLoop) -> None:
    Timer.look()
    found = {task: _at(task) for task in asyncio.all_tasks(loop) if _waits_for_nothing(task)}
    # Whoever of them is in the loop's queue now has its turn before this.
    loop.call_soon(_revive, loop, found)
    _looks.append(found)


def _revive(loop: asyncio.AbstractEventLoop, found: Lost) -> None:
    _looks[:] = [each for each in _looks if each is not found]
    for task, before in found.items():
        if before is not None and not task.done() and _waits_for_nothing(task) and _at(task) is before:
            _schedule(loop, task)
            for others in _looks:  # one that has two steps in the queue takes both, and each time from then on
                others.pop(task, None)


def _waits_for_nothing(task: asyncio.Task[Any]) -> bool:
    waits_for: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]
    return waits_for is None or waits_for.done()


def _at(task: asyncio.Task[Any]) -> object:
    """What the task awaits, which is another object after its next step; None where that can't be said."""
    at: Any = task.get_coro()
    while (inner := getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)) is not None:
        at = inner
    sleeps = isinstance(at, types.GeneratorType) and at.gi_code.co_name == "__sleep0"
    return at if sleeps or isinstance(at, types.CoroutineType) or type(at).__name__ == "FutureIter" else None


def _schedule(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Begins the same task anew where its coroutine is: nothing public schedules a step."""
    callbacks = task._callbacks or ()
    cancelled = task.cancelling()
    asyncio.Task.__init__(task, task.get_coro(), loop=loop, name=task.get_name())
    for callback, where in callbacks:
        task.add_done_callback(callback, context=where)
    if cancelled:
        task.cancel()
    try_log(_log.warning, "task_rescued", task=task.get_name())
