"""How far a consumer is: which events come, in which order, and what is said of them."""

from __future__ import annotations

import pytest

from relay_tornado import consumer_progress as module
from relay_tornado.consumer_changes import Dead, Parked
from relay_tornado.consumer_progress import AT_ONCE, Progress, Taken
from tests.progress import seqs, stored, take


def test_fresh_events_come_in_order_once() -> None:
    """Every seq above the floor is given once, in order, up to the head and never more than the limit."""
    progress = Progress(3)
    assert seqs(take(progress, 8, 2)) == [4, 5]
    assert progress.reached == 5
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
    assert stored(sooner).parked == sooner.parked


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


def test_due_ones_behind_a_place_wait_until_that_has_moved() -> None:
    """They are not taken and count as none that is due; then they come by their time, no more than were asked for."""
    progress = Progress(0)
    for one, due in zip(take(progress, 4), (9.0, 3.0, 2.0, 1.0), strict=True):
        progress.fail(one, due, 0.0)
    assert seqs(progress.take(4, 9, 5.0, last=2)) == [2]
    assert progress.take(4, 9, 5.0, last=2) == []
    assert progress.due() == 9.0
    assert seqs(progress.take(4, 1, 9.0, last=4)) == [4]
    assert seqs(progress.take(4, 1, 9.0, last=2)) == [1]
    assert seqs(progress.take(4, 9, 9.0)) == [3]


def test_events_that_left_before_they_were_due_take_no_memory() -> None:
    """The times at which removed events would have been due do not pile up; those that are parked come when they are
    due."""
    progress = Progress(0)
    for seq in range(1, 10_001):
        (one,) = take(progress, seq, 1, now=1.0)
        progress.fail(one, 90_000.0, 1.0)
        progress.trim(seq - 2, 1.0)
    assert len(progress._due) < 2_000
    assert progress.due() == 90_000.0
    assert seqs(take(progress, 10_000, now=90_000.0)) == [9_998, 9_999, 10_000]


@pytest.mark.parametrize("outcome", ["given back", "failed"])
def test_an_event_that_is_taken_again_and_again_takes_the_memory_of_one(outcome: str) -> None:
    """Its due time stays the same, as where there is no slot for it, or it is to be tried again at once."""
    progress = Progress(0, parked={1: Parked(1, AT_ONCE, 0.0)})
    for _ in range(100):
        (one,) = take(progress, 1, 1, now=1.0)
        if outcome == "failed":
            progress.fail(one, AT_ONCE, 1.0)
        else:
            progress.release(one)
    assert len(progress._due) == 1


def test_due_times_are_put_in_order_while_events_are_out() -> None:
    """One that is out meanwhile comes again once it is given back, and only once."""
    progress = Progress(0)
    for one in take(progress, 3):
        progress.fail(one, 1.0, 0.0)
    (out,) = take(progress, 3, 1, now=1.0)
    for _ in range(2_000):
        progress.hasten()
        (one,) = progress.take(3, 1, 1.0)
        progress.fail(one, 90_000.0, 1.0)
    assert len(progress._due) < 2_000
    progress.release(out)
    assert sorted(seqs(take(progress, 3, now=90_000.0))) == [1, 2, 3]


def test_the_oldest_is_the_first_that_is_not_done_with() -> None:
    """Parked below the floor, or behind it; none where all of a log is done with."""
    progress = Progress(0)
    one, two, _ = take(progress, 3)
    assert progress.oldest(3) == 1
    progress.fail(one, 9.0, 0.0)
    progress.done(two)
    assert (progress.floor, progress.oldest(3)) == (2, 1)
    (one,) = take(progress, 3, now=9.0)
    progress.done(one)
    assert (progress.oldest(3), progress.oldest(2)) == (3, None)


def test_tries_count_from_their_beginning() -> None:
    """One that was taken and not begun is none; one that failed counts until the event is done."""
    progress = Progress(0)
    one, _ = take(progress, 2)
    assert (progress.has_out(1), progress.attempts(1)) == (True, 0)
    progress.begin(one)
    assert progress.attempts(1) == 1
    progress.fail(one, 9.0, 0.0)
    assert (progress.has_out(1), progress.attempts(1)) == (False, 1)
    (one,) = take(progress, 2, now=9.0)
    progress.begin(one)
    assert (progress.has_out(1), progress.attempts(1)) == (True, 2)
    progress.done(one)
    assert (progress.has_out(1), progress.attempts(1)) == (False, 0)
    assert (progress.has_out(2), progress.attempts(2)) == (True, 0)


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


def test_what_is_settled_behind_a_released_one_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the head and no further, and no further than the window."""
    progress = Progress(0)
    one, two, three = take(progress, 3)
    progress.done(two)
    progress.done(three)
    progress.begin(one)
    assert stored(progress).tried == ((1, 1),)
    progress.release(one)
    assert stored(progress).tried == ()
    assert seqs(take(progress, 3)) == [1]
    monkeypatch.setattr(module, "WINDOW", 4)
    assert seqs(take(Progress(0, ((2, 5),)), 9)) == [1]


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
    monkeypatch.setattr(module, "MOST_PARKED", 3)
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
