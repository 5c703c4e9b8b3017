"""How far a consumer is: everything that may happen to it, against a plain model."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay_tornado import consumer_progress as module
from relay_tornado.consumer_changes import GIVEN_UP, Dead, Parked
from relay_tornado.consumer_progress import Progress, Taken
from tests.progress import seqs


class Model:
    """What became of each seq, one by one."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.state: dict[int, str] = dict.fromkeys(range(1, start + 1), "done")
        self.parked: dict[int, Parked] = {}
        self.dead: set[int] = set()
        self.tried: set[int] = set()

    def of(self, *states: str) -> list[int]:
        return sorted(seq for seq, state in self.state.items() if state in states)

    def up_to(self, head: int) -> Model:
        """The same without what lies above `head`."""
        model = Model(self.start)
        model.state = {seq: state for seq, state in self.state.items() if seq <= head}
        model.parked = {seq: one for seq, one in self.parked.items() if seq <= head}
        model.dead = {seq for seq in self.dead if seq <= head}
        model.tried = {seq for seq in self.tried if seq <= head}
        return model


class Machine(RuleBasedStateMachine):
    """Everything that may happen to a consumer, in any order; what is stored is stored at any moment."""

    @initialize(start=st.integers(0, 3))
    def begin(self, start: int) -> None:
        self.first, self.head, self.now = 1, start, 0.0
        self.model = Model(start)
        self.progress = Progress(start)
        self.out: dict[int, Taken] = {}
        self.strange: list[Taken] = []
        self.late: list[Taken] = []
        self.kept = (start, (), {})  # type: tuple[int, tuple[tuple[int, int], ...], dict[int, Parked]]
        self.kept_tried: tuple[tuple[int, int], ...] = ()
        self.kept_dead: set[int] = set()
        self.kept_model = deepcopy(self.model)
        self.kept_before = (self.kept, self.kept_tried, self.kept_dead, self.kept_model)

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.head += 1
            self.model.state[self.head] = "fresh"

    @rule(seconds=st.integers(0, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 6))
    def take(self, limit: int) -> None:
        if not self.model.of("fresh", "out", "out again", "parked"):
            self.append(limit)
        due = sorted((one.due, seq) for seq, one in self.model.parked.items() if self.model.state[seq] == "parked")
        due = [(when, seq) for when, seq in due if when <= self.now][:limit]
        fresh = self.model.of("fresh")
        taken = self.progress.take(self.head, limit, self.now)
        assert seqs(taken[: len(due)]) == [seq for _, seq in due]
        rest = taken[len(due) :]
        assert seqs(rest) == fresh[: len(rest)]
        if len(taken) < limit and len(rest) < len(fresh):
            assert self.progress.full()
            assert taken or self.model.of("out", "out again", "parked"), "full for nothing"
        for one in taken:
            tried = self.model.parked.get(one.seq)
            assert one.attempt == (1 if tried is None else tried.attempts + 1)
            self.model.state[one.seq] = "out" if tried is None else "out again"
            self.out[one.seq] = one
            assert one.seq - self.progress.floor <= module.WINDOW

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def begin_one(self, data: st.DataObject) -> None:
        one = self.out[data.draw(st.sampled_from(sorted(self.out)))]
        self.progress.begin(one)
        self.model.tried.add(one.seq)

    def some(self, data: st.DataObject) -> Taken:
        one = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        self.model.tried.discard(one.seq)
        return one

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        one = self.some(data)
        assert self.progress.done(one)
        assert not self.progress.done(one)
        self.model.state[one.seq] = "done"
        self.model.parked.pop(one.seq, None)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait=st.integers(0, 4))
    def fail(self, data: st.DataObject, wait: int) -> None:
        one = self.some(data)
        assert self.progress.fail(one, self.now + wait, self.now)
        before = self.model.parked.get(one.seq)
        since = self.now if before is None else before.since
        self.model.state[one.seq] = "parked"
        self.model.parked[one.seq] = Parked(one.attempt, self.now + wait, since)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        one = self.some(data)
        assert self.progress.bury(one, self.now, "x")
        self.model.state[one.seq] = "dead"
        self.model.dead.add(one.seq)
        self.model.parked.pop(one.seq, None)

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, self.head + 2))
        before = self.model.parked.get(seq)
        attempts = 0 if before is None else before.attempts
        if seq in self.out:
            attempts = self.out[seq].attempt - (seq not in self.model.tried)
        dead = self.progress.give_up(seq, self.head, self.now)
        if seq not in self.model.of("parked", "out", "out again") + self.model.of("fresh")[:1]:
            assert dead is None
            return
        since = self.now if before is None else before.since
        assert dead == Dead(attempts, self.now, since, GIVEN_UP)
        if seq in self.out:
            self.late.append(self.out.pop(seq))
        self.model.tried.discard(seq)
        self.model.state[seq] = "dead"
        self.model.dead.add(seq)
        self.model.parked.pop(seq, None)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.some(data)
        assert self.progress.release(one)
        self.model.state[one.seq] = "parked" if one.seq in self.model.parked else "fresh"

    @rule(data=st.data(), wait=st.integers(0, 4))
    def schedule(self, data: st.DataObject, wait: int) -> None:
        some = data.draw(st.lists(st.integers(-1, self.head + 2), max_size=5, unique=True))
        # What is moved by receipt is never scheduled: nobody has a try of the same number out that means nothing.
        some = [seq for seq in some if all(one.seq != seq for one in self.strange)]
        scheduled = self.progress.schedule(dict.fromkeys(some, self.now + wait), self.now)
        may = {
            seq
            for seq in some
            if self.first <= seq <= self.head and self.model.state.get(seq, "done") in ("done", "dead")
        }
        assert may.issuperset(scheduled)
        for seq in scheduled:
            again = {one.seq: one for one in self.late if one.seq == seq}
            self.late = [one for one in self.late if one.seq != seq]
            self.out |= again
            self.model.state[seq] = "out again" if again else "parked"
            self.model.parked[seq] = Parked(0, self.now + wait, self.now)
            self.model.dead.discard(seq)
        if may.difference(scheduled):
            assert len(self.model.of("parked", "out", "out again")) >= module.MOST_PARKED, "there was room"

    @rule()
    def hasten(self) -> None:
        self.progress.hasten()
        for seq, one in self.model.parked.items():
            if one.attempts:
                self.model.parked[seq] = one._replace(due=module.AT_ONCE)

    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        floor = data.draw(st.integers(self.first - 1, self.head))
        self.progress.seek(floor)
        self.strange += self.out.values()
        self.out.clear()
        self.late.clear()
        self.model.tried.clear()
        self.model.parked.clear()
        self.model.state = {seq: "done" if seq <= floor else "fresh" for seq in range(self.first, self.head + 1)}

    @precondition(lambda self: self.first <= self.head)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(self.first, self.head + 1))
        self.first = first
        missed = self.progress.trim(first, self.now)
        self.gone(missed)

    def gone(self, missed: module.Missed) -> None:
        started = {seq for seq in self.model.of("out", "out again", "parked") if seq < self.first}
        fresh = {seq for seq in self.model.of("fresh") if seq < self.first}
        assert set(missed.started) == started
        assert set(missed.untried) == {seq for seq in self.model.of("out") if seq < self.first} - self.model.tried
        told = [seq for first, last in missed.fresh for seq in range(first, last + 1)]
        assert len(told) == len(set(told))
        assert set(told) == fresh
        self.model.dead |= started
        self.late += [self.out.pop(seq) for seq in started & self.out.keys()]
        self.model.tried = {seq for seq in self.model.tried if seq >= self.first}
        for seq in [seq for seq in self.model.state if seq < self.first]:
            del self.model.state[seq]
            self.model.parked.pop(seq, None)

    @precondition(lambda self: self.late)
    @rule(done=st.booleans())
    def too_late(self, done: bool) -> None:
        one = self.late.pop()
        if done:
            assert self.progress.done(one)
            self.model.dead.discard(one.seq)
            if one.seq in self.model.state:
                self.model.state[one.seq] = "done"
        else:
            assert not self.progress.fail(one, self.now, self.now)
        assert not self.progress.done(one)

    @precondition(lambda self: self.strange)
    @rule()
    def come_strangely(self) -> None:
        one = self.strange.pop()
        before = (self.progress.floor, self.progress.out, self.progress.pending(self.head))
        assert not self.progress.done(one)
        assert not self.progress.fail(one, self.now, self.now)
        assert not self.progress.release(one)
        self.progress.begin(one)
        assert (self.progress.floor, self.progress.out, self.progress.pending(self.head)) == before

    @rule(data=st.data())
    def receipt(self, data: st.DataObject) -> None:
        floor = data.draw(st.integers(self.first - 1, self.head))
        before = self.progress.floor
        assert self.progress.advance(floor) == (floor > before)
        if floor > before:
            for seq in self.model.of("fresh", "out"):
                if seq <= floor:
                    self.model.state[seq] = "done"
                    self.model.tried.discard(seq)
                    one = self.out.pop(seq, None)
                    if one is not None:
                        self.strange.append(one)

    @rule()
    def save(self) -> None:
        changes = self.progress.changes()
        if changes is not None:
            self.kept_before = (self.kept, self.kept_tried, self.kept_dead, self.kept_model)
            _, _, parked = self.kept
            parked = {} if changes.cleared else dict(parked)
            for seq in changes.unparked:
                parked.pop(seq, None)
            parked.update(changes.parked)
            self.kept_dead = (self.kept_dead - changes.revived) | set(changes.dead)
            self.kept = (changes.floor, changes.done, parked)
            self.kept_tried = changes.tried
        assert self.progress.changes() is None
        assert self.kept[2] == self.model.parked
        assert self.kept_dead == self.model.dead
        assert {seq for first, last in self.kept_tried for seq in range(first, last + 1)} == self.model.tried
        self.kept_model = deepcopy(self.model)

    @rule(most=st.integers(0, 3))
    def crash(self, most: int) -> None:
        """What was not saved is as if it had not been, and what was being tried was tried in vain; what the log got or
        lost meanwhile is as it is."""
        self.progress = Progress(*self.kept)
        self.progress.interrupted(self.kept_tried, self.now, most)
        self.strange.clear()
        self.late.clear()
        self.out.clear()
        model = deepcopy(self.kept_model)
        for seq in model.of("out"):
            model.state[seq] = "fresh"
        for seq in model.of("out again"):
            model.state[seq] = "parked"
        for seq in model.tried:
            before = model.parked.pop(seq, Parked(0, 0.0, self.now))
            if most and before.attempts + 1 >= most:
                model.state[seq] = "dead"
                model.dead.add(seq)
            else:
                model.state[seq] = "parked"
                model.parked[seq] = Parked(before.attempts + 1, 0.0, before.since)
        model.tried.clear()
        oldest = min([self.first, self.kept[0] + 1, *model.state])
        for seq in range(oldest, self.head + 1):
            model.state.setdefault(seq, "done" if seq <= self.kept[0] else "fresh")
        self.model = model
        self.gone(self.progress.trim(self.first, self.now))

    @precondition(lambda self: self.first <= self.head)
    @rule(data=st.data(), back=st.booleans())
    def lose(self, data: st.DataObject, back: bool) -> None:
        """The newest events are lost, or none, and perhaps (`back`) what was saved last. What was not saved yet of the
        dead is saved; of those that were lost nobody knows."""
        head = data.draw(st.integers(self.first - 1, self.head))
        dead, revived = self.model.dead - self.kept_dead, self.kept_dead - self.model.dead
        if back:
            self.kept, self.kept_tried, self.kept_dead, self.kept_model = self.kept_before
        floor, done, parked = self.kept
        done = tuple((first, min(last, head)) for first, last in done if first <= head)
        self.kept = (min(floor, head), done, {seq: one for seq, one in parked.items() if seq <= head})
        self.kept_tried = tuple((first, min(last, head)) for first, last in self.kept_tried if first <= head)
        self.kept_dead = {seq for seq in self.kept_dead if seq <= head}
        self.kept_model = self.kept_model.up_to(head)
        self.kept_before = (self.kept, self.kept_tried, self.kept_dead, self.kept_model)
        known = any(seq > head and state != "fresh" for seq, state in self.model.state.items())
        assert self.progress.lose(head) == known
        self.head = head
        self.model = self.model.up_to(head)
        self.model.dead = {seq for seq in self.kept_dead - revived - self.model.parked.keys() | dead if seq <= head}
        if not known:
            return
        self.strange += [*self.out.values(), *self.late]
        self.out.clear()
        self.late.clear()
        self.model.tried.clear()
        for seq in self.model.of("out", "out again"):
            self.model.state[seq] = "parked" if seq in self.model.parked else "fresh"

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "model"):
            return
        waiting = self.model.of("fresh", "out", "out again", "parked")
        assert self.progress.pending(self.head) == len(waiting)
        assert self.progress.out == len(self.out)
        assert self.progress.parked == self.model.parked
        open_ = self.model.of("fresh", "out")
        assert all(seq > self.progress.floor for seq in open_)
        if not open_:
            assert self.progress.floor == self.head, "the floor stays behind"
        parked = self.model.of("parked", "out again", "out")
        assert len(parked) <= module.MOST_PARKED
        times = [one.due for seq, one in self.model.parked.items() if self.model.state[seq] == "parked"]
        assert self.progress.due() == min(times, default=None)

    def teardown(self) -> None:
        """Everything that is not done comes, once each, and then nothing is left."""
        if not hasattr(self, "model"):
            return
        for one in list(self.out.values()):
            assert self.progress.done(one)
        expected = self.model.of("fresh", "parked")
        came = []
        while taken := self.progress.take(self.head, 3, self.now + 100):
            came += seqs(taken)
            for one in taken:
                assert self.progress.done(one)
        assert sorted(came) == expected
        assert (self.progress.pending(self.head), self.progress.floor) == (0, self.head)


class TestMachine(Machine.TestCase):  # type: ignore[misc, name-defined]
    """The state machine, with bounds that are met often."""

    settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

    @classmethod
    def setUpClass(cls) -> None:
        cls.patch = pytest.MonkeyPatch()
        cls.patch.setattr(module, "WINDOW", 9)
        cls.patch.setattr(module, "MOST_PARKED", 6)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.patch.undo()
