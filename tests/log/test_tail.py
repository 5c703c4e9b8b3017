"""The tail: bounded over all logs, oldest out first, and one run up to the head in each."""

from __future__ import annotations

from collections.abc import Iterator

from relay_tornado.log.tail import EVENT_OVERHEAD, Recent, Tail
from relay_tornado.model import Event
from tests.log.worlds import stored


def test_the_oldest_leaves_first_whichever_log_it_is() -> None:
    """The budget counts content and overhead over all logs."""
    tail = Tail(4 * (100 + EVENT_OVERHEAD))
    a, b = Recent(), Recent()
    for recent, seq in ((a, 1), (b, 1), (a, 2), (b, 2)):
        tail.add(recent, [stored(seq)], 100)
    assert tail.used == 4 * (100 + EVENT_OVERHEAD)
    tail.add(b, [stored(3)], 100)
    assert (list(a.events), list(b.events)) == ([2], [1, 2, 3])
    tail.add(b, [stored(4, 3 * 100 + 2 * EVENT_OVERHEAD)], 3 * 100 + 2 * EVENT_OVERHEAD)
    assert (list(a.events), list(b.events)) == ([], [3, 4])
    tail.add(a, [stored(3, 10_000)], 10_000)
    assert (list(a.events), list(b.events), tail.used) == ([], [], 0)


def test_a_page_of_the_tail() -> None:
    """It begins right after the position, or there is none; limits hold, but one event always comes."""
    tail, recent = Tail(1 << 20), Recent()
    for seq in range(11, 21):
        tail.add(recent, [stored(seq)], 100)

    def seqs(after: int, limit: int, most: int) -> list[int] | None:
        page = recent.read(after, limit, most)
        return None if page is None else [event.seq for event in page]

    assert seqs(9, 5, 1000) is None
    assert seqs(20, 5, 1000) is None
    assert seqs(10, 3, 1000) == [11, 12, 13]
    assert seqs(17, 9, 1000) == [18, 19, 20]
    assert seqs(10, 9, 250) == [11, 12]
    assert seqs(10, 9, 1) == [11]


def test_what_was_trimmed_is_not_read() -> None:
    """A trim lets go of what lies below first at once, and the budget comes out right in the end."""
    tail, recent = Tail(10 * (100 + EVENT_OVERHEAD)), Recent()
    for seq in range(1, 6):
        tail.add(recent, [stored(seq)], 100)
    tail.trim(recent, 4)
    assert list(recent.events) == [4, 5]
    tail.trim(recent, 9)
    assert recent.read(3, 1, 1) is None
    for seq in range(6, 30):
        tail.add(recent, [stored(seq)], 100)
    assert list(recent.events) == list(range(20, 30))
    assert tail.used == 10 * (100 + EVENT_OVERHEAD)


class Looked(dict[int, Event]):
    """Counts how often somebody begins at its front."""

    looks = 0

    def __iter__(self) -> Iterator[int]:
        self.looks += 1
        return super().__iter__()


def test_a_trim_looks_at_the_front_once() -> None:
    """A look there goes over all that was deleted before: with one for each event a large trim holds the loop up."""
    tail, recent = Tail(1 << 20), Recent()
    recent.events = looked = Looked()
    tail.add(recent, [stored(seq) for seq in range(1, 101)], 100 * 100)
    for first in (40, 90, 101, 120):
        tail.trim(recent, first)
        assert sorted(looked.keys()) == list(range(first, 101))
    assert looked.looks == 4


def test_of_a_batch_that_is_too_large_the_newest_stay() -> None:
    """And nothing from before it, since there would be a hole between."""
    tail, recent, other = Tail(10 * (100 + EVENT_OVERHEAD)), Recent(), Recent()
    tail.add(recent, [stored(seq, 100) for seq in (1, 2)], 200)
    tail.add(other, [stored(7, 100)], 100)
    tail.add(recent, [stored(seq, 100) for seq in range(3, 30)], 27 * 100)
    assert list(recent.events) == list(range(20, 30))
    assert not other.events
    assert tail.used == 10 * (100 + EVENT_OVERHEAD)
    tail.add(recent, [stored(30, 100_000)], 100_000)
    assert not recent.events
    assert tail.used == 0
