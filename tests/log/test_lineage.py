"""How a position is judged: honoured, or its gap told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay_tornado.errors import CursorLost
from relay_tornado.log.lineage import Placed, gap_behind, gap_within, holds, place_cursor, position_id
from relay_tornado.model import Bounds, Cursor, Epoch, Gap

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
LINE = (Epoch(A, 1), Epoch(B, 11), Epoch(C, 21))
OPEN = Bounds(first=5, head=30, epochs=LINE, open=True)
CLOSED = Bounds(first=5, head=30, epochs=LINE, open=False)


@pytest.mark.parametrize(
    ("bounds", "cursor", "placed"),
    [
        pytest.param(OPEN, Cursor(C, 30), Placed(30), id="at the head"),
        pytest.param(OPEN, Cursor(C, 25), Placed(25), id="inside the newest epoch"),
        pytest.param(OPEN, Cursor(C, 7), Placed(7), id="a seq that an earlier epoch gave its id"),
        pytest.param(OPEN, Cursor(B, 20), Placed(20), id="at the end of an ended epoch"),
        pytest.param(OPEN, Cursor(A, 4), Placed(4), id="first - 1 is no gap"),
        pytest.param(OPEN, Cursor(C, 25, 2), Placed(25), id="the id of a copy"),
        pytest.param(OPEN, Cursor(A, 1), Placed(4, Gap("retention", 2, 4)), id="below first - 1"),
        pytest.param(OPEN, Cursor(A, 0), Placed(4, Gap("retention", 1, 4)), id="the very beginning, trimmed"),
        pytest.param(OPEN, Cursor(A, 12), Placed(10, Gap("reset", 11, 12)), id="above the end of an ended epoch"),
        pytest.param(OPEN, Cursor(C, 31), Placed(4, Gap("future")), id="above the head of an epoch that is open"),
        pytest.param(CLOSED, Cursor(C, 31), Placed(30, Gap("reset", 31, 31)), id="above the head after a start"),
        pytest.param(CLOSED, Cursor(C, 30), Placed(30), id="at the head after a start"),
        pytest.param(OPEN, Cursor("zzzzzzzzzzzz", 3), Placed(4, Gap("reset")), id="an unknown epoch"),
        pytest.param(OPEN, None, Placed(4, Gap("reset")), id="an id of another bucket"),
    ],
)
def test_place_cursor(bounds: Bounds, cursor: Cursor | None, placed: Placed) -> None:
    """Each rule of the lineage, once."""
    assert place_cursor(bounds, cursor) == placed


@pytest.mark.parametrize(
    ("seq", "lost", "gap"),
    [
        pytest.param(2, CursorLost(5), Gap("retention", 3, 4), id="below the first event"),
        pytest.param(4, CursorLost(8), Gap("reset", 5, 7), id="the first event itself is damaged"),
        pytest.param(20, CursorLost(23), Gap("reset", 21, 22), id="within the log"),
        pytest.param(20, CursorLost(23, "ephemeral"), Gap("ephemeral", 21, 22), id="content that has left"),
        pytest.param(30, CursorLost(30), Gap("reset"), id="the log has gone back"),
    ],
)
def test_a_gap_behind_a_reader(seq: int, lost: CursorLost, gap: Gap) -> None:
    """What is missing before where reading goes on, and why."""
    assert gap_behind(OPEN, seq, lost) == gap


def test_a_gap_behind_some_copies_of_an_event_begins_with_it() -> None:
    """Its other copies are missing, too; before the first event there are none."""
    assert gap_within(Cursor(C, 25, 2), Gap("reset", 26, 28)) == Gap("reset", 25, 28)
    assert gap_within(Cursor(C, 25, 2), Gap("reset", 27, 28)) == Gap("reset", 27, 28)
    assert gap_within(Cursor(A, 0, 2), Gap("retention", 1, 4)) == Gap("retention", 1, 4)


@pytest.mark.parametrize(
    ("id", "held"),
    [(Cursor(A, 4), False), (Cursor(A, 5), True), (Cursor(B, 5), False), (Cursor(C, 30), True), (Cursor(C, 31), False)],
)
def test_a_log_holds_what_it_keeps_under_the_ids_that_it_gave(id: Cursor, held: bool) -> None:
    """Not what has left, nor an event that is kept by an id of another epoch."""
    assert holds(OPEN, id) is held


def test_what_a_log_never_held_is_no_gap() -> None:
    """Where it began beyond seq 1, a gap begins there at the earliest."""
    bounds = Bounds(first=15, head=30, epochs=LINE[1:], open=True)
    assert place_cursor(bounds, Cursor(B, 0)) == Placed(14, Gap("retention", 11, 14))
    assert gap_behind(bounds, 3, CursorLost(15)) == Gap("retention", 11, 14)
    fresh = replace(bounds, first=11)
    assert place_cursor(fresh, Cursor(B, 0)) == Placed(10)
    assert gap_behind(fresh, 3, CursorLost(11)) is None


def test_an_end_below_first_vouches_for_nothing() -> None:
    """Where the epoch ended below what is kept, nobody can say what is missing."""
    bounds = Bounds(first=15, head=30, epochs=LINE, open=True)
    assert place_cursor(bounds, Cursor(A, 12)) == Placed(14, Gap("reset"))


def test_an_empty_bucket_has_a_position() -> None:
    """`<epoch>-0` names the position in a bucket that has had no event, and is honoured."""
    bounds = Bounds(first=1, head=0, epochs=(Epoch(A, 1),), open=True)
    assert position_id(bounds, 0) == f"{A}-0"
    assert place_cursor(bounds, Cursor(A, 0)) == Placed(0)


@pytest.mark.parametrize(("seq", "epoch"), [(0, A), (1, A), (10, A), (11, B), (20, B), (21, C), (30, C)])
def test_a_position_is_named_by_the_epoch_of_its_seq(seq: int, epoch: str) -> None:
    """A position's id is that of the event it stands behind, and comes back to the same place."""
    assert position_id(Bounds(1, 30, LINE, True), seq) == f"{epoch}-{seq}"
    assert place_cursor(Bounds(1, 30, LINE, True), Cursor(epoch, seq)).after == seq


@pytest.mark.parametrize(
    ("bounds", "cursor", "placed"),
    [
        pytest.param(OPEN, Cursor(C, 30), Placed(30), id="at the head"),
        pytest.param(OPEN, Cursor(C, 25), Placed(30, Gap("ephemeral", 26, 30)), id="below the head"),
        pytest.param(OPEN, Cursor(C, 25, 2), Placed(30, Gap("ephemeral", 26, 30)), id="the id of a copy"),
        pytest.param(OPEN, Cursor(A, 1), Placed(30, Gap("ephemeral", 2, 30)), id="below first - 1"),
        pytest.param(OPEN, Cursor(A, 12), Placed(30, Gap("ephemeral", 11, 30)), id="above the end of an ended epoch"),
        pytest.param(CLOSED, Cursor(C, 31), Placed(30, Gap("reset", 31, 31)), id="above the head after a start"),
        pytest.param(OPEN, Cursor(C, 31), Placed(30, Gap("future")), id="above the head of an epoch that is open"),
        pytest.param(OPEN, Cursor("zzzzzzzzzzzz", 3), Placed(30, Gap("reset")), id="an unknown epoch"),
    ],
)
def test_place_cursor_in_an_ephemeral_bucket(bounds: Bounds, cursor: Cursor, placed: Placed) -> None:
    """Every position below the head means the head, and tells what lies between."""
    assert place_cursor(bounds, cursor, ephemeral=True) == placed
