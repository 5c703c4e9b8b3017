"""One public output: takes events from the log through its ledger, sends them, and reports each result.

Invariants:
- Each event that the ledger hands out ends in exactly one of done, fail, bury or release. It is done only if it has no
  copy for this output, is no longer in the log, or was answered with 2xx, after that answer was received. So whatever
  happens between a request and the storing of its result, the event is attempted again: it may be repeated, but never
  lost.
- Only a request that was begun uses up an attempt; the ledger's number is that of the attempt. It does not if the
  system had no means for a connection (`Delayed`). An event of which no request can be made (`Unsent`) is given up at
  once, without an attempt: neither the circuit nor the throttle counts it, so no sender can stop the events of others
  by what it sends. While the circuit is open, the throttle is exhausted or the output is paused, nothing is taken.
- An output that sends one event after the other has at most one request in flight. A failed event holds later ones back
  (`_held`) during its quick attempts; with `strict_order` until it is done or given up, and then also resent ones.
- An event that is given up during its request is sent if that succeeds, and failed otherwise. Before its request, none
  is made.
- An answer says nothing of a destination that the output has been given since. It counts for the circuit under which
  the request was made, and disables nothing.
- An output that is caught up, or waits, has no task; a timer wakes it. It has at most `at_once` tasks that attempt, and
  `_RECORDS` that store results.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

import structlog

from relay_tornado.consumer_changes import GIVEN_UP
from relay_tornado.consumer_progress import AT_ONCE, Taken
from relay_tornado.copies import Goes
from relay_tornado.errors import BucketGone, Invalid
from relay_tornado.forwarding.attempt import AttemptResult, Delayed, Request, Unsent, attempt, prepare
from relay_tornado.forwarding.disabling import GONE, Disabling
from relay_tornado.forwarding.permits import Permit, Permits
from relay_tornado.forwarding.reading import Lost, Reading, Removed
from relay_tornado.forwarding.records import Records
from relay_tornado.forwarding.schedule import Schedule, begun, schedule_of
from relay_tornado.forwarding.shared import Shared
from relay_tornado.log.ledgers import Ledger
from relay_tornado.low_memory import Timer
from relay_tornado.model import Bucket, Event, Output
from relay_tornado.rate_limits import RepeatLimit
from relay_tornado.wire.destination import origin_of

_RECORDS: Final = 32
_TURNS: Final = 100
"""The number of events skipped before other tasks get a turn."""
_LOOK: Final = 60.0
"""The longest timer, in seconds: the clock of day may be set meanwhile."""
_FAULT: Final = 1.0
"""Seconds until the next attempt if an event could not be read, or the relay itself failed on it."""
_REASON: Final = 200
"""Maximum length of a dead letter's reason, in characters."""

_log = structlog.get_logger(__name__)


class Forwarder:
    """Forwards the events of one output. Call `change` after changes and `poke` after new events; both are quick."""

    def __init__(
        self, shared: Shared, bucket: Bucket, output: Output, ledger: Ledger, deleted: Callable[[], None]
    ) -> None:
        """`deleted` is called if the ledger was deleted elsewhere."""
        self._shared = shared
        self.bucket = bucket
        self.output = output
        self.ledger = ledger
        self._permits = Permits(shared, output, self.poke)
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[int] = set()
        self._timer = Timer(self.poke)
        self._poked = Timer(self._pump)
        self._resting = self._ended = False
        self._halted = False
        """Whether nothing is sent, as the destination answered 410, or the bucket's log is gone."""
        self.failure = ""
        """Why the last attempt that failed did, in a sentence."""
        self._reading = Reading(shared, bucket.id, output.id)
        self._records = Records(shared, bucket.id, output)
        self._disabling = Disabling(shared)
        self._delayed = RepeatLimit(shared.monotonic)
        self._on_deleted = deleted
        self._unwatch = ledger.watch(self._told)
        self._take_over(bucket, output)

    # state

    @property
    def active(self) -> bool:
        """Whether it sends events now."""
        return not (self.output.disabled or self.output.paused or self._halted or self._ended)

    @property
    def over(self) -> bool:
        """Whether it has ended: it takes no more events."""
        return self._ended

    @property
    def circuit_open(self) -> bool:
        return self._permits.circuit.opened

    def next_probe(self) -> float | None:
        """When the next attempt may begin while the circuit is open, in unix seconds; infinity while one is in flight.
        None if the circuit is not open."""
        circuit = self._permits.circuit
        return self._shared.clock() + circuit.wait(self._shared.monotonic()) if circuit.opened else None

    @property
    def parked(self) -> int:
        """The number of events on its retry schedule."""
        return len(self.ledger.progress.parked)

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return self._permits.in_use

    def full(self, coming: int) -> bool:
        """Whether the queue is full. Events in flight or on the retry schedule, which later ones pass, do not count;
        `coming` ones that are not in the log yet do."""
        depth = self._permits.throttle.depth
        if depth is None or not self.active:
            return False
        head, most = self._shared.head(self.bucket.id), depth - coming
        return head - self.ledger.progress.floor >= most and self.ledger.progress.waiting(head) >= most

    def reaches(self, event: Event) -> bool:
        """Whether the event is to be sent there now."""
        return (
            self.active
            and not self._resting
            and not self.circuit_open
            and self._goes.there(event, self._shared.subjects.of)
        )

    # changes

    def change(self, bucket: Bucket, output: Output) -> None:
        """Takes over a changed bucket or output."""
        before = self.output
        self._take_over(bucket, output)
        if before != output:
            self._halted, self._disabling.at = False, None
        self.poke()

    def poke(self) -> None:
        """Checks soon whether there is anything to do."""
        if self._poked.at is None and not self._ended:
            self._poked.soon()

    def rest(self) -> None:
        """Begins no more requests; those in flight continue."""
        self._resting = True

    def end(self) -> None:
        """Stops taking events; requests in flight continue. May be repeated."""
        self._ended = True
        self._unwatch()
        self._permits.close()
        self._timer.cancel()

    async def ended(self) -> None:
        """Waits, after `rest` or `end`, for the requests in flight."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """Cancels the requests in flight; their events count as not sent."""
        for task in self._tasks:
            task.cancel()

    def _take_over(self, bucket: Bucket, output: Output) -> None:
        """Takes over all of it, or nothing if it raises."""
        goes, schedule = Goes(bucket, output), schedule_of(output)
        self._permits.change(output)
        self.bucket, self.output = bucket, output
        self._goes = goes
        self._schedule: Schedule = schedule
        self._hold_again()

    def _told(self) -> None:
        """Called when the ledger was changed elsewhere."""
        if self.ledger.gone:
            self._on_deleted()
            return
        self._hold_again()
        self.poke()

    def _hold_again(self) -> None:
        self._held = {seq for seq, one in self.ledger.progress.parked.items() if self._holds(one.attempts)}

    def _holds(self, attempts: int) -> bool:
        """Whether an event holds later ones back after this many failed attempts."""
        if self.output.strict_order:
            return attempts > 0
        return self._permits.at_once == 1 and 0 < attempts < self._schedule.quick

    # taking events

    def _pump(self) -> None:
        if self._halted and self._disabling.at is not None:
            self._disable_again(self._disabling.at - self._shared.monotonic())
            return
        for _ in range(_TURNS):
            if not self.active or self._resting or self.ledger.gone:
                return
            most = self._permits.at_once
            if self.in_flight >= most or len(self._tasks) >= most + _RECORDS:
                return  # a task that ends pokes
            if wait := self._permits.wait():
                if wait < math.inf:
                    self._wake_in(wait)
                return
            if not self._take():
                return
        self.poke()

    def _take(self) -> bool:
        """Takes the next event; returns whether there was one."""
        progress, bucket_id = self.ledger.progress, self.bucket.id
        # While events are held back, none that was not attempted yet is taken. Those that are due again may go, in
        # strict order only up to the first one that failed.
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
            self._permits.hold(_FAULT)
            self._wake_in(_FAULT)
            _log.exception("event_not_taken", output=self.output.id)
            return False

    def _begin(self, taken: Taken) -> bool:
        """Starts work on a taken event; returns False if there is no slot for it."""
        event = self._reading.peek(taken.seq)
        if event is not None and not self._goes.there(event, self._shared.subjects.of):
            self._settle(taken)
            return True
        permit = self._permits.take()
        if permit is None:
            self.ledger.progress.release(taken)
            return False
        try:
            task = asyncio.get_running_loop().create_task(self._work(taken, event, permit))
        except BaseException:
            permit.cancel()
            permit.release()
            raise
        self._watch(task)
        return True

    def _watch(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _wake_in(self, seconds: float) -> None:
        # A timer may fire a little early, and an event that is not due yet would then need another one.
        self._timer.after(min(max(seconds, 0.0) + 0.001, _LOOK))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("forwarding_failed", output=self.output.id, exc_info=task.exception())
        self.poke()

    # attempts

    async def _work(self, taken: Taken, event: Event | None, permit: Permit) -> None:
        """Processes a taken event until its result is stored."""
        result: AttemptResult | None = None
        try:
            admitting = self._admit(taken, event, permit)
            event = None  # waiting for room may take long, and must not keep it
            event = await admitting
            if event is None:
                return
            epoch, received_at, size = event.epoch, event.received_at, event.size
            try:
                ready = self._ready(event, taken)
                event = None  # frees it: it may be large, and storing takes time
                if isinstance(ready, Request):
                    permit.begin()
                    self.ledger.progress.begin(taken)
                    self.ledger.save()
                    made = await attempt(self._shared, self.output, ready)
                    if isinstance(made, Delayed):
                        self._delay(taken, made, permit)
                    else:
                        result = made
            finally:
                self._shared.memory.give_back(self, size)
            if isinstance(ready, Unsent):
                permit.cancel()
                await self._give_up(taken, epoch, ready, permit)
            elif result is not None:
                del ready  # it is as large as the event
                await self._judge(taken, epoch, received_at, result, permit)
        except BaseException as error:
            # The result is unknown, so the event is sent again, even to a destination that answered 410.
            self._halted, self._disabling.at = False, None
            self.ledger.progress.release(taken)
            self.ledger.save()
            if not isinstance(error, asyncio.CancelledError):
                permit.hold(_FAULT)
            raise
        finally:
            if result is None:
                permit.cancel()
            permit.release()

    async def _admit(self, taken: Taken, event: Event | None, permit: Permit) -> Event | None:
        """The event, once the shared memory has room for its size; None if it is not to be sent now. Reading it and
        waiting for room may take long, so whether it may be sent is judged before and after each."""
        while self.active and not self._resting and permit.holds and not self.ledger.progress.is_dead(taken):
            if event is None:
                event = await self._load(taken)
                if event is None:
                    return None
            elif not self._goes.there(event, self._shared.subjects.of):
                self._settle(taken)
                return None
            elif self._shared.memory.take(self, event.size):
                return event
            else:
                event = None
                await self._shared.memory.room()
        self.ledger.progress.release(taken)
        return None

    async def _load(self, taken: Taken) -> Event | None:
        """The event; None if there is nothing to send, or it can't be read now."""
        try:
            found = await self._reading.load(taken.seq)
        except BucketGone:
            self._halted = True
            self.ledger.progress.release(taken)
            return None
        if isinstance(found, Lost):
            await self._pass_over(taken, found)
            return None
        if isinstance(found, Removed):
            self.ledger.trim(found.first)
            self.ledger.progress.release(taken)  # no more will come of it
            self._hold_again()
            return None
        if found is None:
            self.ledger.progress.release(taken)
            self._permits.hold(_FAULT)
        return found

    async def _pass_over(self, taken: Taken, lost: Lost) -> None:
        again, why = taken.seq in self.ledger.progress.parked, self.ledger.miss(taken.seq, lost.error)
        if again:
            await self._give_up(taken, lost.epoch, Unsent(why, "its content is not there any more"))
        else:
            self._settle(taken)

    def _delay(self, taken: Taken, delayed: Delayed, permit: Permit) -> None:
        self.ledger.progress.release(taken)
        self.ledger.save()
        permit.take_back()
        permit.hold(_FAULT)
        if self._delayed.due(delayed.reason):  # it is tried again each second
            _log.warning("event_not_sent", output=self.output.id, bucket=self.bucket.name, reason=delayed.reason)

    # results

    async def _judge(self, taken: Taken, epoch: str, received_at: float, result: AttemptResult, permit: Permit) -> None:
        if result.outcome == "sent":
            if permit.succeeded():
                _log.info("circuit_closed", output=self.output.id, name=self.output.name, bucket=self.bucket.name)
            if not self.output.strict_order:
                permit.release()  # the next one need not wait until this result is stored
            await self._records.store(taken, epoch, result, "sent")
            self._settle(taken)
            return
        self._failed(result, permit)
        if result.status == 410 and not permit.moved:
            self._halted = True
            await self._records.store(taken, epoch, result, "failed")
            self._bury(taken, GONE)
            if not permit.moved:
                await self._disable()
            return
        pause = 0.0 if permit.moved else self._pause(taken, received_at, result)
        if self.ledger.progress.is_dead(taken):
            pause = GIVEN_UP
        if isinstance(pause, str):
            await self._records.store(taken, epoch, result, "failed")
            self._bury(taken, pause)
            return
        await self._records.store(taken, epoch, result, "stalled")
        now = self._shared.clock()  # the clock may have been set meanwhile
        due = AT_ONCE if permit.moved else now + pause
        if self.ledger.progress.fail(taken, due, now):
            if self._holds(taken.attempt):
                self._held.add(taken.seq)
            else:
                self._held.discard(taken.seq)
        self.ledger.save()

    def _failed(self, result: AttemptResult, permit: Permit) -> None:
        if result.retry_after and result.status in (429, 503):
            # The destination speaks of itself, not of this event.
            permit.hold(result.retry_after)
        opened = permit.failed()
        if permit.moved:
            return
        self.failure = result.reason
        if opened:
            _log.warning(
                "circuit_opened",
                output=self.output.id,
                name=self.output.name,
                bucket=self.bucket.name,
                destination=origin_of(self.output.destination),
                last=result.status or result.outcome,
                reason=self.failure,
                consequence="its events wait, and one is tried now and then",
            )

    def _pause(self, taken: Taken, received_at: float, result: AttemptResult) -> float | str:
        """Seconds until the next attempt, or the reason why there is none."""
        schedule = self._schedule
        since = self._since(taken)
        start = begun(received_at, since, schedule.deadline)
        now = self._shared.clock()
        due = schedule.due(taken.attempt, start, now, self._shared.spread(), result.retry_after)
        return f"{due}: {result.status or result.outcome}" if isinstance(due, str) else due - now

    def _expired(self, event: Event, taken: Taken) -> bool:
        """Whether the throttle's deadline has passed."""
        deadline = self._permits.throttle.deadline
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

    async def _give_up(self, taken: Taken, epoch: str, unsent: Unsent, permit: Permit | None = None) -> None:
        if permit is not None and not self.output.strict_order:
            permit.release()
        told = AttemptResult("invalid", 0, {}, f"Not sent: {unsent.words}.".encode(), 0.0, None)
        await self._records.store(taken, epoch, told, "failed")
        self._bury(taken, unsent.reason, tried=False)

    # A result from before a seek changes nothing: the event may be held back again since.

    def _settle(self, taken: Taken) -> None:
        if self.ledger.progress.done(taken):
            self._held.discard(taken.seq)
        self.ledger.save()

    def _bury(self, taken: Taken, reason: str, *, tried: bool = True) -> None:
        if self.ledger.progress.bury(taken, self._shared.clock(), reason, tried=tried):
            self._held.discard(taken.seq)
            self._shared.counters.forward_given_up += 1
        self.ledger.save()

    def _disable_again(self, wait: float) -> None:
        if self._ended or self._tasks:
            return  # a task that ends pokes
        if wait > 0:
            self._wake_in(wait)
        else:
            self._watch(asyncio.get_running_loop().create_task(self._disable()))

    async def _disable(self) -> None:
        output = self.output
        if not await self._disabling.disable(self.bucket, output) or self.output.destination != output.destination:
            return  # it is disabled later, or got another destination meanwhile and stays enabled
        _log.warning(
            "output_disabled",
            output=output.id,
            bucket=self.bucket.name,
            destination=origin_of(output.destination),
            reason=GONE,
            hint="`relay output set --enabled` sends again, from where it stopped",
        )
