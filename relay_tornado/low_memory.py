"""What goes on if memory is short: restarts tasks and timers that the event loop lost because there was no memory for
their next step; locks, threads and log lines that survive it.

asyncio creates objects for each step of a task. If one can't be created, the loop calls its exception handler, and the
task would stay where it is for ever, and with it everything that waits for it: for the writer, that is everything. A
lost task waits for nothing that is still to come, and is not in the loop's queue, so it can be told from all others.

The same can happen to a callback for a time or for the loop's next turn. A `Timer` knows when it is due, so that late
ones can be found.

Some memory is kept in reserve for the loop to read which signal came, which takes 64 KiB of uvloop: without them it
would try again without a pause, and never learn that it is to stop.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import sys
import time
import types
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import structlog

T = TypeVar("T")

RETRY_DELAY: Final = 1.0
"""Seconds until a step that failed for lack of memory is repeated."""

_LATE: Final = 1.0
"""Seconds after which a timer counts as lost; at worst, the loop is just about to call it."""

_RESERVE: Final = 1 << 20
"""Bytes kept in reserve: a block of its own, which the C library returns to the system."""
_BREATH: Final = 0.01
"""Seconds for which the loop rests if memory is short: what fails may be tried again at once, and other threads may
free some."""
_SIGNALS: Final = "_read_from_self"
"""What both loops call the callback that reads which signal came."""

_reserve: Final[list[bytearray]] = []

Lost: TypeAlias = dict[asyncio.Task[Any], object]
"""Tasks, and what each of them is awaiting."""

_looks: Final[list[Lost]] = []
"""Tasks that were found, and are to be looked at once more."""

_log = structlog.get_logger(__name__)


class Timer:
    """Calls a step once, at a given time or in the loop's next turn. If memory is short for the call or within the
    step, the step is called again a moment later, so it must be repeatable.

    `at` is when it is due, by the loop's clock; None if it is not set.
    """

    __slots__ = ("_handle", "_loop", "_step", "at")

    _armed: Final[dict[Timer, None]] = {}
    """The timers that are set, whether the loop knows them or not."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._handle: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.at: float | None = None

    def set(self, at: float) -> None:
        """Sets the time, by the running loop's clock; replaces an earlier one."""
        loop = self._arm(at)
        try:
            self._handle = loop.call_at(at, self._over)
        except MemoryError:
            self._lack(loop)

    def after(self, seconds: float) -> None:
        """Sets the time to `seconds` from now; replaces an earlier one."""
        self.set(asyncio.get_running_loop().time() + seconds)

    def soon(self) -> None:
        """Has the step called in the running loop's next turn; replaces an earlier time."""
        loop = self._arm(asyncio.get_running_loop().time())
        try:
            self._handle = loop.call_soon(self._over)
        except MemoryError:
            self._lack(loop)

    def cancel(self) -> None:
        """Unsets it. May be repeated."""
        self.at = None
        self._forget()
        self._armed.pop(self, None)

    @classmethod
    def look(cls) -> None:
        """Calls the running loop's late timers."""
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
        """In an `except`: has late timers looked for, as the regular look is a timer that may be lost itself."""
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
    """Keeps the reserve, and calls late timers of the running loop once a second, until the returned timer is
    cancelled."""

    def look() -> None:
        _keep_reserve()
        rounds.after(RETRY_DELAY)
        if rounds._handle is None:  # nobody else would notice that this one is late
            rounds.soon()
        Timer.look()

    _keep_reserve()
    rounds = Timer(look)
    rounds.after(RETRY_DELAY)
    return rounds


def _keep_reserve() -> None:
    if not _reserve:
        with suppress(MemoryError):
            _reserve.append(bytearray(_RESERVE))


def exception_handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: the default one. If memory is short, it first has lost tasks searched for, and if
    that keeps the loop from reading which signal came, it gives up the reserve: whatever else failed would take it."""
    if _tells_of_want(context.get("exception")):
        if _reserve and _SIGNALS in context.get("message", ""):
            _reserve.clear()
        else:
            time.sleep(_BREATH)
        loop.call_soon(_look, loop)
    with suppress(MemoryError):  # there may be none for the message
        loop.default_exception_handler(context)


class LogWatch(logging.Handler):
    """Has the loop search for lost tasks when a lack of memory is logged. It may have hit the wake-up of a task in a
    library's code, and the loop is not told of exceptions that somebody catches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.ERROR)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        told: Any = record.msg.get("exc_info") if isinstance(record.msg, dict) else record.exc_info
        error = sys.exception() if told is True else told[1] if isinstance(told, tuple) else told
        with suppress(MemoryError, RuntimeError):  # the loop may be closed
            if _tells_of_want(error or None):
                self._loop.call_soon_threadsafe(_look, self._loop)


def wake(future: asyncio.Future[T], outcome: T | BaseException) -> None:
    """Sets a future's result or error. If memory is short, the waiting task is woken later, and MemoryError is
    raised."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except MemoryError as error:
        future.get_loop().call_exception_handler({"message": "a task was not woken", "exception": error})
        raise


class Lock(asyncio.Lock):
    """A lock that its waiter gets even if there is no memory to wake it at first."""

    def release(self) -> None:
        try:
            super().release()
        except MemoryError as error:
            asyncio.get_running_loop().call_exception_handler({"message": "a task was not woken", "exception": error})
            if self.locked():  # there was no memory for the call itself
                Timer(self.release).after(RETRY_DELAY)
            else:
                # There may have been no memory to find the waiter, and all others would wait behind it.
                retry_until_done(self._wake_up_first)  # type: ignore[attr-defined]

    def __aexit__(self, kind: object, error: object, traceback: object) -> Coroutine[Any, Any, None]:
        # Released first: there may be no memory for a coroutine, or for a tuple of the arguments.
        self.release()
        return _nothing()


async def _nothing() -> None: ...


def retry_until_done(step: Callable[..., Any], *arguments: Any) -> None:
    """Does a repeatable step, and repeats it a moment later if there is no memory for it."""
    try:
        step(*arguments)
    except MemoryError:
        Timer(partial(retry_until_done, step, *arguments)).after(RETRY_DELAY)
        try_log(_log.exception, "done_again")


def begin_thread(work: Callable[[], object]) -> None:
    """Starts a thread that ends with the process at the latest. (`threading.Thread.start` waits until the thread runs,
    for ever if there is no memory for that.) Raises RuntimeError if no thread can be started."""
    _thread.start_new_thread(work, ())


def run_in_thread(work: Callable[[], T], drop: Callable[[T], object] = lambda _: None) -> asyncio.Future[T]:
    """Does blocking work in a thread of its own. If nobody waits any more, its result is passed to `drop`. If memory is
    short, the future may never be done: wait with a timeout. Raises RuntimeError if no thread can be started."""
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
        found: list[T] = []
        try:
            found.append(work())
            step = partial(end, found[0])
        except Exception as error:
            step = partial(fail, error)
        try:
            loop.call_soon_threadsafe(step)
        except RuntimeError:  # the loop is closed by now
            for result in found:
                drop(result)

    begin_thread(run)
    return done


def try_log(log: Callable[..., Any], event: str, **what: Any) -> None:
    """Logs, if there is memory for it."""
    with suppress(MemoryError):
        log(event, **what)


def _tells_of_want(error: BaseException | None) -> bool:
    """Whether memory was short, also if that caused another error."""
    while error is not None and not isinstance(error, MemoryError | SystemError):
        error = error.__context__
    return error is not None


def _look(loop: asyncio.AbstractEventLoop) -> None:
    Timer.look()
    found = {task: _at(task) for task in asyncio.all_tasks(loop) if _waits_for_nothing(task)}
    # Tasks that are in the loop's queue now have their turn before this.
    loop.call_soon(_revive, loop, found)
    _looks.append(found)


def _revive(loop: asyncio.AbstractEventLoop, found: Lost) -> None:
    _looks[:] = [each for each in _looks if each is not found]
    for task, before in found.items():
        if before is not None and not task.done() and _at(task) is before:
            _schedule(loop, task)
            for others in _looks:  # a task with two steps in the queue would take both, now and every time from then on
                others.pop(task, None)


def _waits_for_nothing(task: asyncio.Task[Any]) -> bool:
    waits_for: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]
    return waits_for is None or waits_for.done()


def _at(task: asyncio.Task[Any]) -> object:
    """What the task is awaiting, which is another object after its next step; None if that is unknown."""
    at: Any = task.get_coro()
    while (inner := getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)) is not None:
        at = inner
    sleeps = isinstance(at, types.GeneratorType) and at.gi_code.co_name == "__sleep0"
    return at if sleeps or isinstance(at, types.CoroutineType) or type(at).__name__ == "FutureIter" else None


def _schedule(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Reinitialises the task with the same coroutine, as nothing public schedules a step."""
    callbacks = task._callbacks or ()
    cancelled = task.cancelling()
    asyncio.Task.__init__(task, task.get_coro(), loop=loop, name=task.get_name())
    for callback, where in callbacks:
        task.add_done_callback(callback, context=where)
    if cancelled:
        task.cancel()
    try_log(_log.warning, "task_rescued", task=task.get_name())
