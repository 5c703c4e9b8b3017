"""The agent's loop: events in, requests out, in order or N at once, each tried until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from relay_tornado.agent.request import NoDestination, Request, Shape, Unsendable
from relay_tornado.agent.target import Answer, Target, Trouble
from relay_tornado.client.backoff import Backoff
from relay_tornado.client.event import Event

T = TypeVar("T")

UNANSWERED: Final = 256
"""Events that the target has answered and whose answers are on their way to the relay, at most."""

GRACE: Final = 5.0
"""Seconds that an answer has to reach the relay once the agent was told to stop."""

Verdict: TypeAlias = Literal["delivered", "refused", "failed"]
"""The target answered 2xx or 3xx; it answered another status that is final; it did not answer, or not well enough, as
often as it was tried."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event. `seconds` is how long the last try took; `request` is None where none could be made."""

    verdict: Verdict
    result: Answer | Trouble
    tries: int
    seconds: float
    request: Request | None


class Witness(Protocol):
    """Who is told what happens."""

    def retrying(self, event: Event, request: Request, result: Answer | Trouble, tries: int, wait: float) -> None:
        """A try failed, and the next one is made in `wait` seconds."""

    def ended(self, event: Event, outcome: Outcome) -> None:
        """Nothing more is tried."""


Respond: TypeAlias = Callable[[Event, Outcome], Awaitable[None]]
"""Gives an answer back to the relay. It raises nothing: what can't be given back is its own to tell."""


class Agent:
    """Works through events.

    `concurrency` 1 keeps their order: the next one is begun when the one before has ended. `max_tries` None tries
    without end. An event is done when it has ended and `respond` (None: no answers) is through with it; the events come
    from a subscription with `auto_done=False`, which keeps how far everything is done. With `hold` an event whose
    output has no destination ends the run (see `held`) and is left undone; else it has failed.
    """

    def __init__(
        self,
        target: Target,
        shape: Shape,
        witness: Witness,
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
        self._witness = witness
        self._max_tries = max_tries
        self.backoff = backoff or Backoff()
        self._respond = respond
        self._output = output
        self._hold = hold
        self.held: tuple[Event, Trouble] | None = None
        """The event that ended the run, since there is nowhere to send it to."""
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._room = asyncio.Semaphore(concurrency + UNANSWERED)
        self.stopping = False
        """Whether it was told to stop."""
        self._answering: set[asyncio.Timeout] = set()
        # Set where it was told to stop, and where an event is held.
        self._ending = asyncio.Event()
        self.open = 0
        """Events that were begun and are not done."""

    def stop(self) -> None:
        """Begins nothing any more. A try that runs is waited for, and for `GRACE` seconds each answer that is on its
        way; what waits for its next try, or for a relay that is away, is left undone."""
        self.stopping = True
        for limit in self._answering:
            limit.reschedule(asyncio.get_running_loop().time() + GRACE)
        self._ending.set()

    async def pause(self, seconds: float) -> None:
        """Between two runs: that long, or until `stop`."""
        if not self.stopping:
            self._ending.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def run(self, events: AsyncIterator[Event]) -> None:
        """Until the events end, or `stop`, or an event is held; may be called again then, with events from where the
        undone begin. Raises what the events raise."""
        self._slots = asyncio.Semaphore(self._concurrency)
        self._room = asyncio.Semaphore(self._concurrency + UNANSWERED)
        self.open = 0
        self.held = None
        stopped = asyncio.ensure_future(self._ending.wait())
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self._ending.is_set():
                    if await first_of(_free(self._room, self._slots), stopped) is None:
                        break
                    event = await first_of(anext(events, None), stopped)
                    if event is None:
                        break
                    if self._output not in (None, event.output):
                        self._slots.release()
                        self._room.release()
                        await event.done()
                        continue
                    self.open += 1
                    tasks.create_task(self._handle(event))
        except BaseExceptionGroup as group:
            # One is enough to be told, and what the events raise comes alone.
            raise group.exceptions[0] from None
        finally:
            stopped.cancel()

    async def _handle(self, event: Event) -> None:
        try:
            outcome = await self._deliver(event)
        finally:
            self._slots.release()
        if outcome is None:
            return
        self._witness.ended(event, outcome)
        if not await self._answered(event, outcome):
            return
        await event.done()
        self._room.release()
        self.open -= 1

    async def _answered(self, event: Event, outcome: Outcome) -> bool:
        """Whether `respond` came to its end."""
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
        """None where it was stopped before the event had ended."""
        try:
            request = self._shape.request(event)
        except Unsendable as error:
            if self._hold and isinstance(error, NoDestination):
                self.held = self.held or (event, Trouble(str(error)))
                self._ending.set()
                return None
            return Outcome("failed", Trouble(str(error), transient=False), 0, 0.0, None)
        tries = 0
        while not self._ending.is_set():
            tries += 1
            begun = time.perf_counter()
            result = await self._target.send(request)
            seconds = time.perf_counter() - begun
            if not result.transient:
                return Outcome(_verdict(result), result, tries, seconds, request)
            if self._max_tries is not None and tries >= self._max_tries:
                return Outcome("failed", result, tries, seconds, request)
            asked = result.retry_after if isinstance(result, Answer) else 0.0
            wait = max(self.backoff.delay(tries), asked)
            self._witness.retrying(event, request, result, tries, wait)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait)
        return None


async def _free(*semaphores: asyncio.Semaphore) -> bool:
    """Takes one of each."""
    for semaphore in semaphores:
        await semaphore.acquire()
    return True


async def first_of(wanted: Awaitable[T | None], stopped: asyncio.Future[Any]) -> T | None:
    """What is awaited, None where it was stopped before."""
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


def _verdict(result: Answer | Trouble) -> Verdict:
    if isinstance(result, Trouble):
        return "failed"
    return "delivered" if result.good else "refused"
