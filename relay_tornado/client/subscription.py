"""`subscribe`: the events of a relay's buckets as an asynchronous iterator that reconnects by itself."""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl as tls
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, assert_never

from relay_tornado.client.address import Address, parse_address
from relay_tornado.client.backoff import Backoff
from relay_tornado.client.checkpoint import Checkpoint, FileCheckpoint
from relay_tornado.client.core import Core, Ended
from relay_tornado.client.errors import RelayClientError
from relay_tornado.client.event import Event, EventData, Gap, Notice
from relay_tornado.client.link import log
from relay_tornado.client.options import MIB, OnGap, OnNotice, Options, Since, names
from relay_tornado.client.positions import Left, Passed

ANY_KEY = "whr"
"""The key with which only the secret is checked."""


def subscribe(
    url: str,
    key: str | None = None,
    secret: str = "",
    *,
    buckets: str | Iterable[str] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    since: Since = None,
    consumer: str | None = None,
    ack: Literal["explicit", "receipt"] | None = None,
    max_in_flight: int | None = None,
    ack_wait: float | None = None,
    max_deliver: int | None = None,
    filter: Mapping[str, Any] | None = None,
    max_body: int | None = None,
    outputs: Literal["all", "none"] = "all",
    on_gap: OnGap = None,
    on_notice: OnNotice = None,
    auto_done: bool = True,
    checkpoint_every: float = 0.0,
    extended: bool = True,
    ssl: tls.SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    backoff: Backoff | None = None,
    buffer: int = 8 * MIB,
    max_message: int = 64 * MIB,
    open_timeout: float = 20.0,
    idle_timeout: float = 70.0,
) -> Subscription:
    """The events of buckets as they arrive, from where this subscriber stopped.

    What to read:
    - `url`: the relay's, like https://relay.example.org, or its socket's, like wss://relay.example.org/v1/socket.
    - `key`, `secret`: a token's. Without a key only the secret is checked.
    - `buckets`: names or ids, or one name; none means every bucket that the token may read.
    - `since`: where to begin the first time: "latest" (the default), "earliest", an id, {"last": 10}, {"time": unix
      seconds}, or an object from bucket to one of these. An existing checkpoint takes precedence for its buckets.
    - `filter`: rules that events have to pass; `max_body`: bytes, a larger body is left out (`event.truncated`);
      `outputs`: "none" for each event once, whatever the outputs are. All as in docs/protocol.md.
    - `extended`: False for a service that speaks only the stock protocol. Nothing can be resumed there.

    How to keep the place, one of:
    - `checkpoint`: a file's path, or a `Checkpoint`. It moves past an event when the loop asks for the next one, or by
      `event.done()`; with `auto_done=False` only by `event.done()`, in any order. It is saved before the next event is
      returned, or, with `checkpoint_every` (seconds), at most that often: after a crash, that much may be repeated.
    - `consumer`: a name under which the relay keeps the place. `ack` is "explicit" (the default: `event.ack()`, several
      clients share the work) or "receipt". `max_in_flight` (events), `ack_wait` (seconds) and `max_deliver` (attempts)
      are as in docs/protocol.md.

    Callbacks:
    - `on_gap`: called with each `Gap`, in its place among the events (a coroutine is awaited), or "fail": GapRefused is
      raised there. Without it a gap is a warning in the log "relay_tornado.client".
    - `on_notice`: called with each `Notice` about the connection. Without it a missing bucket, and a relay that could
      not be reached yet, are warnings in that log.

    Connection:
    - `ssl`: a context instead of the default one; `proxy`: True for the environment's, None for none, or a URL.
    - `backoff`: the delays between connections; `idle_timeout`: seconds without a byte after which a connection counts
      as dead; `open_timeout`: seconds for each step of making one.
    - `buffer`: bytes read ahead of the application, plus one message; `max_message`: the largest message, in bytes.

    Raises ValueError if an argument is wrong, or two contradict each other. Nothing is connected until the first event
    is requested, or `async with` is entered. Iterating raises Refused, Rejected, Unreachable, NotExtended and
    CheckpointError.
    """
    place = FileCheckpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    options = Options(
        key=key or ANY_KEY,
        secret=secret,
        buckets=names(buckets),
        since=since,
        consumer=consumer,
        ack=ack,
        max_in_flight=max_in_flight,
        ack_wait=ack_wait,
        max_deliver=max_deliver,
        filter=filter,
        max_body=max_body,
        outputs=outputs,
        on_gap=on_gap,
        on_notice=on_notice,
        auto_done=auto_done,
        checkpoint_every=checkpoint_every,
        extended=extended,
        ssl=ssl,
        proxy=proxy,
        backoff=backoff or Backoff(),
        buffer=buffer,
        max_message=max_message,
        open_timeout=open_timeout,
        idle_timeout=idle_timeout,
    )
    options.check(place is not None)
    return Subscription(parse_address(url), options, place)


class Subscription:
    """An asynchronous iterator of events, made by `subscribe`. Only one task may iterate at a time.

    `async with` closes it at its end. If it is dropped without that, its connection is closed with it.
    """

    def __init__(self, address: Address, options: Options, checkpoint: Checkpoint | None) -> None:
        self._make = (address, options, checkpoint)
        self._options = options
        self._core: Core | None = None
        self._task: asyncio.Task[None] | None = None
        self._given: Event | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        if not self._closed:
            self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event, once there is one. Cancelling it loses nothing."""
        if self._closed:
            raise StopAsyncIteration
        core = self._start()
        given, self._given = self._given, None
        if given is not None and self._options.auto_done and not self._options.explicit:
            core.settle(given)
        await core.saved()
        while True:
            if not len(core.intake):
                # Saves the positions that were passed without an event, before a wait that may be long.
                await core.saved()
            item = await core.intake.first()
            match item:
                case EventData():
                    # Saves the starting point, too: after a crash in the first event, that event must come again.
                    await core.saved()
                    if core.intake.take(item) and not core.answered(item):
                        event = self._given = _event(item, core)
                        core.given(event)
                        return event
                case Passed():
                    core.intake.take(item)
                    core.reached(item)
                case Left():
                    core.intake.take(item)
                    core.left(item)
                case Gap():
                    await self._tell(item)
                    core.intake.take(item)
                case Notice():
                    core.notify(item)
                    core.intake.take(item)
                case Ended(error):
                    if self._closed:
                        raise StopAsyncIteration
                    # Each raise adds to the traceback, which would grow, and keep the application's frames.
                    raise error.with_traceback(None)
                case _:
                    assert_never(item)

    @property
    def ended(self) -> RelayClientError | None:
        """The error that the loop raises after everything read ahead; None while more events may come."""
        return None if self._core is None else self._core.over

    async def aclose(self) -> None:
        """Ends it; events that were not returned stay with the relay. Raises CheckpointError if saving fails."""
        self._closed = True
        if self._core is None:
            return
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._core.close()

    def __del__(self) -> None:
        task = self._task
        if task is None or task.done():
            return
        loop = task.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _start(self) -> Core:
        if self._core is None:
            self._core = Core(*self._make)
            self._task = asyncio.create_task(self._core.run(), name="relay client")
        return self._core

    async def _tell(self, gap: Gap) -> None:
        if not callable(self._options.on_gap):
            log.warning("%s", gap)
            return
        answer = self._options.on_gap(gap)
        if inspect.isawaitable(answer):
            await answer


def _event(data: EventData, core: Core) -> Event:
    fields = {name: getattr(data, name) for name in EventData.__dataclass_fields__}
    return Event(**fields, _handle=core)
