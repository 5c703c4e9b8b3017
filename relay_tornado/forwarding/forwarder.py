"""One public output: takes events off the log by its ledger, tries them, and says of each what came of it.

Invariants:
- What the ledger hands out ends in exactly one of done, fail, bury or release. Done is said only of an event that has
  no copy for this output, is not in the log any more, or was answered with 2xx; and only after that answer was
  received. So whatever happens between a request and what is stored of it, the event is tried again: a repeat, never a
  loss.
- The number of an attempt that the ledger gives is the number of the try: nothing uses one up but a request that was
  begun. What can't be made a request of (`Unsent`) is given up at once, and is no try: neither the circuit nor the
  throttle counts it, so no sender can stop the events of others by what it sends. While the circuit is open, the
  throttle is used up or the output is paused, nothing is taken.
- An output that sends one event after the other has one request out at most. An event that was tried in vain keeps
  later ones waiting (`_held`) while its quick tries last; with `strict_order` until it is done or given up, and then
  also those that are sent again.
- What a destination answers says nothing of the one that the output has by then: it counts at the circuit under which
  it was asked, and disables nothing.
- An output that is caught up, or waits, has no task; a timer wakes it. It has `at_once` tasks at most that try, and
  `_RECORDS` that store what came of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from relay_tornado.consumer_progress import AT_ONCE, Taken
from relay_tornado.copies import Goes
from relay_tornado.errors import BucketGone, CursorLost, Invalid, NotFound, RelayError
from relay_tornado.forwarding.attempt import Request, Try, attempt, prepare
from relay_tornado.forwarding.lanes import Lane, Lanes
from relay_tornado.forwarding.schedule import Schedule, begun, schedule_of
from relay_tornado.forwarding.shared import Shared
from relay_tornado.log.ledgers import Ledger
from relay_tornado.log.lineage import epoch_at
from relay_tornado.low_memory import Timer
from relay_tornado.model import KIB, Bucket, Cursor, Event, Output, Result
from relay_tornado.wire.destination import parse

GONE: Final = "410 Gone"

_RECORDS: Final = 32
_TURNS: Final = 100
"""Events that are passed over before the loop is given back."""
_LOOK: Final = 60.0
"""The longest timer, in seconds: the clock of day may be set meanwhile."""
_FAULT: Final = 1.0
"""Seconds until it is tried again where an event could not be read, or the relay failed on it."""
_EXCERPT: Final = 4 * KIB
"""Bytes that are kept of the answers to second and later tries in vain."""

_REASON: Final = 200
"""Characters of a dead letter's reason."""

_log = structlog.get_logger(__name__)


class Forwarder:
    """One output. `change` tells of what was changed, `poke` of new events; both are quick."""

    def __init__(
        self, shared: Shared, bucket: Bucket, output: Output, ledger: Ledger, gone: Callable[[], None]
    ) -> None:
        """`gone` is called where somebody deleted the ledger."""
        self._shared = shared
        self.bucket = bucket
        self.output = output
        self.ledger = ledger
        self._lanes = Lanes(shared, output, self.poke)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[int] = set()
        self._timer = Timer(self.poke)
        self._poked = Timer(self._pump)
        self._ended = self._gone = False
        self._on_gone = gone
        self._unwatch = ledger.watch(self._told)
        self._take_over(bucket, output)

    # what others see

    @property
    def active(self) -> bool:
        """Whether it sends what comes."""
        return not (self.output.disabled or self.output.paused or self._gone or self._ended)

    @property
    def circuit_open(self) -> bool:
        return self._lanes.circuit.opened

    @property
    def parked(self) -> int:
        """Events on its retry schedule."""
        return len(self.ledger.progress.parked)

    @property
    def trying(self) -> int:
        """Requests that are out."""
        return self._lanes.trying

    def full(self, coming: int) -> bool:
        """Whether as many events wait as may, beside those that are out; `coming` ones are not in the log yet."""
        depth = self._lanes.throttle.depth
        if depth is None or not self.active:
            return False
        head, most = self._shared.head(self.bucket.id), depth + self.trying - coming
        return head - self.ledger.progress.floor >= most and self.ledger.progress.pending(head) >= most

    def reaches(self, event: Event) -> bool:
        """Whether the event is sent there about now."""
        return self.active and not self.circuit_open and self._goes.there(event, self._shared.subjects.of)

    # what happens to it

    def change(self, bucket: Bucket, output: Output) -> None:
        """The bucket or the output was changed."""
        before = self.output
        self._take_over(bucket, output)
        if before != output:
            self._gone = False
        self.poke()

    def poke(self) -> None:
        """There may be something to do."""
        if self._poked.at is None and not self._ended:
            self._poked.soon()

    def end(self) -> None:
        """Takes nothing more; what is out goes on to its end."""
        self._ended = True
        self._unwatch()
        self._lanes.close()
        self._timer.cancel()

    async def ended(self) -> None:
        """Waits, after `end`, for what is out."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """Ends what is out, as if it had not been sent."""
        for task in self._tasks:
            task.cancel()

    def _take_over(self, bucket: Bucket, output: Output) -> None:
        """All of it, or nothing where it raises."""
        goes, schedule = Goes(bucket, output), schedule_of(output)
        self._lanes.change(output)
        self.bucket, self.output = bucket, output
        self._goes = goes
        self._schedule: Schedule = schedule
        self._hold_again()

    def _told(self) -> None:
        """Somebody else changed the ledger."""
        if self.ledger.gone:
            self._on_gone()
            return
        self._hold_again()
        self.poke()

    def _hold_again(self) -> None:
        self._held = {seq for seq, one in self.ledger.progress.parked.items() if self._holds(one.attempts)}

    def _holds(self, attempts: int) -> bool:
        """Whether an event keeps later ones waiting after so many tries in vain."""
        if self.output.strict_order:
            return attempts > 0
        return self._lanes.at_once == 1 and 0 < attempts < self._schedule.quick

    # taking

    def _pump(self) -> None:
        for _ in range(_TURNS):
            if not self.active or self.ledger.gone:
                return
            most = self._lanes.at_once
            if self.trying >= most or len(self._tasks) >= most + _RECORDS:
                return  # whoever ends pokes
            if wait := self._lanes.wait():
                if wait < math.inf:
                    self._wake_in(wait)
                return
            if not self._take():
                return
        self.poke()

    def _take(self) -> bool:
        """Whether there was something."""
        progress, bucket_id = self.ledger.progress, self.bucket.id
        # What is held back is everything that was not tried yet; what is due again may go, in strict order only up to
        # the first that failed.
        head = 0 if self._held else self._shared.head(bucket_id)
        last = min(self._held) if self._held and self.output.strict_order else None
        now = self._shared.clock()
        taken = next(iter(progress.take(head, 1, now, last)), None)
        if taken is None:
            due = progress.due()
            if due is not None:
                self._wake_in(due - now)
            return False
        try:
            return self._begin(taken)
        except Exception:
            progress.release(taken)
            self._lanes.hold(_FAULT)
            self._wake_in(_FAULT)
            _log.exception("event_not_taken", output=self.output.id)
            return False

    def _begin(self, taken: Taken) -> bool:
        """What becomes of it; False where there is no room for it."""
        event = self._peek(taken)
        if event is not None and not self._goes.there(event, self._shared.subjects.of):
            self._settle(taken)
            return True
        lane = self._lanes.take()
        if lane is None:
            self.ledger.progress.release(taken)
            return False
        try:
            task = asyncio.get_running_loop().create_task(self._work(taken, event, lane))
        except BaseException:
            lane.cancel()
            lane.leave()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def _wake_in(self, seconds: float) -> None:
        # A timer may fire a little early; what is not due then would wait for another one.
        self._timer.after(min(max(seconds, 0.0) + 0.001, _LOOK))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("forwarding_failed", output=self.output.id, exc_info=task.exception())
        self.poke()

    def _peek(self, taken: Taken) -> Event | None:
        try:
            events = self._shared.log.peek(self.bucket.id, taken.seq - 1, 1, 1)
        except (CursorLost, BucketGone):
            return None  # `_load` meets it, too
        return events[0] if events else None

    # trying

    async def _work(self, taken: Taken, event: Event | None, lane: Lane) -> None:
        """From an event that was taken to what is stored of it."""
        tried: Try | None = None
        try:
            event = await self._admit(taken, event)
            if event is None:
                return
            epoch, received_at, size = event.epoch, event.received_at, event.size
            try:
                ready = self._ready(event, taken)
                event = None  # it may be large, and storing takes time
                if isinstance(ready, Request):
                    lane.begin()
                    self.ledger.progress.begin(taken)
                    self.ledger.save()
                    tried = await attempt(self._shared, self.output, ready)
            finally:
                self._shared.memory.give_back(self, size)
            if isinstance(ready, Unsent):
                lane.cancel()
                await self._give_up(taken, epoch, ready, lane)
            elif tried is not None:
                del ready  # as large as the event
                await self._judge(taken, epoch, received_at, tried, lane)
        except BaseException as error:
            # Nothing is known of it: it goes out again, also to a destination that said it is gone.
            self._gone = False
            self.ledger.progress.release(taken)
            self.ledger.save()
            if not isinstance(error, asyncio.CancelledError):
                lane.hold(_FAULT)
            raise
        finally:
            if tried is None:
                lane.cancel()
            lane.leave()

    async def _admit(self, taken: Taken, event: Event | None) -> Event | None:
        """The event, for which its size is taken of the memory of all; None where there is nothing to send."""
        while True:
            if not self.active:
                self.ledger.progress.release(taken)
                return None
            if event is None:
                event = await self._load(taken)
            if event is None:
                return None
            if not self._goes.there(event, self._shared.subjects.of):
                self._settle(taken)
                return None
            if self._shared.memory.take(self, event.size):
                return event
            event = None
            await self._shared.memory.room()

    async def _load(self, taken: Taken) -> Event | None:
        try:
            events = await self._shared.log.read(self.bucket.id, taken.seq - 1, 1, 1)
        except CursorLost as lost:
            await self._pass_over(taken, lost)
            return None
        except BucketGone:
            self._gone = True
            self.ledger.progress.release(taken)
            return None
        except RelayError as error:
            _log.warning("event_not_read", output=self.output.id, reason=str(error))
            events = ()
        if not events:
            self.ledger.progress.release(taken)
            self._lanes.hold(_FAULT)
            return None
        return events[0]

    async def _pass_over(self, taken: Taken, lost: CursorLost) -> None:
        """The event is not there any more. What retention removed lies below the log's first event; within the log it
        is damage, or content that was never stored, and says nothing of the events before it."""
        try:
            bounds = await self._shared.log.bounds(self.bucket.id)
        except BucketGone:
            self._gone = True
            self.ledger.progress.release(taken)
            return
        if taken.seq < bounds.first:
            self.ledger.trim(bounds.first)
            self.ledger.progress.release(taken)  # nothing more comes of it
            self._hold_again()
            return
        again, why = taken.seq in self.ledger.progress.parked, self.ledger.miss(taken.seq, lost)
        if again:
            epoch = epoch_at(bounds.epochs, taken.seq)
            await self._give_up(taken, epoch, Unsent(why, "its content is not there any more"))
        else:
            self._settle(taken)

    # what came of it

    async def _judge(self, taken: Taken, epoch: str, received_at: float, tried: Try, lane: Lane) -> None:
        if tried.outcome == "sent":
            if lane.succeeded():
                _log.info("circuit_closed", output=self.output.id, bucket=self.bucket.name)
            if not self.output.strict_order:
                lane.leave()  # the next one need not wait until this one is stored
            await self._record(taken, epoch, tried, "sent")
            self._settle(taken)
            return
        self._failed(tried, lane)
        if tried.status == 410 and not lane.moved:
            self._gone = True
            await self._record(taken, epoch, tried, "failed")
            self._bury(taken, GONE)
            if not lane.moved:
                await self._disable()
            return
        pause = 0.0 if lane.moved else self._pause(taken, received_at, tried)
        if isinstance(pause, str):
            await self._record(taken, epoch, tried, "failed")
            self._bury(taken, pause)
            return
        await self._record(taken, epoch, tried, "stalled")
        now = self._shared.clock()  # it may have been set meanwhile
        due = AT_ONCE if lane.moved else now + pause
        if self.ledger.progress.fail(taken, due, now) and self._holds(taken.attempt):
            self._held.add(taken.seq)
        else:
            self._held.discard(taken.seq)
        self.ledger.save()

    def _failed(self, tried: Try, lane: Lane) -> None:
        if tried.retry_after and tried.status in (429, 503):
            # It speaks of itself, not of this event.
            lane.hold(tried.retry_after)
        if lane.failed() and not lane.moved:
            _log.warning(
                "circuit_opened",
                output=self.output.id,
                bucket=self.bucket.name,
                destination=_shown(self.output),
                last=tried.status or tried.outcome,
            )

    def _pause(self, taken: Taken, received_at: float, tried: Try) -> float | str:
        """Seconds until the next try, or why there is none."""
        schedule = self._schedule
        since = self._since(taken)
        start = begun(received_at, since, schedule.deadline)
        now = self._shared.clock()
        due = schedule.due(taken.attempt, start, now, self._shared.spread(), tried.retry_after)
        return f"{due}: {tried.status or tried.outcome}" if isinstance(due, str) else due - now

    def _expired(self, event: Event, taken: Taken) -> bool:
        """Whether the throttle's deadline is over."""
        deadline = self._lanes.throttle.deadline
        if deadline is None:
            return False
        return self._shared.clock() > begun(event.received_at, self._since(taken), deadline) + deadline

    def _since(self, taken: Taken) -> float | None:
        one = self.ledger.progress.parked.get(taken.seq)
        return None if one is None else one.since

    def _ready(self, event: Event, taken: Taken) -> Request | Unsent:
        if self._expired(event, taken):
            return Unsent("deadline", "the throttle's deadline was over before its turn came")
        try:
            return prepare(self._shared, self.bucket, self.output, event)
        except Invalid as error:
            return Unsent(f"invalid: {error}"[:_REASON], str(error))

    async def _give_up(self, taken: Taken, epoch: str, unsent: Unsent, lane: Lane | None = None) -> None:
        if lane is not None and not self.output.strict_order:
            lane.leave()
        told = Try("invalid", 0, {}, f"Not sent: {unsent.words}.".encode(), 0.0, None)
        await self._record(taken, epoch, told, "failed")
        self._bury(taken, unsent.reason, tried=False)

    async def _record(self, taken: Taken, epoch: str, tried: Try, status: str) -> None:
        """`epoch` is that of the event that was sent: another one may have its seq by now."""
        body = tried.body[:_EXCERPT] if status == "stalled" and taken.attempt > 1 else tried.body
        code = tried.status if 200 <= tried.status <= 599 else 0
        milliseconds = round(tried.seconds * 1000)
        result = Result(status, code, tried.headers, body, milliseconds, taken.attempt - 1, self._shared.clock())
        try:
            await self._shared.answers.answered(self.bucket.id, Cursor(epoch, taken.seq, self.output.n), result)
        except (NotFound, BucketGone):
            pass  # it left meanwhile
        except RelayError as error:
            # It was tried, whether that can be stored or not.
            _log.warning("result_not_stored", output=self.output.id, reason=str(error))
        except Exception:
            _log.exception("result_not_stored", output=self.output.id)

    def _settle(self, taken: Taken) -> None:
        self.ledger.progress.done(taken)
        self._held.discard(taken.seq)
        self.ledger.save()

    def _bury(self, taken: Taken, reason: str, *, tried: bool = True) -> None:
        self.ledger.progress.bury(taken, self._shared.clock(), reason, tried=tried)
        self._held.discard(taken.seq)
        self._shared.counters.forward_given_up += 1
        self.ledger.save()

    async def _disable(self) -> None:
        _log.warning(
            "output_disabled",
            output=self.output.id,
            bucket=self.bucket.name,
            destination=_shown(self.output),
            reason=GONE,
            hint="`relay output set --enabled` sends again, from where it stopped",
        )
        try:
            await self._shared.disable(self.bucket, self.output, GONE)
        except RelayError as error:
            # It sends nothing more in this process; the next one is told 410 again.
            _log.warning("output_not_disabled", output=self.output.id, reason=str(error))


class Unsent(NamedTuple):
    """Why an event is given up without a try: as its dead letter's reason, and in a sentence."""

    reason: str
    words: str


def _shown(output: Output) -> str:
    """A destination for the log: without what may be secret in it."""
    try:
        destination = parse(output.destination)
    except Invalid:
        return ""
    return f"{destination.scheme}://{destination.authority}"
