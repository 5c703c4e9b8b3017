"""A set of integers, stored as ascending ranges: small if they are close together, as seqs are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Iterates over (first, last), inclusive, in order, with a hole between any two. `len` is the count of numbers.

    Each change is a single operation on a list, so if memory is short, it either happens or changes nothing.
    """

    __slots__ = ("_edges",)

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """`ranges` may be in any order, and overlap."""
        self._edges: list[int] = []
        """Alternately the first number of a range, and the number after its last one."""
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
        """Adds a number, if it is missing."""
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
        """Removes a number, if it is there."""
        edges = self._edges
        at = bisect_right(edges, number)
        if at % 2 == 0:
            return
        first, end = edges[at - 1], edges[at]
        before = (first, number) if first < number else ()
        behind = (number + 1, end) if number + 1 < end else ()
        edges[at - 1 : at + 1] = before + behind

    def end(self, number: int) -> int:
        """The last number of the range with `number`; `number - 1` if it is in none."""
        at = bisect_right(self._edges, number)
        return self._edges[at] - 1 if at % 2 else number - 1

    def cut_below(self, first: int) -> None:
        """Removes the numbers below `first`."""
        at = bisect_right(self._edges, first)
        self._edges[:at] = (first,) if at % 2 else ()

    def cut_above(self, last: int) -> None:
        """Removes the numbers above `last`."""
        at = bisect_left(self._edges, last + 1)
        self._edges[at:] = (last + 1,) if at % 2 else ()

    def clear(self) -> None:
        """Removes everything."""
        self._edges.clear()
