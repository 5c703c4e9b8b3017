"""The client without asyncio: `subscribe` is a context manager and an iterator, with a loop in a thread of its own.

with subscribe(url, key, secret, buckets=["orders"], checkpoint="orders.checkpoint") as events:
    for event in events:
        handle(event.json())
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, ParamSpec, Self, TypeVar

from relay_tornado.client import subscription
from relay_tornado.client.errors import RelayClientError
from relay_tornado.client.event import AnswerHeaders, EventData
from relay_tornado.client.event import Event as AsyncEvent

T = TypeVar("T")
P = ParamSpec("P")

_LOOK: Final = 0.5
"""Seconds after which a waiting thread checks for interrupts: one that comes just when a wait begins, or that the
system delivers to another thread, wakes nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(EventData):
    """An event with methods to answer and acknowledge it: those of the asynchronous `Event`, but blocking."""

    _event: AsyncEvent = field(repr=False, compare=False)
    _loop: _Loop = field(repr=False, compare=False)

    def respond(
        self, status: int = 200, body: bytes | str = b"", headers: AnswerHeaders | None = None, *, timeout: float = 30.0
    ) -> None:
        """Sends the application's answer. Raises Rejected and TimeoutError."""
        self._loop.run(lambda: self._event.respond(status, body, headers, timeout=timeout))

    def ack(self, *, everything: bool = False) -> None:
        """Acknowledges the event to the consumer."""
        self._loop.run(lambda: self._event.ack(everything=everything))

    def nak(self, delay: float | None = None) -> None:
        """Returns the event to the consumer."""
        self._loop.run(lambda: self._event.nak(delay))

    def done(self) -> None:
        """Marks the event as done. Raises CheckpointError."""
        self._loop.run(self._event.done)


class Subscription:
    """An iterator of events. Use it with `with`, or call `close`: it owns a thread and a connection."""

    def __init__(self, inner: subscription.Subscription) -> None:
        self._inner = inner
        self._loop: _Loop | None = None
        self._asked: _Answer[AsyncEvent | None] | None = None
        self._taken: _Answer[AsyncEvent | None] | None = None
        self._closed = False

    def __enter__(self) -> Self:
        if not self._closed:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event, once there is one. An interrupt (Ctrl-C) loses nothing."""
        self._taken = None
        try:
            event = self.next()
            if event is None:
                raise StopIteration
            return event
        except KeyboardInterrupt:
            self._asked = self._asked or self._taken
            raise

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None once the subscription is closed. Raises TimeoutError after `timeout` seconds."""
        try:
            loop = self._start()
            # An answer that is pending after a time-out or an interrupt is for the next call.
            asked = self._asked = self._asked or _Answer(lambda: _next(self._inner))
            loop.begin(asked)
            asked.wait(timeout)
            event = self._told(asked)
        except _Closed:
            if self._closed:
                return None
            raise
        made = None
        if event is not None:
            fields = {name: getattr(event, name) for name in EventData.__dataclass_fields__}
            made = Event(**fields, _event=event, _loop=loop)
        self._taken, self._asked = asked, None
        return made

    def _told(self, asked: _Answer[T]) -> T:
        try:
            return asked.result()
        except Exception:
            # An error is raised once, as in the asynchronous client: the next call asks again.
            self._asked = None
            raise

    def close(self) -> None:
        """Ends it; may also be called from another thread. Raises CheckpointError."""
        loop = self._loop
        if loop is not None:
            loop.must_be_elsewhere()
        self._closed = True
        loop, self._loop = self._loop, None
        if loop is None or not loop.runs:
            return
        try:
            with suppress(_Closed):  # another thread closes it, too
                loop.run(self._inner.aclose)
        finally:
            loop.close()

    def _start(self) -> _Loop:
        """Returns the loop, started if necessary. Raises _Closed."""
        loop = self._loop
        if loop is None and not self._closed:
            loop = self._loop = _Loop()
            # A concurrent `close` either sees the loop, or its flag is seen here.
            if self._is_closed():
                self.close()
            loop.run(self._inner.__aenter__)
        if loop is None:
            raise _Closed
        return loop

    def _is_closed(self) -> bool:
        return self._closed


async def _next(inner: subscription.Subscription) -> AsyncEvent | None:
    return await anext(inner, None)


class _Answer(Generic[T]):
    """The outcome of a coroutine in the loop's thread.

    A waiting thread may be interrupted (Ctrl-C) between any two steps of Python, even after taking a lock and before
    releasing it, as in `concurrent.futures` and `threading`. So the two threads share no such lock, and the loop never
    waits for the other thread.
    """

    def __init__(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._outcome: Callable[[], T] | None = None
        self._bell: SimpleQueue[None] = SimpleQueue()

    @property
    def known(self) -> bool:
        return self._outcome is not None

    def wait(self, timeout: float | None) -> None:
        """Returns once the outcome is known. Raises TimeoutError after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.known:
            left = _LOOK if end is None else end - time.monotonic()
            with suppress(Empty):
                self._bell.get(timeout=max(min(left, _LOOK), 0))
            if left <= 0 and not self.known:
                raise TimeoutError

    def result(self) -> T:
        """The outcome, which must be known. Raises the coroutine's error."""
        assert self._outcome is not None
        return self._outcome()

    # called in the loop's thread

    def begin(self, done: Callable[[_Answer[T]], None]) -> None:
        """Starts the coroutine, unless it was started. Calls `done` once the outcome is known."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._coroutine())
            self._task.add_done_callback(lambda task: self.tell(_refuse if task.cancelled() else task.result))
            self._task.add_done_callback(lambda _: done(self))
        elif self.known:
            done(self)  # it became known while this call was on its way

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def tell(self, outcome: Callable[[], T]) -> None:
        self._outcome = outcome
        self._bell.put(None)


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open: set[_Answer[Any]] = set()
        self._process = os.getpid()
        # A daemon, so that a program that forgets to close can end.
        self._thread = threading.Thread(target=self._serve, name="relay client", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether its thread is in this process: a forked child has none."""
        return os.getpid() == self._process

    def must_be_elsewhere(self) -> None:
        """Raises RelayClientError if called in the loop's thread, which would wait for itself."""
        if self.runs and threading.get_ident() == self._thread.ident:
            raise RelayClientError("a callback of the client can't wait for it: do this where the events are read")

    def begin(self, answer: _Answer[Any]) -> None:
        """Starts it in the loop, unless it was started. Raises RelayClientError if the loop is closed, and in its
        thread."""
        self.must_be_elsewhere()
        if answer.known:
            return
        if not self.runs:
            raise _Closed
        self._open.add(answer)
        try:
            self._loop.call_soon_threadsafe(answer.begin, self._open.discard)
        except RuntimeError:
            raise _Closed from None

    def run(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs it in the loop and returns its result. If the wait is interrupted, it is cancelled."""
        answer = _Answer(coroutine)
        try:
            self.begin(answer)
            answer.wait(None)
            return answer.result()
        finally:
            if not answer.known:
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(answer.cancel)

    def close(self) -> None:
        with suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            # Threads that still wait get an outcome.
            self._loop.run_until_complete(self._drain())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            for answer in list(self._open):
                answer.tell(_refuse)

    async def _drain(self) -> None:
        await asyncio.sleep(0)  # starts what was handed over just before
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Closed(RelayClientError):
    """The loop has ended, or has no thread in this process."""

    def __init__(self) -> None:
        super().__init__("the subscription is closed")


def _refuse() -> NoReturn:
    raise _Closed


def _blocking(function: Callable[P, subscription.Subscription]) -> Callable[P, Subscription]:
    @functools.wraps(function)
    def blocking(*arguments: P.args, **options: P.kwargs) -> Subscription:
        return Subscription(function(*arguments, **options))

    return blocking


subscribe = _blocking(subscription.subscribe)
"""As `relay_tornado.client.subscribe`, with the same arguments. Callbacks run in the loop's thread."""
