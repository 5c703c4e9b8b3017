"""Sets of numbers as ranges, held against Python's own sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_tornado.ranges import Ranges

NUMBERS = st.integers(0, 40)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "cut_below", "cut_above", "clear"]), NUMBERS), max_size=60
)


def plain(ranges: Ranges) -> set[int]:
    found = list(ranges)
    assert all(first <= last for first, last in found)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found)), found
    return {number for first, last in found for number in range(first, last + 1)}


@given(st.lists(st.tuples(NUMBERS, NUMBERS)), CHANGES)
def test_they_are_sets(start: list[tuple[int, int]], changes: list[tuple[str, int]]) -> None:
    """Whatever is added, taken out and cut, they hold the same numbers as a set, in the fewest ranges."""
    ranges = Ranges(start)
    model = {number for first, last in start for number in range(first, last + 1)}
    for what, number in changes:
        if what == "add":
            ranges.add(number)
            model.add(number)
        elif what == "remove":
            ranges.remove(number)
            model.discard(number)
        elif what == "cut_below":
            ranges.cut_below(number)
            model = {each for each in model if each >= number}
        elif what == "cut_above":
            ranges.cut_above(number)
            model = {each for each in model if each <= number}
        else:
            ranges.clear()
            model.clear()
        assert plain(ranges) == model
        assert len(ranges) == len(model)
    for number in range(42):
        assert (number in ranges) == (number in model)
        end = number - 1
        while end + 1 in model:
            end += 1
        assert ranges.end(number) == end


def test_ranges_that_touch_are_one() -> None:
    """In whatever order they come, and one in another is no more."""
    ranges = Ranges([(4, 5), (1, 3), (9, 12), (8, 9), (10, 11), (14, 14), (3, 2)])
    assert list(ranges) == [(1, 5), (8, 12), (14, 14)]
    assert len(ranges) == 11


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("add", lambda model, number: model | {number}),
        ("remove", lambda model, number: model - {number}),
        ("cut_below", lambda model, number: {each for each in model if each >= number}),
        ("cut_above", lambda model, number: {each for each in model if each <= number}),
    ],
)
def test_every_change_of_every_small_set(what: str, changed: Callable[[set[int], int], set[int]]) -> None:
    """None by chance: each set of seven numbers, and each number in and around them."""
    for members in itertools.product((False, True), repeat=7):
        model = {number for number, member in enumerate(members, 1) if member}
        for number in range(9):
            ranges = Ranges((each, each) for each in model)
            getattr(ranges, what)(number)
            assert plain(ranges) == changed(model, number)
            assert len(ranges) == len(changed(model, number))
