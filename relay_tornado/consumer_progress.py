"""How far a consumer is in a log, as a pure state machine: what it may be given next, and what it is done with.

Whoever delivers (a group of connections that share a consumer, the forwarder of an output) takes events by their seqs,
hands them out, and says when a try of each begins, and what came of it. What has to survive a restart comes out as
`Changes`.

Invariants:
- Every seq above the position at which the consumer was made is, at any moment, exactly one of: not yet taken, out
  (taken and neither done nor failed), done, parked (to be taken again when it is due), dead. None is ever skipped:
  it leaves these only by `done`, by `bury`, or because its log no longer holds it (`trim`).
- `floor` never lies at or above a seq that is out or not yet taken, so a restart from what was stored repeats at most
  what was out, and loses nothing. Parked and dead seqs may lie below it: they are kept one by one.
- A try that was begun counts, also where nothing more is heard of it: which those are is stored, and after a restart
  each of them was in vain (`interrupted`).
- Fresh events are taken in order; a parked one that is due goes before them.
- At most `WINDOW` seqs lie between the floor and the newest one taken, and at most `MOST_PARKED` are parked (or out,
  and may be parked next): at either bound no fresh event is taken until something is done. So the state is bounded.
- `seek` forgets all but the dead. What was taken before it is strange to the state behind it: it carries the generation
  in which it was taken, and is then neither done nor failed.
- What was out when its log let it go is dead, unless it is done all the same.
- Of what its log lost nothing is left, whatever became of it: other events get those seqs, and are given (`lose`).
- What fails half-way, as for want of memory, may be said again: until it went well, a seq that was out stays so.
- Nothing parked waits longer than it was asked to because the clock of day was set back: whoever uses the state says
  what time it is (`look`), and what is due at once is due at `AT_ONCE`, whatever the clock shows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from relay_tornado.consumer_changes import MAX_DELIVER, RETENTION, Changes, Dead, Parked
from relay_tornado.ranges import Ranges

WINDOW: Final = 10_000
MOST_PARKED: Final = 10_000
AT_ONCE: Final = 0.0
"""When an event is due that need not wait."""

_STEP: Final = 1.0
"""Seconds that a clock may go back without having been set."""


class Taken(NamedTuple):
    """An event that is out. `attempt` is 1 the first time. `generation` changes with every `seek`."""

    seq: int
    attempt: int
    generation: int


class Missed(NamedTuple):
    """What a trim took away: seqs that were parked or out, which are dead now, ranges (from, to, both in it) of those
    that were never taken, and those of the first that were taken and never tried."""

    started: Sequence[int]
    fresh: Sequence[tuple[int, int]]
    untried: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.started or self.fresh)


class Progress:
    """One consumer's state. Times are unix seconds, and come from outside."""

    def __init__(
        self,
        floor: int,
        done: Iterable[tuple[int, int]] = (),
        parked: Mapping[int, Parked] | None = None,
        at: float = 0.0,
    ) -> None:
        """As it was stored, which was at `at`: everything up to `floor` is settled, and so are the ranges `done` above
        it."""
        self.floor = floor
        self._latest = at
        """The latest that the clock has shown since it was set back."""
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
        """Those out whose try has begun."""
        self._fresh: set[int] = set()
        """Those out that were not parked before."""
        self._gone: dict[int, Taken] = {}
        """Those that were out when their log let them go: dead, but perhaps done after all."""
        self._due: list[tuple[float, int]] = []
        """A heap of when each parked one is due."""
        self._behind: list[tuple[float, int]] = []
        """Those of them that were due and lie behind `_last`."""
        self._order()
        self._last: int | None = None
        """Which parked ones may be taken, as it was said last."""
        self._changes = Changes()
        self._raise(floor)
        self._changed = False

    def interrupted(self, tried: Iterable[tuple[int, int]], at: float, most: int = 0) -> None:
        """What was being tried when it was stored last (`at`), of which nothing more was heard: each of these tries was
        in vain, and the event is due at once; one that was tried as often as it may be (`most`, 0: without end) is
        dead.

        It is for a state that nothing was taken of yet. What is settled by then is left alone.
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

    # what may be had

    @property
    def out(self) -> int:
        """How many events are out."""
        return len(self._out)

    @property
    def reached(self) -> int:
        """The newest seq that was taken, or passed over as settled."""
        return self._next

    def pending(self, head: int) -> int:
        """How many events it is not done with, of a log with this head."""
        return max(head - self.floor - len(self._settled), 0) + len(self.parked)

    def done_above(self, seq: int) -> int:
        """How many events above `seq` it is done with: what a `seek` to there would have it be given again."""
        settled = sum(last - max(first - 1, seq) for first, last in self._settled if last > seq)
        return max(self.floor - seq, 0) + settled - sum(1 for each in self.parked if each > seq)

    def oldest(self, head: int) -> int | None:
        """The oldest event that it is not done with, None where there is none."""
        fresh = [self.floor + 1] if self.floor < head else []
        return min([*fresh, *self.parked], default=None)

    def expects(self, seq: int) -> bool:
        """Whether this event is out, or is to be handed out (again)."""
        return seq in self.parked or (seq > self.floor and seq not in self._settled)

    def take(
        self, head: int, limit: int, now: float, last: int | None = None, into: list[Taken] | None = None
    ) -> list[Taken]:
        """At most `limit` events that are to be handed out, of a log with this head: parked ones that are due (up to
        the seq `last`, where that is not None), then fresh ones in order. Where it fails, `into` has what was taken."""
        self.look(now)
        if last != self._last:
            self._due += self._behind
            heapq.heapify(self._due)
            self._behind.clear()
            self._last = last
        taken = [] if into is None else into
        while self._due and self._due[0][0] <= now and len(taken) < limit:
            due, seq = self._due[0]
            one = self.parked.get(seq)
            if last is not None and seq > last:
                self._behind.append((due, seq))
            elif one is not None and one.due == due and seq not in self._out:
                self._hand_out(taken, seq, one.attempts + 1)
            heapq.heappop(self._due)
        while len(taken) < limit and self._next < head and self._room():
            self._next = self._settled.end(self._next + 1)
            if self._next < head and self._room():
                if self._next + 1 not in self._out:
                    self._hand_out(taken, self._next + 1, 1)
                self._next += 1
        return taken

    def look(self, now: float) -> None:
        """The clock shows this. Where it was set back, what is parked is due as much sooner."""
        back = self._latest - now
        if back <= _STEP:
            self._latest = max(self._latest, now)
            return
        self._latest = now
        for seq, one in self.parked.items():
            self.parked[seq] = self._changes.parked[seq] = one._replace(due=max(one.due - back, AT_ONCE))
            self._changed = True
        self._order()

    def due(self) -> float | None:
        """When the next parked event is due, None where none is parked (or all of them are out). What was due and
        behind the `last` of `take` does not count."""
        while self._due:
            due, seq = self._due[0]
            one = self.parked.get(seq)
            if one is not None and one.due == due and seq not in self._out:
                return due
            heapq.heappop(self._due)
        return None

    def full(self) -> bool:
        """Whether fresh events have to wait until something is done."""
        return not self._room()

    # what came of it

    def begin(self, taken: Taken) -> None:
        """It is being tried from now on, which counts, whatever becomes of it. Nothing changes where it is not out (any
        more)."""
        if self._out.get(taken.seq) == taken:
            self._tried.add(taken.seq)
            self._changed = True

    def done(self, taken: Taken) -> bool:
        """It is dealt with. False where it is not out (any more): nothing changes."""
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
        """It was tried in vain, and is to be tried again when it is `due`. False as in `done`."""
        if not self._is_out(taken):
            return False
        self.look(now)
        before = self.parked.get(taken.seq)
        self._park(taken.seq, Parked(taken.attempt, due, now if before is None else before.since))
        self._take_back(taken.seq)
        return True

    def bury(self, taken: Taken, now: float, reason: str, *, tried: bool = True) -> bool:
        """It is given up, after this try or (not `tried`) instead of it. False as in `done`."""
        if not self._is_out(taken):
            return False
        self._bury(taken.seq, taken.attempt if tried else taken.attempt - 1, now, reason)
        self._take_back(taken.seq)
        return True

    def release(self, taken: Taken) -> bool:
        """It was not tried after all: as if it had not been taken. False as in `done`."""
        if not self._is_out(taken):
            return False
        if (one := self.parked.get(taken.seq)) is not None:
            heapq.heappush(self._due, (one.due, taken.seq))
        else:
            # Those between are settled or out, and are passed over.
            self._next = min(self._next, taken.seq - 1)
        self._take_back(taken.seq)
        return True

    # what changes it from outside

    def schedule(self, dues: Mapping[int, float], now: float) -> list[int]:
        """Has events be given (again) when they are due, whatever became of them. Returns which: those that are out or
        to come anyway are not among them, nor those that its log does not hold or for which there is no room."""
        self.look(now)
        scheduled = []
        for seq, due in dues.items():
            if seq < self._first or self.expects(seq) or not self._spare():
                continue
            self._park(seq, Parked(0, due, now))
            self._changes.dead.pop(seq, None)
            self._changes.revived.add(seq)
            scheduled.append(seq)
        return scheduled

    def hasten(self) -> None:
        """What was tried in vain is due at once; its tries count as before."""
        for seq, one in self.parked.items():
            if one.attempts and one.due > AT_ONCE:
                self._park(seq, one._replace(due=AT_ONCE))

    def seek(self, floor: int) -> None:
        """Begins anew behind `floor`. What is parked or out is forgotten; what is dead stays so."""
        floor = max(floor, self._first - 1)
        self._forget_out()
        self.floor = self._next = floor
        self._settled.clear()
        self._due.clear()
        self._behind.clear()
        self.parked.clear()
        self._changes.parked.clear()
        self._changes.cleared = self._changed = True

    def advance(self, floor: int) -> bool:
        """Everything up to `floor` is done with, whether it was taken or not (a receipt says so). False where it was
        before: nothing changes. What is parked stays so."""
        if floor <= self.floor:
            return False
        for seq in [seq for seq in self._out if seq <= floor and seq not in self.parked]:
            self._take_back(seq)
        self._raise(floor)
        return True

    def trim(self, first: int, now: float) -> Missed:
        """The log holds nothing below `first` any more. What was tried becomes dead, for the reason `RETENTION`."""
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
        """The log ends at `head` again: what came after it was lost, and other events will have its seqs. What is out
        is strange to the state from now on, as after a `seek`. False where nothing was known of what is lost.

        What was stored since may be lost, too: all of it is stored anew, but for what is dead.
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
            heapq.heappush(self._due, (self.parked[seq].due, seq))
        self._forget_out()
        for seq in [seq for seq in self.parked if seq > head]:
            self._unpark(seq)
        self._settled.cut_above(head)
        self.floor = min(self.floor, head)

    # what is to be stored

    def changes(self) -> Changes | None:
        """What changed since the last call, None where nothing did."""
        if not self._changed:
            return None
        changes = self._changes
        changes.floor = self.floor
        changes.done = tuple(self._settled)
        changes.tried = tuple(self._tried)
        self._changes, self._changed = Changes(), False
        return changes

    def _room(self) -> bool:
        return self._next - self.floor < WINDOW and self._spare()

    def _spare(self) -> bool:
        """Whether one more may be parked, when all that is out might be."""
        return len(self.parked) + len(self._fresh) < MOST_PARKED

    def _hand_out(self, taken: list[Taken], seq: int, attempt: int) -> None:
        taken.append(one := Taken(seq, attempt, self.generation))
        self._out[seq] = one
        if seq not in self.parked:
            self._fresh.add(seq)

    def _is_out(self, taken: Taken) -> bool:
        """Whether it is out still; what left meanwhile can't be done any more after this."""
        if self._out.get(taken.seq) == taken:
            return True
        if self._gone.get(taken.seq) == taken:
            del self._gone[taken.seq]
        return False

    def _forget_out(self) -> None:
        """What is out is strange to the state from now on."""
        self.generation += 1
        self._out.clear()
        self._tried.clear()
        self._gone.clear()
        self._fresh.clear()

    def _take_back(self, seq: int) -> None:
        """It is out no longer: the last step of what says what came of it, so that this can be said again where it
        failed half-way."""
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
        """The ranges below `first` of what is neither settled nor out."""
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
        """Everything up to there is settled, and perhaps more behind it."""
        floor = self._settled.end(floor + 1)
        if floor > self.floor:
            self._next = max(self._next, floor)
            self._settled.cut_below(floor + 1)
            self._changed = True
            self.floor = floor

    def _park(self, seq: int, one: Parked) -> None:
        self.parked[seq] = self._changes.parked[seq] = one
        self._changes.unparked.discard(seq)
        heapq.heappush(self._due, (one.due, seq))
        self._settle(seq)

    def _order(self) -> None:
        self._due = [(one.due, seq) for seq, one in self.parked.items()]
        heapq.heapify(self._due)
        self._behind.clear()

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
