"""search/file.py: what counts as indexed is in the file, whatever leaves it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.search import file
from relay_tornado.search.file import Part, Row, Stretch
from relay_tornado.search.text import parse_query


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty file."""
    path = tmp_path / file.NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        file.prepare(raw, path)
        yield raw


def add(raw: sqlite3.Connection, segment: int, key: int, first: int, last: int, newest: float) -> None:
    rows = [Row(seq, f"needle {seq}") for seq in range(first, last + 1)]
    file.insert(raw, segment, key, Stretch(first, last, rows, newest), lambda: None)


def test_the_segment_that_is_dropped_has_nothing_new(raw: sqlite3.Connection) -> None:
    """Its newest event counts, not its oldest one."""
    assert file.oldest_segment(raw) is None
    one, other = (file.begin_segment(raw, False) for _ in range(2))
    for segment, key, newest in ((one, 1, 5.0), (one, 2, 100.0), (other, 1, 50.0)):
        add(raw, segment, key, 1, 1, newest)
    assert file.oldest_segment(raw) == other


def test_what_leaves_with_a_segment_is_not_taken_for_indexed(raw: sqlite3.Connection) -> None:
    """Nor are older events of the same bucket, as what is indexed is one stretch; other buckets' stay."""
    key = file.begin_bucket(raw, "a", "epoch", 1, 30)
    another = file.begin_bucket(raw, "b", "epoch", 1, 10)
    older, middle, newest = (file.begin_segment(raw, back) for back in (True, False, False))
    add(raw, older, key, 1, 10, 1.0)
    add(raw, older, another, 1, 10, 1.0)
    add(raw, middle, key, 11, 20, 2.0)
    add(raw, newest, key, 21, 30, 3.0)
    file.drop_segment(raw, middle)
    state = file.load(raw)
    assert {name: (place.low, place.high) for name, place in state.places.items()} == {"a": (21, 30), "b": (1, 10)}
    assert state.parts == {key: [Part(newest, 21, 30, 3.0)], another: [Part(older, 1, 10, 1.0)]}
    assert set(state.segments) == {older, newest}


def test_what_is_cut_off_is_not_found(raw: sqlite3.Connection) -> None:
    """A part that is outside altogether leaves its segment, and one with a limit in its middle is shortened."""
    key = file.begin_bucket(raw, "a", "epoch", 1, 30)
    segments = [file.begin_segment(raw, False) for _ in range(4)]
    for segment, first in zip(segments, (1, 11, 21, 31), strict=True):
        add(raw, segment, key, first, first + 9, 1.0)
    file.cut(raw, key, 15, 25)
    parts = file.load(raw).parts[key]
    assert [(part.first, part.last) for part in parts] == [(15, 20), (21, 25)]
    assert file.find(raw, parts, key, parse_query("needle").match(), 1, 40, 99) == list(range(25, 14, -1))
    assert file.empty_segments(raw) == [segments[0], segments[3]]


def test_the_text_of_a_segment_is_counted(raw: sqlite3.Connection) -> None:
    """Also over a restart: a full segment takes no more."""
    key = file.begin_bucket(raw, "a", "epoch", 1, 2)
    segment = file.begin_segment(raw, True)
    add(raw, segment, key, 2, 2, 7.0)
    add(raw, segment, key, 1, 1, 3.0)
    state = file.load(raw)
    assert state.segments == {segment: (2 * len("needle 1"), True)}
    assert state.parts == {key: [Part(segment, 1, 2, 7.0)]}


def test_a_bucket_that_is_gone_keeps_no_segment(raw: sqlite3.Connection) -> None:
    """What only it used is empty, and a bucket that begins anew has nothing of it."""
    file.begin_bucket(raw, "b", "epoch", 1, 1)
    key = file.begin_bucket(raw, "a", "epoch", 1, 9)
    segment = file.begin_segment(raw, False)
    add(raw, segment, key, 1, 9, 1.0)
    assert file.begin_bucket(raw, "a", "another", 1, 0) not in (key, 1)
    state = file.load(raw)
    assert (state.places["a"].epoch, state.parts, set(state.places)) == ("another", {}, {"a", "b"})
    assert file.empty_segments(raw) == [segment]


def test_memory_has_what_the_file_has(raw: sqlite3.Connection) -> None:
    """After each stretch, whichever way it grows: searches go by what memory has until the next start."""
    key = file.begin_bucket(raw, "a", "epoch", 1, 40)
    back, forth = file.begin_segment(raw, True), file.begin_segment(raw, False)
    state = file.load(raw)
    for segment, first, newest in (
        (forth, 31, 4.0),
        (back, 21, 2.0),
        (back, 11, 3.0),
        (forth, 41, 3.5),
        (back, 1, 1.0),
    ):
        add(raw, segment, key, first, first + 9, newest)
        state.add(key, segment, Stretch(first, first + 9, [], newest))
        assert state.parts == file.load(raw).parts
