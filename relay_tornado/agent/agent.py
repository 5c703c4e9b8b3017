"""The agent's loop: takes events and sends requests, in order or N at once, repeating each until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from relay_tornado.agent.request import NoDestination, Request, Shape, Unsendable
from relay_tornado.agent.target import Answer, Target, Trouble
from relay_tornado.client.backoff import Backoff
from relay_tornado.client.event import Event
from relay_tornado.client.waiting import first_of

UNANSWERED: Final = 256
"""Maximum number of events that the target has answered and whose answers are not stored in the relay yet."""

GRACE: Final = 5.0
"""Seconds in which an answer has to reach the relay after the agent was told to stop."""

Verdict: TypeAlias = Literal["delivered", "refused", "failed"]
"""delivered: the target answered 2xx or 3xx. refused: it answered another final status. failed: it did not answer, or
only with statuses that are retried, in all tries."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final result of an event. `seconds` is the duration of the last try; `request` is None if none could be
    made."""

    verdict: Verdict
    result: Answer | Trouble
    tries: int
    seconds: float
    request: Request | None


class Observer(Protocol):
    """Observes tries and results."""

    def retrying(self, event: Event, request: Request, result: Answer | Trouble, tries: int, wait: float) -> None:
        """A try failed, and the next one follows in `wait` seconds. `tries` counts each, also if this machine had no
        means."""

    def ended(self, event: Event, outcome: Outcome) -> None:
        """The event has its final result."""


Respond: TypeAlias = Callable[[Event, Outcome], Awaitable[None]]
"""Returns an answer to the relay. It raises nothing, and reports failures itself."""


class Agent:
    """Sends the events of a subscription to a target.

    With `concurrency` 1 they stay in order: the next one begins when the previous one has ended. With `max_tries` None
    tries are unlimited. An event is done when it has its final result and `respond` (None: no answers are returned) has
    ended. The events come from a subscription with `auto_done=False`, which stores what is done. With `hold`, an event
    whose output has no destination ends the run (see `held`) and is not done; otherwise it fails.
    """

    def __init__(
        self,
        target: Target,
        shape: Shape,
        observer: Observer,
        *,
        concurrency: int = 1,
        max_tries: int | None = None,
        backoff: Backoff | None = None,
        respond: Respond | None = None,
        output: str | None = None,
        hold: bool = False,
    ) -> None:
        self._target = target
        self._shape = shape
        self._observer = observer
        self._max_tries = max_tries
        self.backoff = backoff or Backoff()
        self._respond = respond
        self._output = output
        self._hold = hold
        self.held: tuple[Event, Trouble] | None = None
        """The event that ended the run because it has no destination, and why."""
        self._concurrency = concurrency
        self.stopping = False
        """Whether `stop` was called."""
        self._answering: set[asyncio.Timeout] = set()
        # Set by `stop`, and when an event is held.
        self._ending = asyncio.Event()
        self.open = 0
        """The number of events that were begun and are not done."""

    def stop(self) -> None:
        """Begins nothing more. A try in progress is waited for, and each answer on its way to the relay for `GRACE`
        seconds. Events that wait for their next try, or for an unreachable relay, are not done."""
        self.stopping = True
        for limit in self._answering:
            limit.reschedule(asyncio.get_running_loop().time() + GRACE)
        self._ending.set()

    async def pause(self, seconds: float) -> None:
        """Waits between two runs: for `seconds`, or until `stop`."""
        if not self.stopping:
            self._ending.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def run(self, events: AsyncIterator[Event]) -> None:
        """Runs until the events end, `stop` is called or an event is held. It may then be called again, with events
        from the first that is not done. Raises the errors of `events`."""
        slots = asyncio.Semaphore(self._concurrency)
        room = asyncio.Semaphore(self._concurrency + UNANSWERED)
        self.open = 0
        self.held = None
        stopped = asyncio.ensure_future(self._ending.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self._ending.is_set():
                    if await first_of(_free(room, slots), stopped) is None:
                        break
                    event = await first_of(anext(events, None), stopped)
                    if event is None:
                        break
                    if self._output not in (None, event.output):
                        slots.release()
                        room.release()
                        await event.done()
                        continue
                    self.open += 1
                    tasks.create_task(self._handle(event, slots, room))
        except BaseExceptionGroup as group:
            # The first error is enough, and an error of `events` is always alone.
            raise group.exceptions[0] from None
        finally:
            stopped.cancel()

    async def _handle(self, event: Event, slots: asyncio.Semaphore, room: asyncio.Semaphore) -> None:
        try:
            outcome = await self._deliver(event)
        finally:
            slots.release()
        if outcome is None:
            return
        self._observer.ended(event, outcome)
        if not await self._answered(event, outcome):
            return
        await event.done()
        room.release()
        self.open -= 1

    async def _answered(self, event: Event, outcome: Outcome) -> bool:
        """Returns whether `respond` ended in time."""
        if self._respond is None:
            return True
        try:
            async with asyncio.timeout(GRACE if self.stopping else None) as limit:
                self._answering.add(limit)
                try:
                    await self._respond(event, outcome)
                finally:
                    self._answering.discard(limit)
        except TimeoutError:
            return False
        return True

    async def _deliver(self, event: Event) -> Outcome | None:
        """Sends the event until it has a final result; None if the run ended before."""
        try:
            request = self._shape.request(event)
        except Unsendable as error:
            if self._hold and isinstance(error, NoDestination):
                self.held = self.held or (event, Trouble(str(error)))
                self._ending.set()
                return None
            return Outcome("failed", Trouble(str(error), transient=False), 0, 0.0, None)
        failures = tries = 0
        while not self._ending.is_set():
            begun = time.perf_counter()
            result = await self._target.send(request)
            seconds = time.perf_counter() - begun
            if isinstance(result, Answer) or result.tried:
                tries += 1
            if not result.transient:
                return Outcome(_verdict(result), result, tries, seconds, request)
            if self._max_tries is not None and tries >= self._max_tries:
                return Outcome("failed", result, tries, seconds, request)
            asked = result.retry_after if isinstance(result, Answer) else 0.0
            failures += 1
            wait = max(self.backoff.delay(failures), asked)
            self._observer.retrying(event, request, result, failures, wait)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait)
        return None


async def _free(*semaphores: asyncio.Semaphore) -> bool:
    """Acquires one of each."""
    for semaphore in semaphores:
        await semaphore.acquire()
    return True


def _verdict(result: Answer | Trouble) -> Verdict:
    if isinstance(result, Trouble):
        return "failed"
    return "delivered" if result.good else "refused"
