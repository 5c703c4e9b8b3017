"""Answers of clients: each is stored as a result of its event's copy, and may be the answer to a sender that waits.

The senders of an input with `response_from_output` wait after the commit, up to `WAIT` seconds. They get the first
answer with a status_code above 0 to the copy for that output (for "anyOutput": to any copy). Only the event's place is
kept in memory meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import structlog

from relay_tornado.copies import Goes
from relay_tornado.errors import BucketGone, CursorLost, Invalid, NotFound, RelayError
from relay_tornado.ids import format_id
from relay_tornado.lateness import after
from relay_tornado.log.contract import EventLog
from relay_tornado.log.lineage import epoch_at, holds
from relay_tornado.log.results import Results
from relay_tornado.low_memory import Timer
from relay_tornado.model import ANY_OUTPUT, Appended, Bucket, BucketId, Cursor, Event, Input, Result, Token
from relay_tornado.registry.contract import Registry
from relay_tornado.shares import Shares
from relay_tornado.wire.answers import Answer, client_answer, text_answer

WAIT: Final = 10.0
"""Seconds that a sender waits for a client's answer."""

MOST: Final = 2000
"""The most senders that wait at the same time; three quarters of them, if all are of one input."""

_GONE: Final = -1
"""The number of an output that does not exist."""

Answered: TypeAlias = Callable[[Answer], None]

_log = structlog.get_logger(__name__)


class Subscribers(Protocol):
    """The connected clients."""

    def reaches(self, bucket_id: BucketId, event: Event, output: int | None) -> bool:
        """Whether some subscriber gets, or has got, this event's copy for that output (None: any copy)."""


class _Waiter:
    """A sender that waits for its answer."""

    __slots__ = (
        *("answered", "bucket_id", "came", "id", "input_id", "looking"),
        *("output", "over", "seq", "storing", "timer"),
    )

    def __init__(
        self, bucket_id: BucketId, input_id: str, appended: Appended, output: int | None, answered: Answered
    ) -> None:
        self.bucket_id = bucket_id
        self.input_id = input_id
        self.seq = appended.seq
        self.id = format_id(appended.epoch, appended.seq)
        self.output = output
        self.answered = answered
        self.looking = appended.duplicate
        """Whether an answer may be stored already, which takes precedence over new ones."""
        self.came: Answer | None = None
        """The first answer that came meanwhile."""
        self.storing = 0
        """How many answers came in time and are being stored, which takes long on a slow disk."""
        self.over = False
        """Whether its time was over meanwhile."""
        self.timer: Timer | None = None


class Responses:
    """Stores answers, and passes them to the senders that wait."""

    def __init__(
        self,
        results: Results,
        log: EventLog,
        registry: Registry,
        subscribers: Subscribers,
        *,
        wait: float = WAIT,
        most: int = MOST,
    ) -> None:
        """`wait` is in seconds; `most` senders may wait at the same time, which the inputs share."""
        self._results = results
        self._log = log
        self._registry = registry
        self._subscribers = subscribers
        self.forwarding: Subscribers | None = None
        """The forwarder to public outputs, set by the composition root, since it is created after this."""
        self._wait = wait
        self._waiters: dict[tuple[BucketId, int], dict[_Waiter, None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.shares: Shares[str] = Shares(most)

    @property
    def waiting(self) -> int:
        """The number of senders that wait now."""
        return self.shares.held

    async def respond(self, token: Token, cursor: Cursor, result: Result) -> None:
        """A client's answer to the event or copy with this id; see `answered`.

        Also raises NotFound if the id is of nothing that is kept in the token's scope, or of a copy that the event does
        not have by the current outputs and rules and that has no result.
        """
        missing = NotFound(
            f"there is no event {format_id(cursor.epoch, cursor.seq, cursor.output)} in your buckets (any more)"
        )
        bucket_id = await self._log.find(cursor.epoch)
        bucket = None if bucket_id is None else self._registry.get("bucket", bucket_id)
        if bucket is None or not token.reads(bucket.id) or (cursor.output or 0) >= bucket.next_output:
            raise missing
        try:
            bounds = await self._log.bounds(bucket.id)
        except BucketGone:
            raise missing from None
        if not holds(bounds, cursor):
            raise missing
        copy = cursor.output
        if (
            copy is not None
            and not await self._has_copy(bucket, cursor.seq, copy)
            and not await self._results.latest(bucket.id, [cursor.seq], copy)
        ):
            raise missing
        await self.answered(bucket.id, cursor, result)

    async def answered(self, bucket_id: BucketId, copy: Cursor, result: Result) -> None:
        """Stores a result of a copy (with no output: of the event itself), then answers the senders that wait for it.

        Raises Invalid if the status code is neither 0 (no answer) nor 200 to 599, NotFound if the event is no longer
        kept, and what `Results.record` raises.
        """
        if result.status_code and not 200 <= result.status_code <= 599:
            raise Invalid("write 200 to 599, or 0 where there was no answer", "status_code")
        seq, output, event_id = copy.seq, copy.output or 0, format_id(copy.epoch, copy.seq)
        # If the file lost an event, another one has its seq.
        if epoch_at((await self._log.bounds(bucket_id)).epochs, seq) != copy.epoch:
            raise NotFound(f"the event {event_id} is not there any more")

        def waiters() -> list[_Waiter]:
            waiting = self._waiters.get((bucket_id, seq), ()) if result.status_code else ()
            return [each for each in waiting if each.id == event_id and each.output in (None, output)]

        in_time = waiters()
        for waiter in in_time:
            waiter.storing += 1
        try:
            await self._results.record(bucket_id, seq, output, result)
            if those := waiters():
                answer = client_answer(result.status_code, result.headers, result.body)
                for waiter in those:
                    if waiter.looking:
                        waiter.came = waiter.came or answer
                    else:
                        self._end(waiter, answer)
        finally:
            for waiter in in_time:
                waiter.storing -= 1
                if waiter.over:
                    self._time_out(waiter)

    async def has_answer(self, bucket_id: BucketId, copy: Cursor) -> bool:
        """Whether an answer to a copy, with a status code, is stored. Raises what `Results.first` raises."""
        return await self._results.first(bucket_id, copy.seq, copy.output or 0) is not None

    async def _has_copy(self, bucket: Bucket, seq: int, copy: int) -> bool:
        """Whether an event has a copy for this output; True if its content is gone, as it may have had one."""
        output = bucket.output(copy)
        if output is None:
            return False
        goes = Goes(bucket, output)
        if not goes.perhaps:
            return False
        try:
            events = await self._log.read(bucket.id, seq - 1, 1, 1)
        except CursorLost:
            return True
        return all(goes.there(event) for event in events)

    def wait(self, bucket: Bucket, input: Input, appended: Appended, answered: Answered) -> Callable[[], None]:
        """Calls `answered` once with the sender's answer: a client's, or the relay's own (503, 504).

        A duplicate gets the stored answer, or waits for it like the first one. Returns a function that ends the wait
        without an answer and may be called at any time.
        """
        output = None
        if input.response_from_output != ANY_OUTPUT:
            output = next((each.n for each in bucket.outputs if each.id == input.response_from_output), _GONE)
        waiter = _Waiter(bucket.id, input.id, appended, output, answered)
        if not self.shares.fits(input.id, 1):
            answered(_too_many(waiter.id))
            return _nothing
        self.shares.take(input.id, 1)
        try:
            self._waiters.setdefault((bucket.id, appended.seq), {})[waiter] = None
        except BaseException:
            self.shares.give_back(input.id, 1)
            raise
        try:
            self._look(waiter)
        except BaseException:
            self._remove(waiter)
            raise

        def leave() -> None:
            self._remove(waiter)

        return leave

    def _look(self, waiter: _Waiter) -> None:
        """Starts the timer, and checks whether there is anyone to wait for."""
        waiter.timer = after(self._wait, lambda: self._time_out(waiter))
        event = None if waiter.looking else self._peek(waiter)
        if event is None:
            task = asyncio.get_running_loop().create_task(self._begin(waiter))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._judge(waiter, event)

    def close(self) -> None:
        """Tells all waiting senders that there was no answer."""
        for waiters in list(self._waiters.values()):
            for waiter in list(waiters):
                self._end(waiter, _late(waiter.id, None))
        for task in self._tasks:
            task.cancel()

    def _peek(self, waiter: _Waiter) -> Event | None:
        try:
            events = self._log.peek(waiter.bucket_id, waiter.seq - 1, 1, 1)
        except (BucketGone, CursorLost):
            return None
        return events[0] if events else None

    async def _begin(self, waiter: _Waiter) -> None:
        """Looks for a stored answer, and reads the event if it is not in memory."""
        try:
            if waiter.looking:
                answer = await self._first(waiter)
                if answer is not None:
                    self._end(waiter, answer)
                    return
            self._judge(waiter, (await self._log.read(waiter.bucket_id, waiter.seq - 1, 1, 1))[0])
        except (CursorLost, BucketGone, IndexError):
            # The event is gone already, so nobody can get it.
            self._end(waiter, _nobody(waiter.id))
        except RelayError as error:
            # It may still be delivered.
            _log.warning("waiting_blindly", code=error.code)

    async def _first(self, waiter: _Waiter) -> Answer | None:
        """The stored answer, or else the first one that came meanwhile."""
        try:
            found = await self._results.first(waiter.bucket_id, waiter.seq, waiter.output)
        except RelayError:
            if waiter.came is None:
                raise
            found = None
        finally:
            waiter.looking = False
        return waiter.came if found is None else client_answer(found.status_code, found.headers, found.body)

    def _judge(self, waiter: _Waiter, event: Event) -> None:
        reached = (self._subscribers, self.forwarding)
        if not any(each is not None and each.reaches(waiter.bucket_id, event, waiter.output) for each in reached):
            self._end(waiter, _nobody(waiter.id))

    def _time_out(self, waiter: _Waiter) -> None:
        waiter.over = True
        if not waiter.storing:
            self._end(waiter, waiter.came or _late(waiter.id, self._wait))

    def _end(self, waiter: _Waiter, answer: Answer) -> None:
        if self._remove(waiter):
            waiter.answered(answer)

    def _remove(self, waiter: _Waiter) -> bool:
        """Returns whether it was waiting."""
        key = (waiter.bucket_id, waiter.seq)
        waiters = self._waiters.get(key)
        if waiters is None or waiter not in waiters:
            return False
        del waiters[waiter]
        if not waiters:
            del self._waiters[key]
        if waiter.timer is not None:
            waiter.timer.cancel()
        self.shares.give_back(waiter.input_id, 1)
        return True


def _nothing() -> None:
    """Ends nothing: this sender does not wait."""


def _late(id: str, seconds: float | None) -> Answer:
    when = "before the relay stopped" if seconds is None else f"within {seconds:g} seconds"
    return text_answer(504, f"The webhook is stored as {id}, and no client answered it {when}.")


def _nobody(id: str) -> Answer:
    return text_answer(504, f"The webhook is stored as {id}, and no client is connected that would get and answer it.")


def _too_many(id: str) -> Answer:
    return text_answer(
        503, f"The webhook is stored as {id}, and too many senders wait for an answer for this one to wait, too."
    )
