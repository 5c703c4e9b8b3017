"""relay_tornado/patterns.py: compiled patterns are shared, and take a bounded memory."""

from __future__ import annotations

import random
import string

import pytest

from relay_tornado.errors import Invalid
from relay_tornado.model import KIB, MIB
from relay_tornado.patterns import Cost, Patterns


def test_equal_patterns_are_compiled_once() -> None:
    """A thousand subscribers with one filter share its pattern."""
    patterns = Patterns()
    first = patterns.get(b"shared by all")
    assert patterns.get(b"shared by all") is first
    assert patterns.memory == first.memory


def test_the_patterns_used_last_are_kept() -> None:
    """As many as fit; the others are compiled again when they are used."""
    patterns = Patterns(2 * MIB)
    kept, dropped = patterns.get(b"kept"), patterns.get(b"dropped")
    for number in range(31):
        patterns.get(b"%d" % number)
        patterns.get(b"kept")
        assert patterns.memory <= 2 * MIB
    assert patterns.get(b"kept") is kept
    again = patterns.get(b"dropped")
    assert again is not dropped
    assert again.search(b"was dropped", 0, 11) is not None


def test_a_large_pattern_is_kept_alone() -> None:
    """Even where there is no room for it: it is being used."""
    patterns = Patterns(200 * KIB)
    for small in (b"small", b"smaller", b"smallest"):
        patterns.get(small)
    large = patterns.get(rb"\pL")
    assert patterns.get(rb"\pL") is large
    assert patterns.memory == large.memory == 1 * MIB


def test_a_list_of_names_has_room_for_its_states() -> None:
    """With 64 KiB, a search for one of these would take 400 times as long."""
    names = random.Random(1)
    some = ["".join(names.choices(string.ascii_letters + string.digits, k=6)) for _ in range(70)]
    assert [Patterns().get("|".join(some[:count]).encode()).memory for count in (3, 20, 30, 70)] == [
        64 * KIB,
        256 * KIB,
        256 * KIB,
        1 * MIB,
    ]


@pytest.mark.parametrize(("repeats", "memory"), [(10, 64 * KIB), (60, 256 * KIB)])
def test_a_pattern_takes_no_more_than_its_memory(repeats: int, memory: int) -> None:
    """One that has a state for each of a thousand texts finds the same with little memory."""
    small = Patterns().get(b"[ab]*a[ab]{%d}c" % repeats)
    assert small.memory == small.search.__self__.options.max_mem == memory  # type: ignore[attr-defined]
    text = "".join(random.Random(1).choices("ab", k=20_000)).encode()
    assert small.search(text, 0, len(text)) is None
    assert small.search(text + b"a" + b"b" * repeats + b"c", 0, len(text) + repeats + 2) is not None


def test_a_document_pays_for_patterns_that_are_known_already() -> None:
    """Whether a document is allowed depends on nothing else."""
    for _ in range(2):
        cost = Cost()
        for number in range(7):
            cost.compile(b"[^a]{1000}x%d" % number, "here")
        with pytest.raises(Invalid, match=r"^here: all patterns together compile to over 60000"):
            cost.compile(b"[^a]{1000}x7", "here")
