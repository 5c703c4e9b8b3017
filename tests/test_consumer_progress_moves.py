"""How far a consumer is, where others move it: replays, seeks, receipts, and a log that lets events go."""

from __future__ import annotations

import pytest

from relay_tornado import consumer_progress as module
from relay_tornado.consumer_changes import RETENTION, Dead, Parked
from relay_tornado.consumer_progress import AT_ONCE, Progress, Taken
from tests.progress import seqs, stored, take


def test_what_was_tried_in_vain_is_hastened() -> None:
    """It is due at once, and after its next try as late as that says; one that is out comes once, one that was never
    tried when it was to come."""
    progress = Progress(0)
    one, two, three = take(progress, 3)
    progress.done(three)
    progress.fail(one, 9.0, 0.0)
    progress.fail(two, 1.0, 0.0)
    (two,) = take(progress, 3, now=1.0)
    assert progress.schedule({3: 30.0}, 1.0) == [3]
    stored(progress)
    progress.hasten()
    assert set(stored(progress).parked) == {1, 2}
    assert progress.due() == AT_ONCE
    assert take(progress, 3, now=1.0) == [Taken(1, 2, 0)]
    assert progress.due() == 30.0
    progress.fail(Taken(1, 2, 0), 20.0, 1.0)
    assert progress.due() == 20.0
    assert take(progress, 3, now=10.0) == []
    assert progress.release(two)
    assert take(progress, 3, now=10.0) == [Taken(2, 2, 0)]
    assert take(progress, 3, now=20.0) == [Taken(1, 3, 0)]
    again = Progress(0, (), {1: Parked(1, 9.0, 0.0)})
    again.hasten()
    (one,) = take(again, 1, now=1.0)
    again.fail(one, 20.0, 1.0)
    assert take(again, 1, now=10.0) == []


def test_what_becomes_of_one_twice_is_stored_once() -> None:
    """As it is in the end: parked anew after it was done, dead again after it was parked, done after it was dead."""
    progress = Progress(0)
    one, two = take(progress, 2)
    progress.fail(one, 1.0, 0.0)
    stored(progress)
    (one,) = take(progress, 2, now=1.0)
    progress.done(one)
    progress.bury(two, 0.0, "x")
    progress.schedule({1: 5.0, 2: 5.0}, 1.0)
    changes = stored(progress)
    assert (set(changes.parked), changes.unparked, changes.revived, changes.dead) == ({1, 2}, set(), {1, 2}, {})
    one, two = take(progress, 2, now=5.0)
    progress.bury(one, 5.0, "x")
    progress.schedule({1: 6.0}, 5.0)
    (one,) = take(progress, 2, now=6.0)
    progress.bury(one, 6.0, "y")
    progress.trim(3, 7.0)
    assert progress.done(two)
    changes = stored(progress)
    assert changes.dead == {1: Dead(1, 6.0, 5.0, "y")}
    assert changes.revived == {2}


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
    assert Progress(0, ((3, 3),)).schedule({0: 1.0, 3: 1.0}, 0.5) == [3]
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


def test_a_seek_forgets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done ahead or tried, what left while it was out, and the room that it took."""
    monkeypatch.setattr(module, "MOST_PARKED", 3)
    progress = Progress(0, ((5, 6),))
    one, two, _ = take(progress, 9)
    progress.begin(two)
    progress.trim(2, 1.0)
    progress.seek(1)
    assert not progress.done(one)
    changes = stored(progress)
    assert (changes.floor, changes.done, changes.tried, progress.parked) == (1, (), (), {})
    assert seqs(take(progress, 9)) == [2, 3, 4]
    progress = Progress(0, (), {1: Parked(1, 5.0, 0.0)})
    progress.seek(0)
    assert (progress.parked, progress.pending(2), seqs(take(progress, 2, now=9.0))) == ({}, 2, [1, 2])


def test_a_seek_goes_no_further_back_than_the_log() -> None:
    """What a log does not hold is not asked for."""
    progress = Progress(9)
    progress.trim(5, 0.0)
    progress.trim(3, 0.0)
    progress.seek(8)
    assert progress.reached == 8
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
    assert list(missed.untried) == [1], "it was taken, and nobody was given it"
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
    progress = Progress(0)
    _one, two, _three, _four, five = take(progress, 5)
    progress.done(five)
    progress.release(two)
    assert list(progress.trim(7, 0.0).fresh) == [(2, 2), (6, 6)]
    progress = Progress(0)
    assert list(progress.trim(2, 0.0).fresh) == [(1, 1)]
    assert seqs(take(progress, 3)) == [2, 3]
    progress = Progress(0)
    one, *_ = take(progress, 2)
    progress.begin(one)
    assert list(progress.trim(3, 0.0).untried) == [2]
    # What is tried again was tried, also where that has not begun.
    progress = Progress(0, (), {1: Parked(1, 5.0, 0.0)})
    take(progress, 1, now=5.0)
    missed = progress.trim(2, 6.0)
    assert (list(missed.started), list(missed.untried)) == ([1], [])
    # What stays is in none either, also where it is done with ahead of others that stay.
    missed = Progress(0, done=[(10, 12)]).trim(5, 0.0)
    assert (list(missed.started), list(missed.fresh), bool(missed)) == ([], [(1, 4)], True)


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
    missed = progress.trim(3, 1.0)
    assert (list(missed.started), list(missed.fresh), bool(missed)) == ([1, 2], [], True)
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
    assert progress.pending(8) == 1, "the parked one, also where the log seems to be shorter"
    assert seqs(take(progress, 10, now=0.5)) == [10]


def test_a_receipt_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was out is so no longer, but for what is parked, and what is done behind it is passed over."""
    monkeypatch.setattr(module, "MOST_PARKED", 3)
    progress = Progress(0, ((5, 5),))
    one, two, _three = take(progress, 9)
    progress.begin(two)
    progress.fail(one, 1.0, 0.0)
    (one,) = take(progress, 9, 1, now=1.0)
    assert progress.advance(3)
    assert not progress.advance(3)
    assert stored(progress).tried == ()
    assert progress.done(one)
    assert seqs(take(progress, 9)) == [4, 6, 7]
    settled = Progress(0, ((3, 3),))
    settled.advance(3)
    assert settled.pending(5) == 2
    ahead = Progress(0, ((4, 4),))
    ahead.advance(3)
    assert (ahead.floor, seqs(take(ahead, 5))) == (4, [5])


def test_what_a_seek_would_repeat_is_counted() -> None:
    """Done ones above the place, below the floor and above it; what is parked comes anyway, and so does what is out."""
    progress = Progress(0)
    one, two, three, _four, five, _six = take(progress, 6)
    for each in (one, three, five):
        progress.done(each)
    progress.fail(two, 9.0, 0.0)
    assert [progress.done_above(seq) for seq in range(7)] == [3, 2, 2, 1, 1, 0, 0]
    assert [Progress(1, ((3, 6),)).done_above(seq) for seq in range(8)] == [5, 4, 4, 3, 2, 1, 0, 0]


def test_what_is_scheduled_while_it_is_out_comes_again_once_its_try_has_ended() -> None:
    """It was given up meanwhile; until then nobody else gets it."""
    progress = Progress(0)
    (one,) = take(progress, 1)
    progress.give_up(1, 1, 1.0)
    assert progress.schedule({1: AT_ONCE}, 2.0) == [1]
    assert take(progress, 1, now=3.0) == []
    assert progress.fail(one, AT_ONCE, 4.0)
    assert seqs(take(progress, 1, now=5.0)) == [1]


def test_the_next_one_may_be_given_up_also_behind_one_that_is_out() -> None:
    """As where an earlier one was given back, and taken again."""
    progress = Progress(0)
    one, _ = take(progress, 2)
    progress.release(one)
    take(progress, 2, limit=1)
    assert progress.give_up(4, 4, 1.0) is None
    assert progress.give_up(3, 4, 1.0) is not None
