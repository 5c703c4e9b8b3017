"""The pace at which stored events are replayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from relay_tornado.client.event import Event
from relay_tornado.client.waiting import first_of


@dataclass(frozen=True, slots=True)
class Pace:
    """`factor` times as fast as the events were received, or `rate` events a second; if neither, without pauses."""

    factor: float | None = None
    rate: float | None = None

    def gap(self, before: float | None, now: float | None) -> float:
        """Seconds between two events that were received at these unix times."""
        if self.rate is not None:
            return 1 / self.rate
        if self.factor is None or before is None or now is None:
            return 0.0
        return max(0.0, now - before) / self.factor


async def paced(
    events: AsyncIterator[Event],
    last: int,
    caught_up: asyncio.Event,
    pace: Pace,
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncGenerator[Event, None]:
    """The events up to this seq, at the given pace. Also ends when `caught_up` says that all stored events have come. A
    late event does not make later ones faster."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(caught_up.wait())
    due: float | None = None
    before: float | None = None
    try:
        while True:
            event = await first_of(anext(events, None), waiting)
            if event is None or event.seq > last:
                return
            if due is not None:
                due = max(due + pace.gap(before, event.received_at), loop.time())
                if due > loop.time():
                    await sleep(due - loop.time())
            else:
                due = loop.time()
            before = event.received_at
            yield event
            if event.seq == last:
                return
    finally:
        waiting.cancel()
