"""How far a consumer is: what of it is stored, and what comes back after a restart or a loss."""

from __future__ import annotations

from copy import deepcopy

import pytest

from relay_tornado import consumer_progress as module
from relay_tornado.consumer_changes import MAX_DELIVER, Changes, Dead, Parked
from relay_tornado.consumer_progress import AT_ONCE, Progress, Taken
from tests.progress import seqs, stored, take


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
    assert changes.cleared
    assert set(changes.parked) == {3}
    assert seqs(take(progress, 7, now=2.0)) == [3, 4, 5, 6, 7]


def test_what_is_lost_above_a_released_one_comes_anew() -> None:
    """Also where the next one to be taken lies below it again: what is done there, and what is out."""
    progress = Progress(0)
    one, two, three = take(progress, 3)
    progress.done(three)
    progress.release(one)
    progress.release(two)
    assert progress.lose(2)
    assert seqs(take(progress, 3)) == [1, 2, 3]
    progress = Progress(0)
    one, two = take(progress, 2)
    progress.release(one)
    assert progress.lose(1)
    assert not progress.done(two), "it is an ack of the lost one"
    assert seqs(take(progress, 2)) == [1, 2]


def test_what_is_out_is_strange_behind_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not lost: it comes again, at its next try where it was tried, and takes no more room."""
    monkeypatch.setattr(module, "MOST_PARKED", 4)
    progress = Progress(0, (), {2: Parked(1, 5.0, 0.0)})
    two, one, three, four = take(progress, 9, now=5.0)
    progress.begin(one)
    progress.trim(2, 5.0)
    assert progress.lose(3)
    assert stored(progress).tried == ()
    again = take(progress, 9, now=5.0)
    assert [(each.seq, each.attempt) for each in again] == [(2, 2), (3, 1), (4, 1), (5, 1)]
    assert not any(progress.done(each) for each in (one, two, three, four))
    progress = Progress(4)
    assert progress.lose(3)
    assert progress.schedule({1: 0.0}, 0.0) == [1], "it is there as it was"


def test_what_was_stored_and_lost_is_stored_anew() -> None:
    """What is parked, and that it is not dead any more, also where no event was lost; what is out stays out then."""
    progress = Progress(0)
    one, two, three = take(progress, 3)
    progress.fail(one, 50.0, 1.0)
    progress.bury(two, 1.0, "x")
    progress.schedule({2: 60.0}, 1.0)
    stored(progress)
    assert not progress.lose(3)
    changes = stored(progress)
    assert (changes.floor, changes.cleared, changes.parked) == (2, True, progress.parked)
    assert changes.parked is not progress.parked
    assert set(progress.parked) == {1, 2}
    assert changes.revived == {1, 2}
    assert progress.done(three)


def test_no_letter_is_left_of_what_was_lost_behind_a_seek() -> None:
    """A dead one that was not stored yet, though the consumer begins anew before it: another event gets its seq."""
    progress = Progress(0)
    one, two = take(progress, 2)
    progress.bury(one, 1.0, "x")
    progress.bury(two, 1.0, "x")
    progress.seek(0)
    assert not progress.lose(1)
    assert set(stored(progress).dead) == {1}


def test_what_a_log_let_go_and_lost_may_be_had() -> None:
    """Where it had let go of more than it holds again, new events are taken, and may be sought."""
    progress = Progress(0)
    progress.trim(9, 0.0)
    assert progress.lose(4)
    progress.seek(0)
    assert seqs(take(progress, 6)) == [5, 6]


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


def test_a_restart_counts_and_orders_what_is_parked() -> None:
    """What is parked at the floor is pending once, the one that is due first comes first; nothing is to be stored."""
    again = Progress(3, (), {1: Parked(1, 9.0, 0.0), 2: Parked(1, 5.0, 0.0), 3: Parked(1, 7.0, 0.0)})
    assert (again.pending(4), again.due(), again.changes()) == (4, 5.0, None)
    assert seqs(take(again, 3, now=9.0)) == [2, 3, 1]


def test_what_is_stored_of_the_settled_below_the_floor_is_left_out() -> None:
    """Whatever a file says: each event is counted once, and the floor moves over what is done behind it."""
    again = Progress(3, ((1, 2), (5, 5)))
    assert again.pending(6) == 2
    assert seqs(take(again, 6)) == [4, 6]
    assert Progress(3, ((2, 4),)).floor == 4
    assert Progress(3, ((1, 3),)).pending(5) == 2


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


def test_what_was_not_tried_waits_across_a_crash() -> None:
    """As it did; of what was, each counts."""
    progress = Progress(2, (), {1: Parked(1, 5.0, 2.0), 2: Parked(1, 6.0, 2.0)})
    progress.interrupted(((1, 1), (3, 4)), 7.0)
    assert progress.parked == {
        1: Parked(2, AT_ONCE, 2.0),
        2: Parked(1, 6.0, 2.0),
        3: Parked(1, AT_ONCE, 7.0),
        4: Parked(1, AT_ONCE, 7.0),
    }


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
