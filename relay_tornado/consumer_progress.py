"""A consumer's progress in a log, as a pure state machine: which event it may be given next, and what became of each.

Those that deliver (a group of connections that share a consumer, or an output's forwarder) take events by seq, hand
them out, and report the beginning of each try and its outcome. State that has to survive a restart comes out as
`Changes`.

Invariants:
- Every seq above the position at which the consumer was created is in exactly one state: not yet taken, out (taken, and
  neither done nor failed), done, parked (to be taken again when it is due), or dead. None is skipped: one is done or
  dead only by `done`, `advance`, `bury` or `give_up`, or because its log no longer holds it (`trim`).
- `floor` is below every seq that is not yet taken, or out for the first time, so a restart from the stored state
  repeats at most what was out, and loses nothing. Parked seqs (also while they are out again) and dead ones may be
  below it: they are kept one by one.
- A try that was begun counts, even if its outcome is never reported: such tries are stored, and count as failed after a
  restart (`interrupted`).
- Fresh events are taken in order; parked ones that are due come before them.
- At most `WINDOW` seqs are between the floor and the newest one taken, and at most `MOST_PARKED` are parked or may be
  parked next, being out. At either bound no fresh event is taken until something is done. So the state is bounded.
- `seek` forgets everything except dead events. An event that was taken before it carries an older generation, and can
  no longer be done or failed.
- An event that was out when it was given up, or when its log removed it, is dead, unless it is done after all. If it is
  scheduled before its try has ended, it is out again, with the same try.
- Only an event that is parked, out or the next to be taken is given up. So no event is dead before its turn, unless its
  log removed it.
- When the log loses events, nothing is remembered of them: other events get their seqs, and are given (`lose`).
- A report that failed half-way, as for lack of memory, may be repeated: a seq stays out until its report has succeeded.
- If the wall clock was set back, no parked event waits more than a second longer than requested: callers pass the time
  (`look`). One that is due at `AT_ONCE` does not wait, whatever the clock shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from relay_tornado.consumer_changes import GIVEN_UP, MAX_DELIVER, RETENTION, Changes, Dead, Parked
from relay_tornado.due_times import DueTimes
from relay_tornado.ranges import Ranges

WINDOW: Final = 10_000
MOST_PARKED: Final = 10_000
AT_ONCE: Final = 0.0
"""The due time of an event that need not wait."""

_STEP: Final = 1.0
"""Seconds by which the clock may go back without counting as set."""


class Taken(NamedTuple):
    """An event that is out. `attempt` is 1 the first time. `generation` changes with each `seek`."""

    seq: int
    attempt: int
    generation: int


class Missed(NamedTuple):
    """What a trim removed: `started` are seqs that were parked or out, and are dead now; `fresh` are ranges (from, to,
    inclusive) that were never taken; `untried` are those of `started` that were taken and never tried."""

    started: Sequence[int]
    fresh: Sequence[tuple[int, int]]
    untried: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.started or self.fresh)


class Progress:
    """One consumer's state. Times are unix seconds, and are passed in."""

    def __init__(
        self,
        floor: int,
        done: Iterable[tuple[int, int]] = (),
        parked: Mapping[int, Parked] | None = None,
        at: float = 0.0,
    ) -> None:
        """The state as it was stored at the time `at`: everything up to `floor` is settled, and so are the ranges
        `done` above it."""
        self.floor = floor
        self._latest = at
        """The latest time that the clock has shown since it was last set back."""
        self.generation = 0
        self.parked: dict[int, Parked] = dict(parked or {})
        self._first = 1
        self._next = floor
        self._settled = Ranges(done)
        self._settled.cut_below(floor + 1)
        for seq in self.parked:
            if seq > floor:
                self._settled.add(seq)
        self._out: dict[int, Taken] = {}
        self._tried = Ranges()
        """Seqs that are out and whose try has begun."""
        self._fresh: set[int] = set()
        """Seqs that are out and were not parked before."""
        self._gone: dict[int, Taken] = {}
        """Events that were out when they were given up, or when their log removed them: dead, unless they are done
        after all."""
        self._due = DueTimes(self.parked, self._out)
        self._changes = Changes()
        self._raise(floor)
        self._changed = False

    def interrupted(self, tried: Iterable[tuple[int, int]], at: float, most: int = 0) -> None:
        """Handles the tries that were stored as begun at `at`, and whose outcome is unknown: each counts as failed. The
        event is due at once, or dead if it was tried `most` times (0: no limit).

        To be called before anything is taken. Seqs that are settled by then are left alone.
        """
        there = Ranges(tried)
        again = {seq: one for seq, one in self.parked.items() if seq in there}
        there.cut_below(self.floor + 1)
        there.cut_above(self.floor + WINDOW)
        fresh = [seq for first, last in there for seq in range(first, last + 1) if seq not in self._settled]
        for seq in sorted([*again, *fresh]):
            before = again.get(seq)
            attempts = 1 if before is None else before.attempts + 1
            self._park(seq, Parked(attempts, AT_ONCE, at if before is None else before.since))
            if most and attempts >= most:
                self._bury(seq, attempts, at, MAX_DELIVER)

    # what can be taken

    @property
    def out(self) -> int:
        """How many events are out."""
        return len(self._out)

    @property
    def reached(self) -> int:
        """The newest seq that was taken, or skipped because it is settled."""
        return self._next

    def pending(self, head: int) -> int:
        """How many events up to the log's `head` the consumer is not done with."""
        return max(head - self.floor - len(self._settled), 0) + len(self.parked)

    def waiting(self, head: int) -> int:
        """How many events up to the log's `head` wait to be taken for the first time."""
        return max(head - self.floor - len(self._settled) - len(self._fresh), 0)

    def done_above(self, seq: int) -> int:
        """How many events above `seq` the consumer is done with: those that a `seek` to `seq` would repeat."""
        settled = sum(last - max(first - 1, seq) for first, last in self._settled if last > seq)
        return max(self.floor - seq, 0) + settled - sum(1 for each in self.parked if each > seq)

    def oldest(self, head: int) -> int | None:
        """The oldest event that the consumer is not done with; None if there is none."""
        fresh = [self.floor + 1] if self.floor < head else []
        return min([*fresh, *self.parked], default=None)

    def attempts(self, seq: int) -> int:
        """How often an event that is not done was tried, with a try that is in flight."""
        one = self.parked.get(seq)
        return (0 if one is None else one.attempts) + (seq in self._tried)

    def has_out(self, seq: int) -> bool:
        """Whether the event is out."""
        return seq in self._out

    def is_dead(self, taken: Taken) -> bool:
        """Whether the event was given up, or its log removed it, while it was out for this try."""
        return self._gone.get(taken.seq) == taken

    def expects(self, seq: int) -> bool:
        """Whether this event is out, or will be handed out (again)."""
        return seq in self.parked or (seq > self.floor and seq not in self._settled)

    def take(
        self, head: int, limit: int, now: float, last: int | None = None, into: list[Taken] | None = None
    ) -> list[Taken]:
        """Takes at most `limit` events up to the log's `head`: parked ones that are due (only up to the seq `last`, if
        that is given), then fresh ones in order. If this fails, `into` has the events that were taken."""
        self.look(now)
        taken = [] if into is None else into
        while len(taken) < limit and (seq := self._due.first(now, last)) is not None:
            self._hand_out(taken, seq, self.parked[seq].attempts + 1)
            self._due.pop()
        while len(taken) < limit and self._next < head and self._room():
            self._next = self._settled.end(self._next + 1)
            if self._next < head and self._room():
                if self._next + 1 not in self._out:
                    self._hand_out(taken, self._next + 1, 1)
                self._next += 1
        return taken

    def look(self, now: float) -> None:
        """Takes the time from the caller. If the clock was set back, parked events become due as much earlier."""
        back = self._latest - now
        if back <= _STEP:
            self._latest = max(self._latest, now)
            return
        self._latest = now
        for seq, one in self.parked.items():
            self.parked[seq] = self._changes.parked[seq] = one._replace(due=max(one.due - back, AT_ONCE))
            self._changed = True
        self._due.order()

    def due(self) -> float | None:
        """When the next parked event is due; None if none is parked, or all of them are out. Events that were due and
        beyond the `last` of `take` do not count."""
        return self._due.next()

    @property
    def spare(self) -> int:
        """How many more events may be parked, counting those that are out as parked."""
        return max(MOST_PARKED - len(self.parked) - len(self._fresh), 0)

    def full(self) -> bool:
        """Whether no fresh event can be taken until something is done."""
        return not self._room()

    # outcomes

    def begin(self, taken: Taken) -> None:
        """Begins a try, which counts, whatever its outcome. Changes nothing if the event is not out (any more)."""
        if self._out.get(taken.seq) == taken:
            self._tried.add(taken.seq)
            self._changed = True

    def done(self, taken: Taken) -> bool:
        """The event is done. Returns False, and changes nothing, if it is not out (any more)."""
        if self._gone.get(taken.seq) == taken:
            self._changes.revived.add(taken.seq)
            self._changes.dead.pop(taken.seq, None)
            self._changed = True
            del self._gone[taken.seq]
            return True
        if not self._is_out(taken):
            return False
        self._unpark(taken.seq)
        self._settle(taken.seq)
        self._take_back(taken.seq)
        return True

    def fail(self, taken: Taken, due: float, now: float) -> bool:
        """The try failed, and the event is to be retried at `due`. Returns False as `done` does."""
        if not self._is_out(taken):
            return False
        self.look(now)
        before = self.parked.get(taken.seq)
        self._park(taken.seq, Parked(taken.attempt, due, now if before is None else before.since))
        self._take_back(taken.seq)
        return True

    def bury(self, taken: Taken, now: float, reason: str, *, tried: bool = True) -> bool:
        """The event is given up, after this try or (not `tried`) instead of it. Returns False as `done` does."""
        if not self._is_out(taken):
            return False
        self._bury(taken.seq, taken.attempt if tried else taken.attempt - 1, now, reason)
        self._take_back(taken.seq)
        return True

    def release(self, taken: Taken) -> bool:
        """The event was not tried after all: undoes the take. Returns False as `done` does."""
        if not self._is_out(taken):
            return False
        if taken.seq in self.parked:
            self._due.add(taken.seq)
        else:
            # The seqs in between are settled or out, and are skipped.
            self._next = min(self._next, taken.seq - 1)
        self._take_back(taken.seq)
        return True

    # changes from outside

    def schedule(self, dues: Mapping[int, float], now: float) -> list[int]:
        """Has events delivered (again) when they are due, whatever became of them. Returns the scheduled seqs: without
        those that are out or pending anyway, that the log does not hold, or for which there is no room."""
        self.look(now)
        scheduled = []
        for seq, due in dues.items():
            if seq < self._first or self.expects(seq) or not self.spare:
                continue
            if seq in self._gone:
                self._out[seq] = self._gone.pop(seq)
            self._park(seq, Parked(0, due, now))
            self._changes.dead.pop(seq, None)
            self._changes.revived.add(seq)
            scheduled.append(seq)
        return scheduled

    def give_up(self, seq: int, head: int, now: float) -> Dead | None:
        """Gives an event up from outside, as if its tries were used up: one that is parked or out, or the next one that
        would be taken up to the log's `head`. One that is out may be done after all. Returns None, and changes nothing,
        for any other event."""
        taken = self._out.get(seq)
        if taken is None and seq not in self.parked and seq != self._coming(head):
            return None
        if taken is None:
            self._bury(seq, self.attempts(seq), now, GIVEN_UP)
            return self._changes.dead[seq]
        self._gone[seq] = taken
        try:
            self._bury(seq, taken.attempt - (seq not in self._tried), now, GIVEN_UP)
            self._take_back(seq)
        except MemoryError:
            del self._gone[seq]  # it is still out
            raise
        return self._changes.dead[seq]

    def hasten(self) -> None:
        """Makes failed events due at once; their tries still count."""
        for seq, one in self.parked.items():
            if one.attempts and one.due > AT_ONCE:
                self._park(seq, one._replace(due=AT_ONCE))

    def seek(self, floor: int) -> None:
        """Restarts after `floor`. Parked events and those that are out are forgotten; dead ones stay dead."""
        floor = max(floor, self._first - 1)
        self._forget_out()
        self.floor = self._next = floor
        self._settled.clear()
        self._due.clear()
        self.parked.clear()
        self._changes.parked.clear()
        self._changes.cleared = self._changed = True

    def advance(self, floor: int) -> bool:
        """Everything up to `floor` is done, whether it was taken or not (by a receipt). Returns False, and changes
        nothing, if the floor is there already. Parked events stay parked."""
        if floor <= self.floor:
            return False
        for seq in [seq for seq in self._out if seq <= floor and seq not in self.parked]:
            self._take_back(seq)
        self._raise(floor)
        return True

    def trim(self, first: int, now: float) -> Missed:
        """The log holds nothing below `first` any more. Events that were tried are dead, with the reason
        `RETENTION`."""
        self._first = max(self._first, first)
        out = [taken for seq, taken in self._out.items() if seq < first]
        fresh = self._never_taken(first)
        untried = sorted(seq for seq in self._fresh if seq < first and seq not in self._tried)
        attempts = {seq: one.attempts for seq, one in self.parked.items() if seq < first}
        attempts |= {taken.seq: taken.attempt for taken in out}
        started = sorted(attempts)
        for taken in out:
            self._gone[taken.seq] = taken
        for seq in started:
            self._bury(seq, attempts[seq], now, RETENTION)
        for taken in out:
            self._take_back(taken.seq)
        if self.floor < first - 1:
            self._raise(first - 1)
        return Missed(started, fresh, untried)

    def lose(self, head: int) -> bool:
        """The log ends at `head` again: later events were lost, and others will get their seqs. Events that are out
        become invalid, as after a `seek`. Returns False if nothing was known of lost events.

        Changes that were stored since may be lost, too, so everything is stored again, except dead events.
        """
        known = max([self._next, *(last for _, last in self._settled), *self.parked, *self._out]) > head
        if known:
            self._forget_above(head)
        changes = self._changes
        changes.dead = {seq: one for seq, one in changes.dead.items() if seq <= head}
        changes.cleared = self._changed = True
        changes.parked = dict(self.parked)
        changes.revived |= self.parked.keys()
        return known

    def _forget_above(self, head: int) -> None:
        self._first = min(self._first, head + 1)
        self._next = min([self._next, head, *(seq - 1 for seq in self._out if seq not in self.parked)])
        for seq in [seq for seq in self._out if seq in self.parked]:
            self._due.add(seq)
        self._forget_out()
        for seq in [seq for seq in self.parked if seq > head]:
            self._unpark(seq)
        self._settled.cut_above(head)
        self.floor = min(self.floor, head)

    # changes to store

    def changes(self) -> Changes | None:
        """The changes since the last call; None if there are none."""
        if not self._changed:
            return None
        changes = self._changes
        changes.floor = self.floor
        changes.done = tuple(self._settled)
        changes.tried = tuple(self._tried)
        self._changes, self._changed = Changes(), False
        return changes

    def _room(self) -> bool:
        return self._next - self.floor < WINDOW and self.spare > 0

    def _coming(self, head: int) -> int | None:
        """The next event that would be taken for the first time; None if all of them were."""
        seq = self._settled.end(self._next + 1) + 1
        while seq in self._out:
            seq = self._settled.end(seq + 1) + 1
        return seq if seq <= head else None

    def _hand_out(self, taken: list[Taken], seq: int, attempt: int) -> None:
        taken.append(one := Taken(seq, attempt, self.generation))
        self._out[seq] = one
        if seq not in self.parked:
            self._fresh.add(seq)

    def _is_out(self, taken: Taken) -> bool:
        """Whether the event is still out. Afterwards, an event that was removed meanwhile can't be done any more."""
        if self._out.get(taken.seq) == taken:
            return True
        if self._gone.get(taken.seq) == taken:
            del self._gone[taken.seq]
        return False

    def _forget_out(self) -> None:
        """Invalidates everything that is out."""
        self.generation += 1
        self._out.clear()
        self._tried.clear()
        self._gone.clear()
        self._fresh.clear()

    def _take_back(self, seq: int) -> None:
        """The event is no longer out. This is the last step of a report, so that a report that failed half-way can be
        repeated."""
        if seq in self._tried:
            self._tried.remove(seq)
            self._changed = True
        self._fresh.discard(seq)
        del self._out[seq]

    def _bury(self, seq: int, attempts: int, now: float, reason: str) -> None:
        before = self.parked.get(seq)
        self._changes.dead[seq] = Dead(attempts, now, now if before is None else before.since, reason)
        self._changes.revived.discard(seq)
        self._unpark(seq)
        self._settle(seq)

    def _never_taken(self, first: int) -> list[tuple[int, int]]:
        """The ranges below `first` that are neither settled nor out."""
        found = []
        seq = self._next + 1
        others = sorted([*self._settled, *((each, each) for each in self._out if each > self._next)])
        for begin, end in others:
            if begin >= first:
                break
            if begin > seq:
                found.append((seq, begin - 1))
            seq = max(seq, end + 1)
        if seq < first:
            found.append((seq, first - 1))
        return found

    def _raise(self, floor: int) -> None:
        """Settles everything up to `floor`, and raises the floor further if later seqs are settled."""
        floor = self._settled.end(floor + 1)
        if floor > self.floor:
            self._next = max(self._next, floor)
            self._settled.cut_below(floor + 1)
            self._changed = True
            self.floor = floor

    def _park(self, seq: int, one: Parked) -> None:
        self.parked[seq] = self._changes.parked[seq] = one
        self._changes.unparked.discard(seq)
        self._due.add(seq)
        self._settle(seq)

    def _unpark(self, seq: int) -> None:
        if seq in self.parked:
            self._changes.unparked.add(seq)
            self._changes.parked.pop(seq, None)
            del self.parked[seq]

    def _settle(self, seq: int) -> None:
        self._changed = True
        if seq > self.floor:
            self._settled.add(seq)
            self._raise(self.floor)
