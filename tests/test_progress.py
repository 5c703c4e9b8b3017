"""How far a consumer is: each invariant of progress.py alone, and all of them against a plain model."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay_tornado import progress as module
from relay_tornado.progress import AT_ONCE, MAX_DELIVER, RETENTION, Changes, Dead, Parked, Progress, Taken


def seqs(taken: list[Taken]) -> list[int]:
    return [one.seq for one in taken]


def take(progress: Progress, head: int, limit: int = 100, now: float = 0.0) -> list[Taken]:
    return progress.take(head, limit, now)


def stored(progress: Progress) -> Changes:
    changes = progress.changes()
    assert changes is not None
    return changes


def test_fresh_events_come_in_order_once() -> None:
    """Every seq above the floor is given once, in order, up to the head and never more than the limit."""
    progress = Progress(3)
    assert seqs(take(progress, 8, 2)) == [4, 5]
    assert seqs(take(progress, 8)) == [6, 7, 8]
    assert take(progress, 8) == []
    assert progress.out == 5
    assert progress.pending(8) == 5


def test_the_floor_waits_for_the_oldest() -> None:
    """What is done above an event that is out is kept as ranges, and the floor moves once that one is done."""
    progress = Progress(0)
    one, two, three, _ = take(progress, 4)
    assert progress.done(two)
    assert progress.done(three)
    changes = stored(progress)
    assert (changes.floor, changes.done) == (0, ((2, 3),))
    assert progress.done(one)
    changes = stored(progress)
    assert (changes.floor, changes.done) == (3, ())
    assert progress.pending(4) == 1
    assert progress.changes() is None


def test_a_clock_that_is_set_back_keeps_nothing_waiting() -> None:
    """What is parked waits as long as it was asked to, also where it was stored before; `AT_ONCE` is always due."""
    progress = Progress(0, (), {1: Parked(1, 5_030.0, 4_990.0)}, at=5_000.0)
    two, three, four = take(progress, 4, 3, now=5_010.0)
    assert progress.fail(two, AT_ONCE, 5_010.0)
    assert progress.fail(three, 5_011.0, 5_010.0)
    assert seqs(take(progress, 4, now=5_009.5)) == [2], "clocks jitter"
    stored(progress)
    assert progress.fail(four, 1_060.0, 1_000.0), "the hour was set back in between"
    assert {seq: one.due for seq, one in progress.parked.items()} == {1: 1_020.0, 2: 0.0, 3: 1_001.0, 4: 1_060.0}
    assert stored(progress).parked == progress.parked
    assert progress.due() == 1_001.0
    assert seqs(take(progress, 4, now=1_001.0)) == [3]
    assert seqs(take(progress, 4, now=1_020.0)) == [1]
    restarted = Progress(0, (), {1: Parked(1, 5_030.0, 4_990.0)}, at=5_000.0)
    assert take(restarted, 1, now=1_000.0) == []
    assert seqs(take(restarted, 1, now=1_030.0)) == [1]
    sooner = Progress(0, (), {1: Parked(1, 5_030.0, 4_990.0)}, at=5_000.0)
    assert sooner.schedule({}, 1_000.0) == []
    assert sooner.due() == 1_030.0


def test_what_is_done_twice_is_done_once() -> None:
    """Whoever comes second, or with something that is not out, changes nothing."""
    progress = Progress(0)
    one, two = take(progress, 2)
    assert progress.done(one)
    assert not progress.done(one)
    assert not progress.fail(one, 1.0, 0.0)
    assert not progress.bury(one, 0.0, "x")
    assert not progress.release(one)
    assert not progress.done(Taken(9, 1, 0))
    assert progress.fail(two, 1.0, 0.0)
    assert not progress.done(two)
    assert progress.pending(2) == 1


def test_a_failed_one_comes_again_when_it_is_due_before_fresh_ones() -> None:
    """It carries how often it was tried, and keeps when it was tried first; the floor passes it."""
    progress = Progress(0)
    (one,) = take(progress, 9, 1)
    assert progress.fail(one, 5.0, 1.0)
    assert progress.due() == 5.0
    assert progress.floor == 1
    assert seqs(take(progress, 9, 1, now=4.9)) == [2]
    again, fresh = take(progress, 9, 2, now=5.0)
    assert (again, fresh.seq) == (Taken(1, 2, 0), 3)
    assert progress.due() is None
    assert progress.fail(again, 9.0, 5.0)
    changes = stored(progress)
    assert changes.parked == {1: Parked(2, 9.0, 1.0)}
    assert progress.pending(9) == 9


def test_due_ones_come_by_their_time() -> None:
    """Of several the one that was due first comes first, whatever its seq."""
    progress = Progress(0)
    for one, due in zip(take(progress, 3), (3.0, 1.0, 2.0), strict=True):
        progress.fail(one, due, 0.0)
    assert seqs(take(progress, 3, now=2.5)) == [2, 3]
    assert seqs(take(progress, 3, now=3.0)) == [1]


def test_a_buried_one_is_dead_and_done_with() -> None:
    """It comes no more, is told once with what became of it, and is not pending."""
    progress = Progress(0)
    (one,) = take(progress, 1)
    progress.fail(one, 1.0, 0.5)
    (again,) = take(progress, 1, now=1.0)
    assert progress.bury(again, 7.0, "max_deliver")
    changes = stored(progress)
    assert changes.dead == {1: Dead(2, 7.0, 0.5, "max_deliver")}
    assert changes.unparked == {1}
    assert not changes.parked
    assert progress.pending(1) == 0
    assert take(progress, 1, now=99.0) == []


def test_a_released_one_is_as_if_it_had_not_been_taken() -> None:
    """It comes again in its order and at its first try, a parked one again at once with the same try."""
    progress = Progress(0)
    one, two, _ = take(progress, 3)
    progress.fail(one, 1.0, 0.0)
    (again,) = take(progress, 3, now=1.0)
    assert progress.release(two)
    assert progress.release(again)
    assert take(progress, 5, now=1.0) == [Taken(1, 2, 0), Taken(2, 1, 0), Taken(4, 1, 0), Taken(5, 1, 0)]


def test_what_is_scheduled_comes_again_when_it_is_due() -> None:
    """Done and dead ones are parked anew; what is out, parked or to come is left alone, and what is not there."""
    progress = Progress(0)
    one, two, three, four = take(progress, 4)
    progress.done(one)
    progress.bury(two, 0.0, "x")
    progress.fail(three, 9.0, 0.0)
    progress.trim(1, 0.0)
    assert progress.schedule({0: 1.0, 1: 1.0, 2: 2.0, 3: 1.0, 4: 1.0, 5: 1.0}, 0.5) == [1, 2]
    changes = stored(progress)
    assert changes.revived == {1, 2}
    assert not changes.dead
    assert changes.parked == {1: Parked(0, 1.0, 0.5), 2: Parked(0, 2.0, 0.5), 3: Parked(1, 9.0, 0.0)}
    assert progress.pending(5) == 5
    assert take(progress, 5, 3, now=2.0) == [Taken(1, 1, 0), Taken(2, 1, 0), Taken(5, 1, 0)]
    assert progress.done(four)


def test_a_seek_makes_what_was_taken_strange() -> None:
    """Behind a seek everything from there on comes again; what was out before can't be done or fail."""
    progress = Progress(0)
    one, two, three = take(progress, 3)
    progress.done(one)
    progress.fail(two, 1.0, 0.0)
    progress.seek(0)
    assert not progress.done(three)
    assert not progress.fail(three, 1.0, 0.0)
    changes = stored(progress)
    assert (changes.floor, changes.done, changes.cleared, changes.parked) == (0, (), True, {})
    assert progress.due() is None
    again = take(progress, 3)
    assert seqs(again) == [1, 2, 3]
    assert again[0].generation == 1
    assert not progress.done(three)
    assert progress.out == 3


def test_a_seek_goes_no_further_back_than_the_log() -> None:
    """What a log does not hold is not asked for."""
    progress = Progress(9)
    progress.trim(5, 0.0)
    progress.seek(0)
    assert seqs(take(progress, 6)) == [5, 6]


def test_what_a_log_lets_go_is_told() -> None:
    """Out and parked ones die for the reason `retention`, those never taken are told as ranges, nothing below comes."""
    progress = Progress(0)
    one, two, three, four = take(progress, 4)
    progress.done(two)
    progress.fail(three, 1.0, 0.5)
    progress.release(four)
    missed = progress.trim(9, 7.0)
    assert (list(missed.started), list(missed.fresh)) == ([1, 3], [(4, 8)])
    assert missed
    changes = stored(progress)
    assert changes.floor == 8
    assert changes.dead == {1: Dead(1, 7.0, 7.0, RETENTION), 3: Dead(1, 7.0, 0.5, RETENTION)}
    assert seqs(take(progress, 10, now=99.0)) == [9, 10]
    assert not progress.trim(9, 8.0)
    assert progress.pending(10) == 2
    assert not progress.fail(one, 9.0, 8.0)


def test_a_trim_tells_of_holes_exactly() -> None:
    """What is done or out among the events that left is in no range."""
    progress = Progress(0)
    _one, two, three, four, _five = take(progress, 5)
    progress.done(three)
    for each in (two, four):
        progress.release(each)
    assert list(progress.trim(7, 0.0).fresh) == [(2, 2), (4, 4), (6, 6)]


def test_what_was_out_when_it_left_may_be_done_all_the_same() -> None:
    """Its dead letter goes then; whoever fails with it changes nothing."""
    progress = Progress(0)
    one, two = take(progress, 2)
    progress.trim(3, 1.0)
    assert set(stored(progress).dead) == {1, 2}
    assert progress.done(one)
    assert not progress.done(one)
    assert not progress.fail(two, 5.0, 2.0)
    assert not progress.done(two)
    changes = stored(progress)
    assert (changes.revived, changes.dead, changes.parked) == ({1}, {}, {})


def test_parked_ones_above_what_left_stay() -> None:
    """A trim takes what lies below it only."""
    progress = Progress(0)
    for one in take(progress, 4):
        progress.fail(one, 10.0 - one.seq, 0.0)
    assert list(progress.trim(3, 1.0).started) == [1, 2]
    assert sorted(progress.parked) == [3, 4]
    assert seqs(take(progress, 4, now=99.0)) == [4, 3]


def test_a_receipt_moves_the_floor() -> None:
    """Everything up to it is done, out or not; what is parked stays, and a receipt never goes back."""
    progress = Progress(0)
    one, two, three, _ = take(progress, 4)
    progress.fail(one, 1.0, 0.0)
    assert progress.advance(3)
    assert not progress.advance(2)
    assert not progress.done(two)
    assert not progress.done(three)
    assert (progress.floor, progress.out, progress.pending(4)) == (3, 1, 2)
    assert progress.advance(9)
    assert seqs(take(progress, 10, now=0.5)) == [10]


def test_what_is_lost_comes_anew() -> None:
    """Where the log's end was lost, other events get those seqs, and are not taken for the lost ones."""
    progress = Progress(0)
    taken = take(progress, 6)
    for one in (taken[0], taken[1], taken[4]):
        progress.done(one)
    progress.fail(taken[5], 1.0, 0.0)
    progress.fail(taken[2], 1.0, 0.0)
    assert progress.lose(4)
    assert not progress.lose(4)
    assert not progress.done(taken[3])
    changes = stored(progress)
    assert (changes.floor, changes.done) == (3, ())
    assert set(changes.parked) == {3}
    assert 6 in changes.unparked
    assert seqs(take(progress, 7, now=2.0)) == [3, 4, 5, 6, 7]


def test_the_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh event is taken too far above the floor until the oldest is done."""
    monkeypatch.setattr(module, "WINDOW", 4)
    progress = Progress(0)
    taken = take(progress, 100)
    assert seqs(taken) == [1, 2, 3, 4]
    for one in taken[1:]:
        progress.done(one)
    assert progress.full()
    assert take(progress, 100) == []
    progress.done(taken[0])
    assert not progress.full()
    assert seqs(take(progress, 100)) == [5, 6, 7, 8]


def test_what_is_parked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound nothing fresh is taken and nothing scheduled, also where all that is out should fail."""
    monkeypatch.setattr(module, "PARKED", 3)
    progress = Progress(5)
    taken = take(progress, 100)
    assert seqs(taken) == [6, 7, 8]
    assert progress.schedule({1: 0.0}, 0.0) == []
    for one in taken:
        progress.fail(one, 9.0, 0.0)
    assert len(progress.parked) == 3
    assert progress.full()
    assert take(progress, 100) == []
    again = take(progress, 100, now=9.0)
    progress.done(again[0])
    assert progress.schedule({1: 0.0, 2: 0.0}, 0.0) == [1]


def test_a_restart_repeats_what_was_out_and_nothing_else() -> None:
    """Built from what was stored, it gives what was out or fresh, and what is parked when it is due."""
    progress = Progress(0)
    taken = take(progress, 6)
    progress.done(taken[1])
    progress.fail(taken[2], 5.0, 0.0)
    progress.bury(taken[4], 0.0, "x")
    changes = stored(progress)
    again = Progress(changes.floor, changes.done, changes.parked)
    assert again.pending(8) == progress.pending(8) == 6
    assert seqs(take(again, 8, now=1.0)) == [1, 4, 6, 7, 8]
    assert take(again, 8, now=5.0) == [Taken(3, 2, 0)]


def test_a_try_counts_across_a_crash() -> None:
    """What was being tried when it was stored last was tried in vain: it comes at once, at its next try."""
    progress = Progress(0)
    taken = take(progress, 6)
    progress.fail(taken[1], 5.0, 2.0)
    (two,) = take(progress, 6, now=5.0)
    for one in (taken[0], two, taken[3], taken[4]):
        progress.begin(one)
    assert stored(progress).tried == ((1, 2), (4, 5))
    progress.done(taken[3])
    progress.release(taken[4])
    progress.begin(taken[3])
    changes = stored(progress)
    assert (changes.floor, changes.done, changes.tried) == (0, ((2, 2), (4, 4)), ((1, 2),))
    again = Progress(changes.floor, changes.done, {2: Parked(1, 5.0, 2.0)})
    again.interrupted(changes.tried, 7.0)
    assert again.parked == {1: Parked(1, 0.0, 7.0), 2: Parked(2, 0.0, 2.0)}
    assert again.pending(6) == 5
    assert take(again, 6, now=0.0) == [Taken(1, 2, 0), Taken(2, 3, 0), *(Taken(seq, 1, 0) for seq in (3, 5, 6))]
    changes = stored(again)
    assert (changes.floor, changes.done, changes.tried) == (2, ((4, 4),), ())
    assert set(changes.parked) == {1, 2}


def test_the_last_try_counts_across_a_crash() -> None:
    """One that was tried as often as it may be is dead, and comes no more."""
    progress = Progress(0, ((2, 2),), {2: Parked(1, 5.0, 2.0)})
    progress.interrupted(((1, 2),), 7.0, 2)
    changes = stored(progress)
    assert changes.dead == {2: Dead(2, 7.0, 2.0, MAX_DELIVER)}
    assert (changes.floor, set(changes.parked), changes.unparked) == (2, {1}, {2})
    assert take(progress, 2, now=9.0) == [Taken(1, 2, 0)]


def test_what_is_settled_is_not_tried_again() -> None:
    """Whatever a file says of it; and no more is looked at than may be out."""
    progress = Progress(3, ((5, 5),), {})
    progress.interrupted(((1, 5), (20_000, 10**15)), 7.0)
    assert set(progress.parked) == {4}


def test_a_whole_window_out_of_order() -> None:
    """10,000 that are done in the worst order leave no more ranges than there are holes, and none at the end."""
    progress = Progress(0)
    taken = take(progress, 20_000, 20_000)
    assert len(taken) == module.WINDOW
    assert progress.full()
    for one in taken[1::2]:
        progress.done(one)
    assert len(stored(progress).done) == module.WINDOW // 2
    for one in reversed(taken[::2]):
        progress.done(one)
        assert progress.pending(20_000) >= 10_000
    changes = stored(progress)
    assert (changes.floor, changes.done) == (10_000, ())


def test_changes_add_up() -> None:
    """Changes that are put together say the same as one after the other."""
    first = Changes(1, (), False, {1: Parked(1, 1.0, 0.0), 2: Parked(1, 1.0, 0.0)}, {3}, {4: Dead(1, 0, 0, "x")}, {5})
    second = Changes(2, ((4, 4),), False, {3: Parked(1, 2.0, 0.0)}, {1}, {5: Dead(1, 0, 0, "x")}, {4})
    whole = deepcopy(first)
    whole.add(second)
    assert (whole.floor, whole.done, whole.cleared) == (2, ((4, 4),), False)
    assert set(whole.parked) == {2, 3}
    assert whole.unparked == {1}
    assert set(whole.dead) == {5}
    assert whole.revived == {4}
    whole.add(Changes(2, (), False, tried=((3, 3),)))
    assert whole.tried == ((3, 3),)
    whole.add(Changes(0, (), True, {7: Parked(0, 0.0, 0.0)}))
    assert whole.tried == ()
    assert set(whole.parked) == {7}
    assert whole.cleared
    assert whole.unparked == set()
    assert set(whole.dead) == {5}
    assert whole.revived == {4}


class Model:
    """What became of each seq, one by one."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.state: dict[int, str] = {}
        self.parked: dict[int, Parked] = {}
        self.dead: set[int] = set()
        self.tried: set[int] = set()

    def of(self, *states: str) -> list[int]:
        return sorted(seq for seq, state in self.state.items() if state in states)


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
        due = sorted((one.due, seq) for seq, one in self.model.parked.items() if self.model.state[seq] == "parked")
        due = [(when, seq) for when, seq in due if when <= self.now][:limit]
        fresh = self.model.of("fresh")
        taken = self.progress.take(self.head, limit, self.now)
        assert seqs(taken[: len(due)]) == [seq for _, seq in due]
        rest = taken[len(due) :]
        assert seqs(rest) == fresh[: len(rest)]
        if len(taken) < limit and len(rest) < len(fresh):
            assert self.progress.full()
            assert self.model.of("out", "out again", "parked"), "full for nothing"
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

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.some(data)
        assert self.progress.release(one)
        self.model.state[one.seq] = "parked" if one.seq in self.model.parked else "fresh"

    @rule(data=st.data(), wait=st.integers(0, 4))
    def schedule(self, data: st.DataObject, wait: int) -> None:
        some = data.draw(st.lists(st.integers(-1, self.head + 2), max_size=5, unique=True))
        scheduled = self.progress.schedule(dict.fromkeys(some, self.now + wait), self.now)
        may = {
            seq
            for seq in some
            if self.first <= seq <= self.head and self.model.state.get(seq, "done") in ("done", "dead")
        }
        assert may.issuperset(scheduled)
        for seq in scheduled:
            self.model.state[seq] = "parked"
            self.model.parked[seq] = Parked(0, self.now + wait, self.now)
            self.model.dead.discard(seq)
        if may.difference(scheduled):
            assert len(self.model.of("parked", "out", "out again")) >= module.PARKED, "there was room"

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
        assert len(parked) <= module.PARKED
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

    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

    @classmethod
    def setUpClass(cls) -> None:
        cls.patch = pytest.MonkeyPatch()
        cls.patch.setattr(module, "WINDOW", 9)
        cls.patch.setattr(module, "PARKED", 6)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.patch.undo()
