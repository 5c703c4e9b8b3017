"""A set of whole numbers, kept as ascending ranges: small where they lie close together, as seqs do."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Iterating gives (first, last), both in it, in order, with a hole between any two. `len` counts the numbers.

    A change is one step on one list, so one for which there is no memory changes nothing.
    """

    __slots__ = ("_edges",)

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """The ranges may come in any order, and overlap."""
        self._edges: list[int] = []
        """In turn where a range begins, and the number behind its last one."""
        for first, last in sorted(ranges):
            if first > last:
                continue
            if self._edges and first <= self._edges[-1]:
                self._edges[-1] = max(self._edges[-1], last + 1)
            else:
                self._edges += (first, last + 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._edges[::2], [end - 1 for end in self._edges[1::2]], strict=True)

    def __len__(self) -> int:
        return sum(self._edges[1::2]) - sum(self._edges[::2])

    def __contains__(self, number: int) -> bool:
        return bisect_right(self._edges, number) % 2 == 1

    def add(self, number: int) -> None:
        """Adds a number; one that is in it changes nothing."""
        edges = self._edges
        at = bisect_right(edges, number)
        if at % 2:
            return
        joins_left = at > 0 and edges[at - 1] == number
        joins_right = at < len(edges) and edges[at] == number + 1
        if joins_left and joins_right:
            del edges[at - 1 : at + 1]
        elif joins_left:
            edges[at - 1] = number + 1
        elif joins_right:
            edges[at] = number
        else:
            edges[at:at] = (number, number + 1)

    def remove(self, number: int) -> None:
        """Takes a number out; one that is not in it changes nothing."""
        edges = self._edges
        at = bisect_right(edges, number)
        if at % 2 == 0:
            return
        first, end = edges[at - 1], edges[at]
        before = (first, number) if first < number else ()
        behind = (number + 1, end) if number + 1 < end else ()
        edges[at - 1 : at + 1] = before + behind

    def end(self, number: int) -> int:
        """The last number of the range that `number` lies in, `number - 1` where it lies in none."""
        at = bisect_right(self._edges, number)
        return self._edges[at] - 1 if at % 2 else number - 1

    def cut_below(self, first: int) -> None:
        """Takes out what lies below `first`."""
        at = bisect_right(self._edges, first)
        self._edges[:at] = (first,) if at % 2 else ()

    def cut_above(self, last: int) -> None:
        """Takes out what lies above `last`."""
        at = bisect_left(self._edges, last + 1)
        self._edges[at:] = (last + 1,) if at % 2 else ()

    def clear(self) -> None:
        """Takes out everything."""
        self._edges.clear()
