"""A replay to a URL: the command reads the range over the socket, and sends it like `relay forward`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from relay_tornado.agent.agent import Agent, Outcome
from relay_tornado.agent.pace import Pace, paced
from relay_tornado.agent.request import Request, Shape
from relay_tornado.agent.target import Answer, Target, Trouble
from relay_tornado.cli.access import Access
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.printing import note
from relay_tornado.cli.span import Course
from relay_tornado.cli.tally import reason_of
from relay_tornado.cli.target import Sending, until_told
from relay_tornado.client import Subscription, subscribe
from relay_tornado.client.errors import RelayClientError
from relay_tornado.client.event import Event, Gap, Notice
from relay_tornado.model import counted

if TYPE_CHECKING:
    from relay_tornado.ops.copying import Progress

_LOOK: Final = 1.0
"""Seconds between two checks of whether the subscription has ended, while the pace delays the next event."""


def send_to_url(
    access: Access, course: Course, shape: Shape, pace: Pace, rules: Any, progress: Progress, sending: Sending
) -> None:
    """Sends the course's range, and updates the course, whose `stopped` says whether a signal ended it. Raises
    Failure."""
    target = sending.target()
    watch = _Watch(course, progress)
    agent = sending.agent(target, shape, watch)
    try:
        asyncio.run(_send(agent, target, access, watch, pace, rules))
    except RelayClientError as error:
        raise Failure(str(error)) from error
    finally:
        course.next = watch.next()
        course.stopped = agent.stopping


class _Watch:
    """Updates the course while the agent works."""

    def __init__(self, course: Course, progress: Progress) -> None:
        self.course = course
        self.caught_up = asyncio.Event()
        self.lost = ""
        """Why the rest can no longer be read; "" if it can."""
        self._progress = progress
        self._open: dict[int, None] = {}
        self._taken = course.span.first - 1
        self._complete = False

    def next(self) -> int:
        """The first seq that is not done."""
        if self._open:
            return next(iter(self._open))
        return (self.course.span.last if self._complete else self._taken) + 1

    async def begun(self, events: AsyncIterator[Event], subscription: Subscription) -> AsyncGenerator[Event, None]:
        """Records the events that the agent takes. If the subscription ended, raises its error at once, even if more
        events were read before."""
        async for event in events:
            if subscription.ended is not None:
                raise subscription.ended
            self._open[event.seq] = None
            self._taken = event.seq
            yield event
        self._complete = not self.lost

    def retrying(self, event: Event, request: Request, result: Answer | Trouble, tries: int, wait: float) -> None:
        words = f"{event.id}: {reason_of(result)}, try {tries + 1} in {wait:.0f} s"
        self._show(words)
        if tries & (tries - 1) == 0:
            note(words)

    def ended(self, event: Event, outcome: Outcome) -> None:
        del self._open[event.seq]
        match outcome.verdict:
            case "delivered":
                self.course.sent += 1
            case "refused":
                self.course.refused += 1
                note(f"{event.id}: the target answered {reason_of(outcome.result)}")
            case "failed":
                self.course.failed += 1
                note(f"{event.id} failed: {reason_of(outcome.result)}")
        self.course.next = self.next()
        self._show("sending")

    def gap(self, gap: Gap) -> None:
        """Counts events of the range that are no longer there."""
        span = self.course.span
        if gap.first is not None and gap.last is not None:
            count = min(gap.last, span.last) - max(gap.first, span.first) + 1
            if count > 0:
                self.course.missing += count
                note(f"not there any more: {counted(count, 'event')} of the range ({gap.reason})")
        else:
            note(str(gap))

    def notice(self, notice: Notice) -> None:
        if notice.kind == "caught_up":
            self.caught_up.set()
        elif notice.kind == "disconnected":
            note(f"{notice.message}: reconnecting")
        elif notice.kind in ("missing", "bucket_deleted"):
            self.lost = f"the bucket {self.course.span.bucket['name']!r} was deleted, or the token may not read it"
            self.caught_up.set()

    def _show(self, words: str) -> None:
        self._progress(words, self.course.passed, self.course.span.count)


async def _send(agent: Agent, target: Target, access: Access, watch: _Watch, pace: Pace, rules: Any) -> None:
    span = watch.course.span
    async with until_told(agent):
        subscription = subscribe(
            access.url,
            access.key,
            access.secret,
            buckets=[span.bucket["id"]],
            since=span.before,
            filter=rules,
            outputs="none",
            on_gap=watch.gap,
            on_notice=watch.notice,
            auto_done=False,
        )
        async with (
            target,
            subscription,
            aclosing(paced(subscription, span.last, watch.caught_up, pace, partial(_sleep, subscription))) as events,
            aclosing(watch.begun(events, subscription)) as wanted,
        ):
            await agent.run(wanted)
    if watch.lost and watch.next() <= span.last:
        raise Failure(watch.lost)


async def _sleep(subscription: Subscription, seconds: float) -> None:
    """Sleeps, at most until the subscription has ended: then nothing more is sent."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while subscription.ended is None and (left := until - loop.time()) > 0:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(min(left, _LOOK))
